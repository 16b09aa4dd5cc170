"""The answers of the record of disclosures equal those of a model that simulates each step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bus.vendors.disclosed_students import DisclosedStudents, new_row
from bus.vendors.disclosure_chain import ChainHead, Entry, decoded, linked, moment_text, verify
from bus.vendors.disclosure_questions import (
    Disclosure,
    agreements_of,
    by_student,
    by_vendor,
    held,
    inside,
    periods_json,
)

START = datetime(2026, 9, 1, tzinfo=UTC)
STUDENTS = ("s1", "s2", "s3")
AGREEMENTS = {"a": "Acme", "b": "Acme", "c": "Other"}
RENEWS = {"b": "a"}
CATEGORIES = (("Student Name",), ("Student Name", "Grades"), ("Attendance",))

Step = tuple[str, str, Any]


def at(step: float) -> datetime:
    return START + timedelta(hours=step)


def scope(agreement: str, variant: int, **more: Any) -> dict[str, Any]:
    return {
        "what": "scope",
        "agreement": agreement,
        "vendor": AGREEMENTS[agreement],
        "purpose": "instruction",
        "basis": "school-official",
        "document": "ab" * 32,
        "categories": list(CATEGORIES[variant]),
        "fields": {"student": ["sourcedId", "status", f"f{variant}"]},
        "identifiers": "pseudonyms",
        "renews": RENEWS.get(agreement, ""),
        **more,
    }


class Record:
    """A record in memory: each entry is an hour after the one before."""

    def __init__(self) -> None:
        self.rows = [new_row(one) for one in STUDENTS]
        self.students = DisclosedStudents(self.rows)
        self.values: list[bytes | None] = []
        self.head = ChainHead()

    def add(self, content: dict[str, Any], when: datetime | None = None) -> None:
        moment = moment_text(when or at(len(self.values)))
        value, self.head = linked({**content, "at": moment}, self.head)
        self.values.append(value)

    def about(self, what: str, agreement: str, *students: str) -> None:
        named = [self.students.commitments(one)[0] for one in students]
        self.add({"what": what, "agreement": agreement, "students": named})

    @property
    def entries(self) -> list[Entry]:
        return [entry for value in self.values if (entry := decoded(value))]


def record(steps: Sequence[Step]) -> Record:
    found = Record()
    for what, agreement, detail in steps:
        if what == "scope":
            found.add(scope(agreement, detail))
        elif what in ("entered", "left"):
            found.about(what, agreement, *sorted(detail))
        else:
            found.add({"what": what, "agreement": agreement, "why": "", "by": "", "students": []})
    return found


class Model:
    """A plain simulation of what is disclosed and held after each step."""

    def __init__(self) -> None:
        self.variant: dict[str, int] = {}
        self.inside: dict[str, set[str]] = defaultdict(set)
        # by agreement and student: what was received, and whether the last of it is over
        self.received: dict[str, dict[str, list[set[int]]]] = defaultdict(dict)

    def step(self, what: str, agreement: str, detail: Any) -> None:
        if what == "scope":
            changed = self.variant.get(agreement) not in (None, detail)
            self.variant[agreement] = detail
            if changed:
                for one in self.inside[agreement]:
                    self.received[agreement].setdefault(one, []).append({detail})
        elif what == "entered":
            for one in detail - self.inside[agreement]:
                variant = self.variant[agreement]
                self.received[agreement].setdefault(one, []).append({variant})
            self.inside[agreement] |= detail
        elif what == "left":
            self.inside[agreement] -= detail
        elif what in ("ended", "revoked"):
            self.inside[agreement].clear()
        elif what == "attested":
            family = {agreement} | ({RENEWS[agreement]} if agreement in RENEWS else set())
            for one in family:
                self.received[one] = {
                    student: parts[-1:]
                    for student, parts in self.received[one].items()
                    if student in self.inside[one]
                }

    def disclosed(self) -> set[tuple[str, str, int]]:
        return {
            (student, agreement, self.variant[agreement])
            for agreement, students in self.inside.items()
            for student in students
        }

    def held(self, agreement: str) -> dict[str, tuple[set[str], bool]]:
        """Return the categories of each student, and whether the student still is in the cohort."""
        family = [agreement, *([RENEWS[agreement]] if agreement in RENEWS else [])]
        found: dict[str, tuple[set[str], bool]] = {}
        for one in family:
            for student, parts in self.received[one].items():
                names, now = found.get(student, (set(), False))
                names |= {name for part in parts for number in part for name in CATEGORIES[number]}
                found[student] = names, now or student in self.inside[one]
        return found


GROUPS = st.sets(st.sampled_from(STUDENTS), min_size=1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("scope"), st.sampled_from(sorted(AGREEMENTS)), st.integers(0, 2)),
        st.tuples(st.sampled_from(["entered"] * 2 + ["left"]), st.sampled_from("abc"), GROUPS),
        st.tuples(
            st.sampled_from(["ended", "revoked", "attested", "deleted", "rekeyed", "access"]),
            st.sampled_from("abc"),
            st.none(),
        ),
    ),
    max_size=24,
).map(lambda steps: [*(("scope", one, 0) for one in sorted(AGREEMENTS)), *steps])


def covering(found: Sequence[Disclosure], moment: datetime) -> list[tuple[str, str, int]]:
    return sorted(
        (one.student, one.agreement, CATEGORIES.index(one.categories))
        for one in found
        if one.from_ <= moment and (one.to is None or moment < one.to)
    )


@settings(deadline=None)
@given(STEPS)
def test_times_of_disclosure_equal_those_of_the_model(steps: list[Step]) -> None:
    kept = record(steps)
    entries, table = kept.entries, kept.students
    each = {one: by_student(entries, table, one) for one in STUDENTS}
    every = [disclosure for found in each.values() for disclosure in found]
    vendors = [*by_vendor(entries, table, "ACME"), *by_vendor(entries, table, "Other ")]
    assert sorted(map(repr, vendors)) == sorted(map(repr, every))
    model = Model()
    for number, step in enumerate(steps):
        model.step(*step)
        assert covering(every, at(number + 0.5)) == sorted(model.disclosed())
    for name in AGREEMENTS:
        assert inside(entries, table, name) == model.inside[name]
    for found in each.values():
        for one in found:
            assert one.fields == {
                "student": ("sourcedId", "status", f"f{CATEGORIES.index(one.categories)}")
            }
            assert (one.vendor, one.basis) == (AGREEMENTS[one.agreement], "school-official")
            # A time is split only where the scope changes.
            assert not any(
                other.agreement == one.agreement
                and other.from_ == one.to
                and other.categories == one.categories
                for other in found
            )


@settings(deadline=None)
@given(STEPS)
def test_held_data_equals_that_of_the_model(steps: list[Step]) -> None:
    kept = record(steps)
    model, entries = Model(), kept.entries
    for number, step in enumerate(steps):
        model.step(*step)
        for name in AGREEMENTS:
            found = held(entries, kept.students, name, at(number + 0.5))
            assert {one.student: (set(one.categories), one.to is None) for one in found} == (
                model.held(name)
            )
            assert len(found) == len({one.student for one in found})


@settings(deadline=None)
@given(STEPS, st.sets(st.sampled_from(STUDENTS)))
def test_an_erasure_removes_the_ids_and_nothing_else(steps: list[Step], erased: set[str]) -> None:
    kept = record(steps)
    graves = [row for one in sorted(erased) for row in kept.students.tombstones(one)]
    after = DisclosedStudents([*kept.rows, *graves])
    assert verify(kept.values, kept.head) == []
    for one in STUDENTS:
        assert by_student(kept.entries, after, one) == (
            [] if one in erased else by_student(kept.entries, kept.students, one)
        )
    for name in AGREEMENTS:
        before = held(kept.entries, kept.students, name, at(99))
        left = held(kept.entries, after, name, at(99))
        assert len(left) == len(before)
        assert {one.student for one in left} - {""} == {one.student for one in before} - erased


def test_entering_twice_is_one_interval_since_the_first() -> None:
    kept = record([("scope", "a", 0)])
    kept.about("entered", "a", "s1")
    kept.about("entered", "a", "s1")
    kept.about("left", "a", "s1")
    kept.about("left", "a", "s1")
    (found,) = by_student(kept.entries, kept.students, "s1")
    assert (found.from_, found.to) == (at(1), at(3))
    assert found.as_json() == {
        "student": "s1",
        "vendor": "Acme",
        "agreement": "a",
        "purpose": "instruction",
        "basis": "school-official",
        "document": "ab" * 32,
        "identifiers": "pseudonyms",
        "categories": ["Student Name"],
        "fields": {"student": ["sourcedId", "status", "f0"]},
        "from": "2026-09-01T01:00:00+00:00",
        "to": "2026-09-01T03:00:00+00:00",
    }


def test_a_clock_that_runs_behind_hides_no_disclosure() -> None:
    kept = record([("scope", "a", 0)])
    kept.about("entered", "a", "s1")
    kept.add({**scope("a", 1)}, when=at(-5))
    commitment = kept.students.commitments("s1")
    kept.add({"what": "left", "agreement": "a", "students": commitment}, when=at(-9))
    found = by_student(kept.entries, kept.students, "s1")
    assert [(one.categories, one.from_, one.to) for one in found] == [
        (CATEGORIES[0], at(1), at(1)),
        (CATEGORIES[1], at(1), at(1)),
    ]


def test_a_new_purpose_splits_a_disclosure_and_a_new_fingerprint_alone_does_not() -> None:
    kept = Record()
    kept.add(scope("a", 0, fingerprint="1"))
    kept.about("entered", "a", "s1")
    kept.add(scope("a", 0, fingerprint="2"))
    assert len(by_student(kept.entries, kept.students, "s1")) == 1
    kept.add(scope("a", 0, purpose="research"))
    found = by_student(kept.entries, kept.students, "s1")
    assert [one.purpose for one in found] == ["instruction", "research"]


def test_a_student_who_entered_before_any_scope_is_not_left_out() -> None:
    kept = Record()
    kept.about("entered", "a", "s1")
    (found,) = by_student(kept.entries, kept.students, "s1")
    assert (found.agreement, found.vendor, found.categories, found.to) == ("a", "", (), None)
    assert len(held(kept.entries, kept.students, "a", at(1))) == 1
    kept.add(scope("a", 1))
    (found,) = by_student(kept.entries, kept.students, "s1")
    assert (found.from_, found.categories) == (at(0), CATEGORIES[1])


def test_a_whole_day_has_what_was_held_at_any_moment_of_it() -> None:
    kept = record([("scope", "a", 0), ("entered", "a", {"s1"}), ("ended", "a", None)])
    kept.add({"what": "attested", "agreement": "a", "by": "Bob", "statement": ""})
    kept.about("entered", "a", "s2")
    assert held(kept.entries, kept.students, "a", at(3.5)) == []
    day = held(kept.entries, kept.students, "a", at(0), at(24))
    assert [(one.student, one.to) for one in day] == [("s1", at(2)), ("s2", None)]
    assert day[0].as_json()["categories"] == ["Student Name"]


def test_an_attestation_does_not_cover_data_that_was_still_disclosed() -> None:
    kept = record([("scope", "a", 0), ("entered", "a", {"s1", "s2"}), ("left", "a", {"s2"})])
    kept.add({"what": "attested", "agreement": "a", "by": "Bob", "statement": ""})
    kept.about("left", "a", "s1")
    assert [one.student for one in held(kept.entries, kept.students, "a", at(2.5))] == ["s1", "s2"]
    (found,) = held(kept.entries, kept.students, "a", at(9))
    assert (found.student, found.to) == ("s1", at(4))


def test_a_renewal_holds_what_the_agreement_before_it_received() -> None:
    kept = record([("scope", "a", 0), ("entered", "a", {"s1"}), ("ended", "a", None)])
    kept.add(scope("b", 2))
    kept.about("entered", "b", "s1")
    (found,) = held(kept.entries, kept.students, "b", at(9))
    assert (found.agreements, found.categories) == (("a", "b"), ("Student Name", "Attendance"))
    assert (found.from_, found.to) == (at(1), None)
    kept.add({"what": "attested", "agreement": "b", "by": "Bob", "statement": ""})
    (found,) = held(kept.entries, kept.students, "b", at(9))
    assert found.agreements == ("b",)


def test_the_agreements_of_a_vendor() -> None:
    kept = record([("scope", one, 0) for one in AGREEMENTS])
    assert agreements_of(kept.entries, " aCME ") == {"a", "b"}
    assert agreements_of(kept.entries, "B") == {"b"}
    assert agreements_of(kept.entries, "nobody") == set()


def test_the_json_of_a_vendor_has_each_scope_once() -> None:
    kept = record([("scope", "a", 0), ("entered", "a", {"s1", "s2"}), ("scope", "a", 1)])
    found = periods_json(by_vendor(kept.entries, kept.students, "a"))
    assert [(one["categories"], len(one["students"])) for one in found] == [
        (["Student Name"], 2),
        (["Student Name", "Grades"], 2),
    ]
    assert {one["student"] for one in found[0]["students"]} == {"s1", "s2"}
    assert "student" not in found[0]
