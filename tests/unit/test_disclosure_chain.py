"""`verify` finds every change of the hash chain of the record of disclosures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.vendors.disclosed_students import DisclosedStudents, commitment, new_row
from bus.vendors.disclosure_chain import (
    ChainHead,
    canonical,
    decoded,
    head_of,
    linked,
    moment_text,
    verify,
)

AT = "2026-11-28T03:00:00.000+00:00"


def chain(length: int, start: int = 0) -> tuple[list[bytes], ChainHead]:
    """Return a chain of entries, and its head. `start` makes chains differ."""
    head, values = ChainHead(), []
    for number in range(length):
        content = {"what": "left", "at": AT, "agreement": "a", "students": [str(number + start)]}
        value, head = linked(content, head)
        values.append(value)
    return values, head


def codes(values: Sequence[bytes | None], head: ChainHead | None = None) -> list[tuple[int, str]]:
    return [(one.number, one.code) for one in verify(values, head)]


def test_a_whole_chain_has_no_problem() -> None:
    values, head = chain(5)
    assert verify(values) == [] == verify(values, head)
    assert verify([]) == [] == verify([], ChainHead())
    assert head.number == 5
    assert head_of(values[-1]) == head


def test_an_older_head_is_enough_for_what_came_before_it() -> None:
    values, _ = chain(5)
    old = head_of(values[2])
    assert verify(values, old) == []
    assert verify(values[:2], old) != []


def test_each_problem_has_its_code() -> None:
    values, head = chain(5)
    other, other_head = chain(5, start=100)
    assert codes([*values[:2], other[2], *values[3:]], head) == [(3, "changed"), (4, "changed")]
    assert codes([values[0], *values[2:]], head) == [(2, "missing")]
    assert codes([values[0], *values[3:]], head) == [(2, "missing")]
    assert (2, "added") in codes([*values[:2], values[1], *values[2:]], head)
    assert codes([*values[:3], values[4], values[3]], head) == [(4, "missing"), (4, "order")]
    assert codes([*values[:2], b"{}", *values[2:]], head) == [(3, "unreadable")]
    assert codes([*values[:2], None, *values[2:]], head) == [(3, "unreadable")]
    assert codes(values[:3], head) == [(5, "short")]
    assert codes([*values[:4], other[4]], head) == [(5, "changed"), (5, "head")]
    assert codes(other, head) == [(5, "head")]
    assert codes(values, ChainHead(0, "1" * 64)) == [(0, "head")]
    assert codes(other, other_head) == []


@st.composite
def damaged(draw: st.DrawFn) -> tuple[list[bytes], list[bytes | None], ChainHead]:
    """Return a chain, the same after one to three changes, and the chain's head."""
    values, head = chain(draw(st.integers(1, 8)))
    other, _ = chain(9, start=draw(st.integers(1, 3)))
    result: list[bytes | None] = list(values)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(result) - 1)))
        what = draw(st.sampled_from(["change", "byte", "remove", "insert", "swap", "cut", "again"]))
        if what == "insert" or not result:
            result.insert(place, draw(st.sampled_from([*other, *values, b"", None])))
        elif what == "change":
            result[place] = draw(st.sampled_from(other))
        elif what == "byte" and (value := result[place]):
            spot = draw(st.integers(0, len(value) - 1))
            changed = bytes([value[spot] ^ draw(st.integers(1, 255))])
            result[place] = value[:spot] + changed + value[spot + 1 :]
        elif what == "remove":
            del result[place]
        elif what == "swap":
            second = draw(st.integers(0, len(result) - 1))
            result[place], result[second] = result[second], result[place]
        elif what == "cut":
            del result[place:]
        elif what == "again":
            result.insert(place, result[place])
    return values, result, head


@settings(deadline=None)
@given(damaged())
def test_every_change_is_found(case: tuple[list[bytes], list[bytes | None], ChainHead]) -> None:
    values, result, head = case
    assert (verify(result, head) == []) == (result == values)


@settings(deadline=None)
@given(damaged())
def test_without_a_head_each_reported_problem_is_real(
    case: tuple[list[bytes], list[bytes | None], ChainHead],
) -> None:
    """Without a head, two changes are not found: of the end, and of the whole chain."""
    values, result, _ = case
    if verify(result) == []:
        assert not result or result[:-1] == values[: len(result) - 1] or result[0] != values[0]


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"[]",
        b"\xff",
        b'{"at":"x","number":1,"previous":"0","what":"left"} ',
        b'{"number":1,"at":"x","previous":"0","what":"left"}',
        b'{"at":"x","number":true,"previous":"0","what":"left"}',
        b'{"at":"x","number":1,"number":1,"previous":"0","what":"left"}',
        b'{"at":"\\ud800","number":1,"previous":"0","what":"left"}',
        b"[" * 100_000,
    ],
)
def test_only_the_canonical_form_is_an_entry(value: bytes | None) -> None:
    assert decoded(value) is None
    assert head_of(value) is None


def test_the_canonical_form_is_read_again() -> None:
    entry = {"what": "ended", "at": AT, "number": 1, "previous": "0", "why": "año"}
    assert decoded(canonical(entry)) == entry
    assert canonical(entry).startswith(b'{"at":"2026')


def test_times_are_in_utc_and_need_a_zone() -> None:
    assert moment_text(datetime(2026, 11, 28, 3, tzinfo=UTC)) == AT
    with pytest.raises(ValueError, match="time zone"):
        moment_text(datetime(2026, 11, 28, 3))


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab", min_size=1, max_size=2), max_size=12), st.data())
def test_nobody_can_find_an_erased_student(ids: list[str], data: st.DataObject) -> None:
    rows = [new_row(one) for one in dict.fromkeys(ids)]
    table = DisclosedStudents(rows)
    named = {one: table.commitments(one) for one in ids}
    assert all(len(found) == 1 for found in named.values())
    assert table.by_commitment() == {found[0]: one for one, found in named.items()}
    erased = data.draw(st.sets(st.sampled_from(ids))) if ids else set()
    graves = [row for one in erased for row in table.tombstones(one)]
    after = DisclosedStudents([*rows, *graves])
    assert {one for one in ids if one in after} == set(ids) - erased
    assert all(after.commitments(one) == [] for one in erased)
    assert set(after.by_commitment().values()) == set(ids) - erased
    for key, value in graves:  # the tombstone says nothing about the student
        assert value is None
        assert len(bytes.fromhex(key.decode())) == 16


def test_a_commitment_is_not_a_plain_hash_and_differs_for_each_salt() -> None:
    first, second = DisclosedStudents([new_row("s1")]), DisclosedStudents([new_row("s1")])
    assert first.commitments("s1") != second.commitments("s1")
    assert commitment(b"", "s1") not in first.commitments("s1")


def test_a_message_that_is_not_a_row_of_the_table_is_ignored() -> None:
    key, value = new_row("s1")
    table = DisclosedStudents([(b"x", value), (key, b"no"), (key, b"[]"), (key, b"{}")])
    assert len(table) == 0
    table.take(key, value)
    table.take(key, value)  # read twice
    assert len(table.commitments("s1")) == len(table) == 1
    table.take(key, json.dumps({"id": "s2", "salt": "00" * 32}).encode())
    assert "s1" not in table
    assert "s2" in table
