"""Referenced records come before the records that refer to them; one owner's records keep their order."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bus.consume.delivered_index import DeliveredIndex
from bus.consume.dependency_order import DependencyOrder, KindRecords
from bus.consume.feed import Feed
from bus.contract import Sent, a_record
from bus.delivery import Position
from bus.settings import Settings

KINDS = ["org", "class", "student", "staff", "enrollment"]


def feed(*kinds: str) -> Feed:
    return Feed("lunch", {f"schoolbus.{kind}": kind for kind in kinds})


def ordering() -> tuple[DependencyOrder, DeliveredIndex]:
    delivered = DeliveredIndex(Settings(), feed(*KINDS))
    delivered.add("org", "schoolSourcedId-1")
    return DependencyOrder(delivered, hold_seconds=30), delivered


def by_kind(**kinds: list[dict[str, Any]]) -> dict[str, KindRecords]:
    return {
        kind.rstrip("_"): KindRecords(
            records,
            [Sent(kind.rstrip("_"), "", i) for i in range(len(records))],  # type: ignore[misc]
        )
        for kind, records in kinds.items()
    }


def ids(ready: dict[str, KindRecords]) -> dict[str, list[str]]:
    return {
        kind: [record["sourcedId"] for record in kind_records.records]
        for kind, kind_records in ready.items()
        if kind_records.records
    }


CLASS = a_record("class", sourcedId="c1", courseSourcedId="x")
STUDENT = a_record("student", sourcedId="s1")
ENROLLMENT = a_record("enrollment", sourcedId="e1", classSourcedId="c1", userSourcedId="s1")


def test_what_came_together_goes_in_dependency_order() -> None:
    waits, _ = ordering()
    ready, given_up = waits.take(
        by_kind(enrollment=[ENROLLMENT], student=[STUDENT], class_=[CLASS]), 0
    )
    assert list(ids(ready)) == ["student", "class", "enrollment"]
    assert not given_up


def test_nothing_is_given_up_before_all_that_was_there_is_delivered() -> None:
    waits, _ = ordering()
    waits.take(by_kind(enrollment=[ENROLLMENT]), 100)
    for up_to in (0, 99):
        _, given_up = waits.take({}, 10_000, {3: up_to}.__getitem__)
        assert not given_up
    _, given_up = waits.take({}, 10_000, {3: 100}.__getitem__)
    assert [reason for _, reason in given_up]


def test_an_enrollment_waits_for_its_class() -> None:
    waits, _ = ordering()
    ready, _ = waits.take(by_kind(enrollment=[ENROLLMENT], student=[STUDENT]), 0)
    assert ids(ready) == {"student": ["s1"]}
    assert len(waits) == 1
    ready, _ = waits.take(by_kind(class_=[CLASS]), 1)
    assert ids(ready) == {"class": ["c1"], "enrollment": ["e1"]}
    assert len(waits) == 0


def test_a_students_later_records_do_not_overtake_one_that_waits() -> None:
    waits, delivered = ordering()
    delivered.add("student", "s1")
    delivered.add("class", "c2")
    later = ENROLLMENT | {"sourcedId": "e2", "classSourcedId": "c2"}
    ready, _ = waits.take(by_kind(enrollment=[ENROLLMENT, later]), 0)
    assert ids(ready) == {}
    ready, _ = waits.take(by_kind(class_=[CLASS]), 1)
    assert ids(ready) == {"class": ["c1"], "enrollment": ["e1", "e2"]}


def test_no_commit_goes_past_one_that_waits() -> None:
    waits, _ = ordering()
    waits.take(by_kind(enrollment=[ENROLLMENT, ENROLLMENT | {"sourcedId": "e2"}]), 0)
    assert waits.first_offsets() == {Position("schoolbus.enrollment", 0): 0}


def test_after_the_time_it_is_given_up_with_a_reason_and_the_rest_goes_on() -> None:
    waits, delivered = ordering()
    delivered.add("student", "s1")
    delivered.add("class", "c2")
    later = ENROLLMENT | {"sourcedId": "e2", "classSourcedId": "c2"}
    waits.take(by_kind(enrollment=[ENROLLMENT, later]), 0)
    ready, given_up = waits.take({}, 31)
    assert ids(ready) == {"enrollment": ["e2"]}
    [(_, reason)] = given_up
    assert "enrollment e1 refers to class c1" in reason


def test_an_optional_reference_is_waited_for_but_not_for_ever() -> None:
    waits, _ = ordering()
    student = STUDENT | {"orgSourcedIds": ["o9"]}
    assert ids(waits.take(by_kind(student=[student]), 0)[0]) == {}
    assert ids(waits.take({}, 31)[0]) == {"student": ["s1"]}


def test_a_parent_goes_before_its_child_whatever_the_order_of_arrival() -> None:
    waits, _ = ordering()
    child = a_record("org", sourcedId="school", parentSourcedId="district")
    parent = a_record("org", sourcedId="district")
    ready, _ = waits.take(by_kind(org=[child, parent]), 0)
    assert ids(ready) == {"org": ["district", "school"]}


def test_a_withdrawal_waits_for_nothing() -> None:
    waits, _ = ordering()
    released = ENROLLMENT | {"status": "tobedeleted"}
    assert ids(waits.take(by_kind(enrollment=[released]), 0)[0]) == {"enrollment": ["e1"]}


def test_what_waits_of_a_partition_that_another_instance_has_now_is_forgotten() -> None:
    waits, _ = ordering()
    waits.take(by_kind(enrollment=[ENROLLMENT]), 0)
    waits.drop({Position("schoolbus.enrollment", 0)})
    assert len(waits) == 0


def test_a_reference_to_a_kind_that_the_product_does_not_take_is_not_waited_for() -> None:
    delivered = DeliveredIndex(Settings(), feed("student", "staff", "enrollment"))
    delivered.add("student", "s1")
    assert delivered.missing("enrollment", ENROLLMENT) is None


def test_a_student_does_not_wait_behind_an_enrollment_that_waits_for_that_student() -> None:
    waits, _ = ordering()
    assert ids(waits.take(by_kind(enrollment=[ENROLLMENT]), 0)[0]) == {}
    ready, _ = waits.take(by_kind(student=[STUDENT]), 0)
    assert ids(ready) == {"student": ["s1"]}
    ready, _ = waits.take(by_kind(class_=[CLASS]), 0)
    assert ids(ready) == {"class": ["c1"], "enrollment": ["e1"]}


def _school() -> dict[str, list[dict[str, Any]]]:
    """Return three students in three classes.

    Each student is renamed once, and each enrollment changes once.
    """
    classes = [a_record("class", sourcedId=f"c{n}", courseSourcedId="x") for n in range(3)]
    students = [a_record("student", sourcedId=f"s{n}") for n in range(3)]
    enrollments = [
        a_record("enrollment", sourcedId=f"{s}-{c}", classSourcedId=f"c{c}", userSourcedId=f"s{s}")
        for s in range(3)
        for c in range(3)
    ]
    return {"class": classes, "student": students * 2, "enrollment": enrollments * 2}


@given(data=st.data())
def test_in_whatever_order_topics_are_read_all_goes_at_once_and_in_order(
    data: st.DataObject,
) -> None:
    """No record waits for the clock when all records that it refers to have been read."""
    waits, _ = ordering()
    left = _school()
    released: list[tuple[str, str]] = []
    while any(left.values()):
        kind = data.draw(st.sampled_from([kind for kind, records in left.items() if records]))
        number = data.draw(st.integers(1, len(left[kind])))
        some, left[kind] = left[kind][:number], left[kind][number:]
        ready, given_up = waits.take(by_kind(**{f"{kind}_": some}), 0)
        assert not given_up
        released += [
            (k, r["sourcedId"]) for k, kind_records in ready.items() for r in kind_records.records
        ]
    assert len(waits) == 0
    assert sorted(released) == sorted(
        (k, r["sourcedId"]) for k, rs in _school().items() for r in rs
    )
    for student in range(3):
        for class_ in range(3):
            first = released.index(("enrollment", f"{student}-{class_}"))
            assert released.index(("student", f"s{student}")) < first
            assert released.index(("class", f"c{class_}")) < first
        of_one = [
            id_ for kind, id_ in released if kind == "enrollment" and id_.startswith(f"{student}-")
        ]
        assert of_one == [f"{student}-{c}" for c in range(3)] * 2


def test_what_its_source_could_not_check_is_waited_for_but_not_for_ever() -> None:
    """The source carries no classes, but another one may."""
    waits, delivered = ordering()
    delivered.add("student", "s1")
    unchecked = Sent("enrollment", "e1", 0, more=[("ce_unchecked", b"classSourcedId,other")])
    kind_records = {"enrollment": KindRecords([ENROLLMENT], [unchecked])}  # type: ignore[list-item]
    assert ids(waits.take(kind_records, 0)[0]) == {}
    assert ids(waits.take({}, 29)[0]) == {}
    ready, given_up = waits.take({}, 31)
    assert ids(ready) == {"enrollment": ["e1"]}
    assert given_up == []


def test_what_it_could_check_is_required_as_before() -> None:
    waits, _ = ordering()
    unchecked = Sent("enrollment", "e1", 0, more=[("ce_unchecked", b"classSourcedId")])
    waits.take({"enrollment": KindRecords([ENROLLMENT], [unchecked])}, 0)  # type: ignore[list-item]
    ready, given_up = waits.take({}, 31)
    assert ids(ready) == {}
    assert ["student or staff s1" in reason for _, reason in given_up] == [True]
