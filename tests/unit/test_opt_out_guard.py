"""Opt-outs that disappear in numbers are noticed."""

from __future__ import annotations

import pytest

from bus.standard.kinds import Record
from bus.vendors.opt_out_guard import opt_outs_vanish
from bus.vendors.record_rules import Change


def ended(number: int, *, erased: bool = False) -> list[Change]:
    """Return the changes of opt-outs that end."""
    before: Record = {"status": "active"}
    after = None if erased else before | {"status": "tobedeleted"}
    return [Change("optOut", str(one), before, after) for one in range(number)]


@pytest.mark.parametrize(
    ("number", "active", "vanish"),
    [(5, 0, False), (6, 5, True), (6, 6, False), (100, 99, True), (100, 1_000, False)],
)
def test_more_than_five_and_more_than_half(number: int, active: int, vanish: bool) -> None:
    assert opt_outs_vanish(ended(number), lambda: active) is vanish
    assert opt_outs_vanish(ended(number, erased=True), lambda: active) is vanish


def test_new_ones_and_other_kinds_do_not_count() -> None:
    new = [Change("optOut", str(one), None, {"status": "active"}) for one in range(50)]
    others = [Change("student", one.id, one.before, one.after) for one in ended(50)]
    assert not opt_outs_vanish([*new, *others], lambda: 0)
