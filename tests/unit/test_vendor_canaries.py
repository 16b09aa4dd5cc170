"""No value reaches a vendor that its agreement does not share.

Every text of the district is a canary: it names the kind, the record and the field from which it
comes. After each change, each canary in the bytes that would be sent must be of a shared field of a
record that the vendor may see at that moment, as a checker computes it from the agreement and the
district alone (`tests/vendor_checker.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.registry.codec import Encoder
from bus.standard.kinds import KINDS, Record
from bus.vendors import record_rules, scope
from bus.vendors.agreement import Agreement
from bus.vendors.projection import Outcome, Projection
from bus.vendors.pseudonyms import Pseudonyms
from bus.vendors.scope import Scope, compile_scope
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
    """A district with canaries, one vendor, and the bytes that it was sent."""

    def __init__(self, deal: Agreement) -> None:
        self.world = World(deal)
        self.scope = compile_scope(deal)
        self.encoders = {
            kind: Encoder(kind, 1, vendor_schema(self.scope, kind, "math"))
            for kind in self.scope.kinds
        }
        self.vendor_id = Pseudonyms(KEY).pseudonym
        self.world.projection = Projection(
            self.scope, self.world.view, self.vendor_id, self.world.above
        )
        self.change([("org", "d", record("org", "d"))])
        self.change([(kind, id_, record(kind, id_, **values)) for kind, id_, values in SOME])

    def change(self, rows: list[Row]) -> None:
        """Change the district, and look at every byte that follows from it."""
        outcome = self.world.change(*map(with_canaries, rows))
        self.look(outcome)
        # As `bus vendors run`: what is above the selected schools is part of what is written.
        if record_rules.orgs_above(self.world.view, self.world.deal) != self.world.above:
            self.world.above = record_rules.orgs_above(self.world.view, self.world.deal)
            self.world.projection.forget()
            self.world.projection = Projection(
                self.scope, self.world.view, self.vendor_id, self.world.above
            )
            self.look(self.world.projection.look_at(self.world.view.students_after(None, 99), DAY))

    def look(self, outcome: Outcome) -> None:
        visible = self.world.district.visible(self.world.deal, DAY)
        for one in outcome.sent:
            if one.record is None:
                continue
            assert (one.kind, one.id) in visible, "a record out of scope was sent"
            data = self.encoders[one.kind].encode(one.record)
            for kind, id_, field in CANARY.findall(data):
                assert (kind.decode(), id_.decode()) == (one.kind, one.id)
                assert field.decode() in self.scope.kinds[one.kind].fields
            for name in ("sourcedId", *self.scope.kinds[one.kind].references):
                value = one.record[name]
                for id_ in value if isinstance(value, list) else [value]:
                    assert id_ is None or len(id_) > 40, "a real id was sent"


@settings(deadline=None)
@given(DEALS, st.lists(st.lists(CHANGE, min_size=1, max_size=6), min_size=1, max_size=5))
def test_no_canary_leaves_its_scope(deal: Agreement, batches: list[list[Row]]) -> None:
    watched = Watched(deal)
    for batch in batches:
        watched.change(batch)


def test_a_schema_says_nothing_about_what_is_not_shared() -> None:
    narrow = compile_scope(agreement(share={"categories": ["Enrollment"]}))
    schema = vendor_schema(narrow, "student", "math")
    assert [field["name"] for field in schema["fields"]] == list(narrow.kinds["student"].fields)
    assert not any(name in str(schema) for name in ("givenName", "birthDate", "agentSourcedIds"))


# ---- the search finds a leak ---------------------------------------------------------------------


def a_field_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The projection copies a field that is not shared into one that is."""
    original = Scope.project

    def leaking(self: Scope, kind: str, found: Record, *more: Any) -> Record:
        seen = original(self, kind, found, *more)
        return seen | {"givenName": found["email"]} if kind == "student" else seen

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


@pytest.mark.parametrize(
    "defect",
    [a_field_too_many, opt_outs_ignored, places_ignored, history_ignored, real_ids, grades_ignored],
)
def test_the_search_finds_a_defect(
    defect: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    old = record(
        "attendance",
        "at1",
        studentSourcedId="a",
        schoolSourcedId="s1",
        eventDate=date(2026, 7, 1),
    )
    with pytest.raises(AssertionError):
        for students in ({"schools": ["s1"]}, {"grades": ["06"]}):
            watched = Watched(agreement(students=students))
            watched.change([("attendance", "at1", old)])
            watched.change([("optOut", "o-a", opt_out("a"))])
            again = watched.world.district.records["student", "a"] | {"grades": ["06", "07"]}
            watched.change([("student", "a", again)])
