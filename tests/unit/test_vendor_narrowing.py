"""While a vendor's topics show more than its agreement says, the vendor may not read them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from bus.kafka import topics
from bus.kafka.sender import Sender
from bus.vendors import applied, revocation, vendor_access, written_editions
from bus.vendors.applied import Applied, fingerprint
from bus.vendors.narrowing import narrowed, narrows
from bus.vendors.scope import compile_scope
from bus.vendors.vendor_access import Grant
from tests.agreements import DAY, an_agreement
from tests.fakes.harness import Bus
from tests.unit.test_vendors_applied import an_applied

WIDE: dict[str, Any] = {
    "share": {"categories": ["Student Name", "Enrollment", "Schedule", "Attendance"]},
    "roles": ["teacher", "guardian"],
    "identifiers": "real",
    "history": date(2026, 1, 1),
}
SHARE = WIDE["share"]
YEAR = {"from": date(2027, 8, 1), "until": date(2028, 7, 31)}
LATER = datetime(2026, 11, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "less"),
    [
        ({}, False),
        ({"share": SHARE | {"without": ["student.givenName"]}}, True),
        ({"share": {"categories": SHARE["categories"][:3]}}, True),
        ({"roles": ["guardian"]}, True),
        ({"history": date(2026, 2, 1)}, True),
        ({"history": None}, True),
        ({"identifiers": "pseudonyms"}, True),
        ({"basis": "studies"}, True),
        ({"students": {"schools": ["s1"]}}, True),
        ({"students": {"classes": ["c1"]}}, True),
        ({"students": {"grades": ["06"]}}, False),
        ({"students": {"leave_after": 7}}, False),
        ({"purpose": "another"}, False),
        ({"until": date(2027, 1, 1)}, False),
    ],
)
def test_what_shows_less(changes: dict[str, Any], less: bool) -> None:
    before = compile_scope(an_agreement(**WIDE))
    after = compile_scope(an_agreement(**(WIDE | changes)))
    assert narrows(before, after) is less
    assert not narrows(after, before) or not less


def test_one_school_for_another_shows_less() -> None:
    one, both = ({"students": {"schools": names}} for names in (["s1"], ["s1", "s2"]))
    assert narrows(compile_scope(an_agreement(**both)), compile_scope(an_agreement(**one)))
    assert not narrows(compile_scope(an_agreement(**one)), compile_scope(an_agreement(**both)))


def test_history_counts_only_where_it_is_shared() -> None:
    later = date(2026, 9, 1)
    one, other = an_agreement(), an_agreement(history=later)
    assert not narrows(compile_scope(one), compile_scope(other))


def test_a_narrowed_agreement_has_an_edition_that_was_never_written() -> None:
    one = an_applied()
    first = replace(one, narrowed=True)
    again = replace(one, narrowed=True, applied_at=LATER)
    assert len({one.edition, first.edition, again.edition}) == 3
    assert applied.rekeys(replace(again, rekeyed=2).edition) == 2


def test_it_stays_narrowed_until_it_is_written() -> None:
    before = replace(an_applied(), narrowed=True)
    wider = an_applied(**WIDE)
    assert narrowed(wider, before, [], {}, DAY)
    assert not narrowed(wider, before, [], {"math-app": before.edition}, DAY)


def test_an_agreement_that_has_not_begun_shows_what_the_earlier_ones_of_its_chain_show() -> None:
    first = an_applied(**WIDE)
    narrow = replace(an_applied("two", renews="math-app", **YEAR), ids_name="math-app")
    same = replace(an_applied("two", renews="math-app", **(WIDE | YEAR)), ids_name="math-app")
    assert narrowed(narrow, None, [first, narrow], {}, DAY)
    assert narrowed(narrow, same, [first, narrow], {}, DAY)
    assert not narrowed(same, None, [first, same], {}, DAY)
    assert narrowed(same, None, [replace(first, narrowed=True), same], {}, DAY)
    # It has begun, so its own topics count.
    begun = same.agreement.from_
    assert not narrowed(narrow, narrow, [first, narrow], {}, begun)
    assert narrowed(narrow, same, [first, narrow], {}, begun)
    # Nothing is in the topics of an agreement that begins the chain.
    assert not narrowed(an_applied(**YEAR), same, [an_applied("other", **WIDE)], {}, DAY)


# ---- grants ----------------------------------------------------------------------------------


class Managed:
    """A bus with users that Schoolbus manages, and the grants that vendors get."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bus = Bus(monkeypatch)
        self.settings = self.bus.settings
        self.given: list[Grant] = []
        self.meanwhile: list[Applied] = []
        monkeypatch.setattr(applied, "today", lambda: DAY)
        monkeypatch.setattr(vendor_access, "protected", lambda _: True)
        monkeypatch.setattr(vendor_access, "restrict", self.restrict)

    def restrict(self, _: Any, grant: Grant) -> None:
        self.given.append(grant)
        if self.meanwhile:
            applied.write(self.settings, self.meanwhile.pop())

    def grants(self, *running: Applied, day: date = DAY) -> list[bool]:
        return [one.closed for one in revocation.grants(self.settings, running, day)]

    def correct(self) -> list[bool]:
        self.given.clear()
        revocation.correct_access(self.settings, "math-app")
        return [one.closed for one in self.given]


@pytest.fixture
def managed(monkeypatch: pytest.MonkeyPatch) -> Managed:
    return Managed(monkeypatch)


NARROWED = replace(an_applied(), narrowed=True)


def test_the_access_is_closed_until_the_edition_is_written(managed: Managed) -> None:
    applied.write(managed.settings, NARROWED)
    assert managed.grants(NARROWED) == [True]
    assert managed.grants(an_applied()) == [False]
    written_editions.note(managed.settings, "math-app", an_applied().edition)
    assert managed.grants(NARROWED) == [True], "the content was written, but not since the change"
    written_editions.note(managed.settings, "math-app", NARROWED.edition)
    assert managed.grants(NARROWED) == [False]
    (grant,) = revocation.grants(managed.settings, [replace(NARROWED, applied_at=LATER)], DAY)
    assert grant.closed and grant.topics


def test_a_renewal_closes_the_access_when_it_begins(managed: Managed) -> None:
    renewal = replace(an_applied("two", renews="math-app", **YEAR), ids_name="math-app")
    renewal = replace(renewal, narrowed=True)
    assert managed.grants(an_applied(), renewal) == [False]
    assert managed.grants(renewal, day=renewal.agreement.from_) == [True]


def test_access_is_corrected_until_nothing_changes_meanwhile(managed: Managed) -> None:
    applied.write(managed.settings, an_applied())
    assert managed.correct() == [False]
    managed.meanwhile = [NARROWED]
    assert managed.correct() == [False, True]


@pytest.mark.parametrize("state", ["ended", "revoked", "past"])
def test_an_agreement_that_is_over_is_never_opened(
    managed: Managed, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = NARROWED
    if state == "past":
        monkeypatch.setattr(applied, "today", lambda: one.agreement.until + timedelta(days=1))
    else:
        one = replace(NARROWED, state=state, ended_at=LATER)
    applied.write(managed.settings, one)
    written_editions.note(managed.settings, "math-app", one.edition)
    assert managed.correct() == []


def test_without_users_nothing_is_corrected(
    managed: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied.write(managed.settings, an_applied())
    monkeypatch.setattr(vendor_access, "protected", lambda _: False)
    assert managed.correct() == []


def test_it_is_stored_and_an_earlier_version_did_not_store_it(managed: Managed) -> None:
    applied.write(managed.settings, NARROWED)
    assert applied.read(managed.settings) == {"math-app": NARROWED}
    old = applied._encode(an_applied()).replace(b', "narrowed": false', b"")
    assert b"narrowed" not in old
    sender = Sender(managed.settings, topics.vendors(managed.settings), "test")
    sender.add(old, b"math-app")
    sender.flush()
    assert applied.read(managed.settings) == {"math-app": an_applied()}
    assert an_applied().edition == fingerprint(an_agreement())
