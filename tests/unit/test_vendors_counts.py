"""Students are counted from the district's topics as the scope selects them."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from bus.contract import a_record
from bus.kafka import topics
from bus.registry.batch_codec import FEWEST
from bus.registry.codec import Encoder
from bus.standard import KINDS
from bus.vendors.district_counts import CohortCounts, ScopeChange, count, ids
from bus.vendors.scope import compile_scope
from tests.agreements import DAY, an_agreement
from tests.fakes.harness import Bus

NUMBERS = list(KINDS)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    found = Bus(monkeypatch, partitions=3)
    found.broker.create(topics.topic(found.settings, "optOut"), 3)
    monkeypatch.setattr(
        "bus.vendors.district_counts.schema_lookup",
        lambda _: lambda number: KINDS[NUMBERS[number - 1]].schema,
    )
    return found


def put(bus: Bus, kind: str, id_: str, value: bytes | None = None, **fields: Any) -> None:
    """Write a record to its topic, or other bytes as its value."""
    record = a_record(kind, sourcedId=id_, **fields)
    partition = topics.partition_for(record[KINDS[kind].owner], bus.partitions)
    encoded = Encoder(kind, NUMBERS.index(kind) + 1).encode(record) if value is None else value
    topic = topics.topic(bus.settings, kind)
    bus.broker.append(topic, partition, key=id_.encode(), value=encoded or None)


def student(bus: Bus, number: int, grade: str = "06", school: str = "s1", **more: Any) -> None:
    put(bus, "student", f"p{number}", orgSourcedIds=[school], grades=[grade], **more)


def enroll(bus: Bus, number: int, class_: str, id_: str = "", **more: Any) -> None:
    named = {"userSourcedId": f"p{number}", "classSourcedId": class_, "role": "student"} | more
    put(bus, "enrollment", id_ or f"p{number}-{class_}", **named)


def change(
    before: dict[str, Any] | None, after: dict[str, Any] | None, basis: str = "school-official"
) -> ScopeChange:
    scopes = (
        None if one is None else compile_scope(an_agreement(students=one, basis=basis))
        for one in (before, after)
    )
    return ScopeChange(*scopes)


def counted(
    bus: Bus, before: Any, after: Any, day: date = DAY, basis: str = "school-official"
) -> CohortCounts:
    return count(bus.settings, {"math-app": change(before, after, basis)}, day)["math-app"]


def test_students_who_enter_and_students_who_leave_are_counted(bus: Bus) -> None:
    for number in range(30):
        student(bus, number, grade=("05", "06", "07")[number % 3], school=f"s{number % 2}")
    found = counted(bus, {"grades": ["05", "06"]}, {"grades": ["06", "07"]})
    assert (found.before, found.after, found.enter, found.leave) == (20, 20, 10, 10)
    assert found.groups == {
        (("s0",), ("06",)): 5,
        (("s1",), ("06",)): 5,
        (("s0",), ("07",)): 5,
        (("s1",), ("07",)): 5,
    }
    new, ended = counted(bus, None, {}), counted(bus, {}, None)
    assert (new.before, new.after, new.enter) == (0, 30, 30)
    assert (ended.after, ended.leave, ended.groups) == (0, 30, {})


def test_only_the_current_state_of_a_student_counts(bus: Bus) -> None:
    student(bus, 1)
    student(bus, 1, grade="07")
    student(bus, 2)
    student(bus, 2, status="tobedeleted")
    student(bus, 3)
    put(bus, "student", "p3", value=b"")
    student(bus, 4)
    put(bus, "student", "p4", value=b"not a record")
    assert counted(bus, None, {"grades": ["06"]}).after == 1  # p4
    assert counted(bus, None, {"grades": ["07"]}).after == 1  # p1
    assert ids(bus.settings, "student") == {"p1", "p2", "p4"}


def test_active_enrollments_of_students_count(bus: Bus) -> None:
    for number in range(1, 7):
        student(bus, number)
    enroll(bus, 1, "c1")
    enroll(bus, 1, "c2")
    enroll(bus, 2, "c2")
    enroll(bus, 3, "c3")
    enroll(bus, 4, "c1", status="tobedeleted")
    enroll(bus, 5, "c1", role="teacher")
    enroll(bus, 6, "c1", id_="moves")
    enroll(bus, 6, "c3", id_="moves")
    found = counted(bus, {"classes": ["c2"]}, {"classes": ["c1", "c2"]})
    assert (found.before, found.after) == (2, 2)
    assert found.classes == {"c1": 1, "c2": 2}


def test_opt_outs_keep_students_out(bus: Bus) -> None:
    for number in range(1, 5):
        student(bus, number)
    about = {"scope": "vendor", "vendor": "Example Math", "beginDate": None, "endDate": None}
    put(bus, "optOut", "o1", studentSourcedId="p1", **about)
    put(bus, "optOut", "o2", studentSourcedId="p2", **(about | {"vendor": "Another"}))
    put(bus, "optOut", "o3", studentSourcedId="p3", **(about | {"beginDate": date(2027, 1, 1)}))
    put(bus, "optOut", "o4", studentSourcedId="p4", **about)
    put(bus, "optOut", "o4", studentSourcedId="p4", status="tobedeleted", **about)
    assert counted(bus, None, {}).after == 3
    assert counted(bus, None, {}, date(2027, 2, 1)).after == 2


def test_on_the_basis_of_consent_only_students_with_a_consent_count(bus: Bus) -> None:
    for number in range(1, 4):
        student(bus, number)
    assert counted(bus, None, {}, basis="consent").after == 0
    about = {"scope": "vendor", "vendor": "Example Math", "beginDate": None, "endDate": None}
    given = about | {"decision": "allow", "decidedBy": "parent"}
    put(bus, "optOut", "c1", studentSourcedId="p1", **given)
    put(bus, "optOut", "c2", studentSourcedId="p2", **given)
    put(bus, "optOut", "o2", studentSourcedId="p2", **about)
    assert counted(bus, None, {}, basis="consent").after == 1


@pytest.mark.parametrize("number", [FEWEST - 1, 3 * FEWEST])
def test_a_batch_is_counted_as_single_records_are(bus: Bus, number: int) -> None:
    for one in range(number):
        student(bus, one, grade=("06", "07")[one % 2])
    put(bus, "student", "p0", value=b"")
    assert counted(bus, None, {}).after == number - 1
    assert counted(bus, None, {"grades": ["07"]}).after == number // 2


def test_several_agreements_are_counted_in_one_pass(bus: Bus) -> None:
    for number in range(4):
        student(bus, number, grade=("06", "07")[number % 2])
    changes = {"a": change(None, {"grades": ["06"]}), "b": change(None, {})}
    found = count(bus.settings, changes, DAY)
    assert {name: one.after for name, one in found.items()} == {"a": 2, "b": 4}
    assert count(bus.settings, {}, DAY) == {}
