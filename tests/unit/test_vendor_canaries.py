"""No value reaches a vendor that its agreement does not share.

Every text of the district is a canary: it names the kind, the record and the field from which it
comes. After each change, each canary in the bytes that would be sent must be of a shared field of a
record that the vendor may see at that moment, as a checker computes it from the agreement and the
district alone (`tests/vendor_checker.py`).

Several vendors see one district at once. Their agreements change, and their guards hold students
back until a person allows it. No id that one of them receives is known to another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import date
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.registry.codec import Encoder
from bus.standard.kinds import KINDS, Record
from bus.vendors import record_rules, scope
from bus.vendors.agreement import Agreement
from bus.vendors.projected import Outcome
from bus.vendors.projection import Projection
from bus.vendors.pseudonyms import Pseudonyms
from bus.vendors.scope import Columns, Scope, compile_scope
from bus.vendors.vendor_schema import vendor_schema
from tests.unit.test_vendor_projection import (
    CHANGE,
    DAY,
    DEALS,
    SOME,
    World,
    agreement,
    opt_out,
    record,
)

CANARY = re.compile(rb"~(\w+)/([\w-]+)/(\w+)~")
KEY = bytes(range(64))
NO_TEXT = {"sourcedId", "status", "vendor", "purpose"}
Row = tuple[str, str, Record | None]


def text_fields(kind: str) -> list[str]:
    """Return the fields of a kind that hold a text and no id of a record."""
    about = KINDS[kind]
    return [
        field["name"]
        for field in about.schema["fields"]
        if field["type"] in ("string", ["null", "string"])
        and field["name"] not in about.references
        and field["name"] not in NO_TEXT
    ]


def with_canaries(row: Row) -> Row:
    """Return a change whose texts are canaries."""
    kind, id_, found = row
    if found is None:
        return row
    return kind, id_, found | {name: f"~{kind}/{id_}/{name}~" for name in text_fields(kind)}


class Watched:
    """A district with canaries, one vendor, and the bytes that the vendor received.

    key: the key of the vendor's ids.
    """

    def __init__(self, deal: Agreement, key: bytes = KEY) -> None:
        self.world = World(deal)
        self.vendor_id = Pseudonyms(key).pseudonym
        self.compile()
        self.change([("org", "d", record("org", "d"))])
        self.change([(kind, id_, record(kind, id_, **values)) for kind, id_, values in SOME])

    def compile(self) -> None:
        """Begin with empty topics. What the vendor had before is deleted."""
        self.scope = compile_scope(self.world.deal)
        self.encoders = {
            kind: Encoder(kind, 1, vendor_schema(self.scope, kind, "math"))
            for kind in self.scope.kinds
        }
        self.has: set[bytes] = set()
        self.ids: set[str] = set()
        self.kept: set[tuple[str, str]] = set()
        self.world.projection = Projection(
            self.scope, self.world.view, self.vendor_id, self.world.above
        )

    def write_again(self) -> None:
        """Write the topics whole, as `bus vendors run` does after a change of the agreement."""
        self.world.projection.forget()
        self.world.above = record_rules.orgs_above(self.world.view, self.world.deal)
        self.compile()
        self.look(self.world.projection.look_at(self.world.view.students_after(None, 99), DAY))

    def agree(self, deal: Agreement) -> None:
        """Apply another agreement."""
        self.world.deal = deal
        self.write_again()

    def change(self, rows: list[Row], budget: int | None = None) -> None:
        """Change the district, and search every byte that is sent because of it.

        budget: how many students the guard lets enter or leave; None: any number.
        """
        visible = self.visible()
        kept = visible | self.named_by(visible)
        outcome = self.world.change(*map(with_canaries, rows), budget=budget)
        if outcome.held:  # of these students, the vendor keeps what it has, and what this names
            self.kept |= kept
        self.look(outcome)
        # As in `bus vendors run`, the organizations above the selected schools are written too.
        if record_rules.orgs_above(self.world.view, self.world.deal) != self.world.above:
            self.write_again()

    def allow(self) -> None:
        """Let the students enter and leave whom the guard held back."""
        self.kept = set()
        students = self.world.view.students_after(None, 99)
        self.look(self.world.projection.look_at(students, DAY, release=True))

    def named_by(self, keys: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return the keys to which these records refer, also of records that do not exist now."""
        named = set()
        for kind, id_ in keys:
            record = self.world.district.records[kind, id_]
            for field, kinds in KINDS[kind].references.items():
                value = record[field]
                ids = value if isinstance(value, list) else [value]
                named |= {(other, one) for other in kinds for one in ids if one is not None}
        return named

    def visible(self) -> set[tuple[str, str]]:
        """Return the keys of the records that the vendor may see now."""
        return self.world.district.visible(self.world.deal, DAY)

    def look(self, outcome: Outcome) -> None:
        visible = self.visible() | self.kept
        self.ids |= {self.vendor_id(one.id) for one in outcome.sent}
        for one in outcome.sent:
            if one.record is None:
                continue
            assert (one.kind, one.id) in visible, "a record out of scope was sent"
            data = self.encoders[one.kind].encode(one.record)
            self.has.add(data)
            for kind, id_, field in CANARY.findall(data):
                assert (kind.decode(), id_.decode()) == (one.kind, one.id)
                assert field.decode() in self.scope.kinds[one.kind].fields
            for name in ("sourcedId", *self.scope.kinds[one.kind].references):
                value = one.record[name]
                for id_ in value if isinstance(value, list) else [value]:
                    assert id_ is None or len(id_) > 40, "a real id was sent"
                    self.ids |= {id_} - {None}


@settings(deadline=None)
@given(DEALS, st.lists(st.lists(CHANGE, min_size=1, max_size=6), min_size=1, max_size=5))
def test_no_canary_leaves_its_scope(deal: Agreement, batches: list[list[Row]]) -> None:
    watched = Watched(deal)
    for batch in batches:
        watched.change(batch)


STEP = st.one_of(
    st.tuples(st.just("change"), st.lists(CHANGE, min_size=1, max_size=6)),
    st.tuples(st.just("change"), st.lists(CHANGE, min_size=1, max_size=6)),
    st.tuples(st.just("hold"), st.lists(CHANGE, min_size=1, max_size=6)),
    st.tuples(st.just("allow"), st.none()),
    st.tuples(st.just("agree"), DEALS),
)
"""The kinds of steps: a change, a change that a guard may hold back, its end, an agreement."""


@settings(deadline=None)
@given(
    st.lists(DEALS, min_size=2, max_size=3),
    st.lists(st.tuples(STEP, st.integers(0, 2)), min_size=1, max_size=8),
)
def test_no_two_vendors_share_what_not_both_agreed(
    deals: list[Agreement], steps: list[tuple[tuple[str, Any], int]]
) -> None:
    several(deals, steps)


def several(deals: list[Agreement], steps: list[tuple[tuple[str, Any], int]]) -> list[Watched]:
    """Change a district with several vendors at random, and compare what any two of them have.

    steps: each with the number of the vendor that it is about, if it is about one.
    """
    vendors = [Watched(deal, bytes([number] * 64)) for number, deal in enumerate(deals)]
    for (what, how), number in steps:
        one = vendors[number % len(vendors)]
        if what == "agree":
            one.agree(how)
        elif what == "allow":
            one.allow()
        else:
            for vendor in vendors:
                vendor.change(how, 0 if what == "hold" and vendor is one else None)
        for one, other in combinations(vendors, 2):
            assert one.ids.isdisjoint(other.ids), "two vendors have the same id"
            for kind, _, field in canaries_of(one) & canaries_of(other):
                assert field in one.scope.kinds[kind].fields
                assert field in other.scope.kinds[kind].fields
    return vendors


def canaries_of(vendor: Watched) -> set[tuple[str, str, str]]:
    """Return the canaries that a vendor has: kind, id and field."""
    found = {one for data in vendor.has for one in CANARY.findall(data)}
    return {(kind.decode(), id_.decode(), field.decode()) for kind, id_, field in found}


def test_a_school_that_a_held_student_names_comes_again_when_the_district_has_it_again() -> None:
    watched = Watched(agreement(students={"classes": ["c1"], "leave_after": 0}))
    school = watched.world.district.records["org", "s1"]
    watched.change([("org", "s1", None)])
    watched.change([("enrollment", "e1", None)], 0)
    assert watched.kept
    watched.change([("org", "s1", school)])
    assert ("org", "s1") in watched.world.vendor.has
    assert ("org", "s1") not in watched.visible(), "only because the student is held"


def test_a_vendor_keeps_a_held_student_until_a_person_allows_the_change() -> None:
    watched = Watched(agreement(students={"schools": ["s1"], "leave_after": 0}))
    again = watched.world.district.records["student", "a"] | {"orgSourcedIds": ["s2"]}
    watched.change([("student", "a", again)], 0)
    assert watched.kept
    assert ("student", "a") in watched.world.vendor.has
    watched.allow()
    assert ("student", "a") not in watched.visible()


def test_a_schema_says_nothing_about_what_is_not_shared() -> None:
    narrow = compile_scope(agreement(share={"categories": ["Enrollment"]}))
    schema = vendor_schema(narrow, "student", "math")
    assert [field["name"] for field in schema["fields"]] == list(narrow.kinds["student"].fields)
    assert not any(name in str(schema) for name in ("givenName", "birthDate", "agentSourcedIds"))


# ---- the search finds a leak ---------------------------------------------------------------------


def a_field_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The projection copies a field that is not shared into one that is."""
    original = Scope.project

    def leaking(self: Scope, kind: str, found: Sequence[Record], *more: Any) -> Columns:
        seen = original(self, kind, found, *more)
        emails = [one.get("email") for one in found]
        return seen | {"givenName": emails} if kind == "student" else seen

    monkeypatch.setattr(Scope, "project", leaking)


def opt_outs_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "keeps_out", lambda *_: False)


def places_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "admits_place", lambda *_: True)


def history_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "admits_date", lambda *_: True)


def real_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pseudonyms, "pseudonym", lambda _, real: real)


def grades_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    original = scope.Scope.selects

    def all_grades(self: Scope, student: Record, classes: Any = ()) -> bool:
        return original(self, student | {"grades": list(self._grades)}, classes)

    monkeypatch.setattr(Scope, "selects", all_grades)


def one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """All vendors' ids are made with the same key."""
    original = Pseudonyms.__init__
    monkeypatch.setattr(Pseudonyms, "__init__", lambda self, _: original(self, KEY))


def not_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The topics are written whole with all fields that exist, not with those of the agreement."""
    original = Scope.project
    wide = compile_scope(agreement(identifiers="pseudonyms"))

    def projected(self: Scope, kind: str, found: Sequence[Record], *more: Any) -> Columns:
        return original(self, kind, found, *more) | (
            {"primaryOrgSourcedId": [one["givenName"] for one in found]}
            if kind == "student" and len(self.kinds[kind].fields) < len(wide.kinds[kind].fields)
            else {}
        )

    monkeypatch.setattr(Scope, "project", projected)


@pytest.mark.parametrize("defect", [None, one_key, not_narrowed])
def test_several_vendors_find_a_defect(
    defect: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if defect is not None:
        defect(monkeypatch)
    narrow = agreement(share={"categories": ["Enrollment"]}, roles=[])
    steps = [(("agree", narrow), 0), (("hold", [("student", "a", None)]), 1), (("allow", None), 1)]
    with pytest.raises(AssertionError) if defect else nullcontext():
        several([agreement(), agreement()], steps)


@pytest.mark.parametrize(
    "defect",
    [
        None,
        a_field_too_many,
        opt_outs_ignored,
        places_ignored,
        history_ignored,
        real_ids,
        grades_ignored,
    ],
)
def test_the_search_finds_a_defect(
    defect: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a defect it finds nothing."""
    if defect is not None:
        defect(monkeypatch)
    old = record(
        "attendance",
        "at1",
        studentSourcedId="a",
        schoolSourcedId="s1",
        eventDate=date(2026, 7, 1),
    )
    with pytest.raises(AssertionError) if defect else nullcontext():
        for students in ({"schools": ["s1"]}, {"grades": ["06"]}):
            watched = Watched(agreement(students=students))
            watched.change([("attendance", "at1", old)])
            watched.change([("optOut", "o-a", opt_out("a"))])
            again = watched.world.district.records["student", "a"] | {"grades": ["06", "07"]}
            watched.change([("student", "a", again)])
