"""While a vendor's topics are written again, a decision deletes a student's earlier records."""

from __future__ import annotations

from typing import Any

import pytest

from bus.vendors.applied import as_table
from bus.vendors.earlier_cohort import EarlierCohort
from bus.vendors.scope import compile_scope
from bus.vendors.stream_progress import EarlierAgreement
from tests.unit.test_vendor_projection import World, agreement, opt_out, record, start

ALL_OF_A = {("student", "a"), ("enrollment", "e1"), ("result", "r1")}
OF_B = {("student", "b"), ("enrollment", "e2")}


def move(world: World) -> None:
    """Begin to write the vendor's topics again: the students become the earlier cohort."""
    world.projection.cohort.move_to_earlier(world.deal.name)
    world.projection.forget()


class Rewriting:
    """A vendor whose agreement has changed; its topics are not written again yet."""

    def __init__(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        self.world = World(agreement(**before))
        start(self.world)
        earlier = EarlierAgreement(as_table(self.world.deal), sorted(self.world.above))
        move(self.world)
        self.world.deal = agreement(**after)
        self.world.projection = self.world.compiled()
        scope = compile_scope(self.world.deal)
        self.cohort = EarlierCohort(scope, self.world.view, [earlier])

    def dismissed(self, *students: str) -> set[tuple[str, str]]:
        """Return the keys of the deletions about these students."""
        found = self.cohort.dismiss(students, self.world.day)
        assert all(batch.columns is None for _, batch in found.batches)
        return {(one.kind, one.id) for _, batch in found.batches for one in batch}


def test_whom_the_changed_agreement_excludes_is_deleted() -> None:
    rewriting = Rewriting({}, {"students": {"schools": ["s2"]}})
    assert rewriting.dismissed("a", "b") == ALL_OF_A
    assert rewriting.cohort.after("", 10) == ["b"]
    assert rewriting.dismissed("a", "b") == set(), "only once"


def test_nobody_is_deleted_when_fields_are_taken_out_of_the_agreement() -> None:
    rewriting = Rewriting({}, {"share": {"categories": ["Student Name"]}})
    assert rewriting.dismissed("a", "b") == set()


def test_an_opt_out_deletes_the_records_that_the_vendor_had() -> None:
    rewriting = Rewriting(
        {"students": {"schools": ["s1"]}}, {"share": {"categories": ["Student Name"]}}
    )
    assert rewriting.dismissed("b") == set()
    rewriting.world.change(("optOut", "o-b", opt_out("b")))
    assert rewriting.dismissed("b") == {("student", "b")}, "e2 is of another school"


def test_a_student_whom_the_district_erased_is_deleted() -> None:
    rewriting = Rewriting({}, {})
    rewriting.world.change(("student", "b", None))
    assert rewriting.dismissed("b") == OF_B


def test_what_the_vendor_had_of_a_student_who_was_leaving_is_deleted() -> None:
    before = {"students": {"schools": ["s1"], "leave_after": 7}}
    world = World(agreement(**before))
    start(world)
    moved = record("student", "a", orgSourcedIds=["s2"], grades=["06"], agentSourcedIds=[])
    world.change(("student", "a", moved), ("enrollment", "e1", None))
    earlier = EarlierAgreement(as_table(world.deal), sorted(world.above))
    move(world)
    cohort = EarlierCohort(compile_scope(world.deal), world.view, [earlier])
    found = cohort.dismiss(["a"], world.day)
    assert found.left == ["a"]
    assert {(one.kind, one.id) for _, some in found.batches for one in some} >= {("student", "a")}


@pytest.mark.parametrize("keep", [True, False])
def test_an_earlier_cohort_is_kept_beside_a_new_one(keep: bool) -> None:
    world = World(agreement())
    start(world)
    if keep:
        move(world)
    else:
        world.projection.forget()
    assert world.projection.cohort.size() == 0
    scope = compile_scope(world.deal)
    earlier = EarlierCohort(
        scope, world.view, [EarlierAgreement(as_table(world.deal), sorted(world.above))]
    )
    assert earlier.after("", 1) == (["a"] if keep else [])
    assert earlier.after("a", 5) == (["b"] if keep else [])
    world.vendor.receive(world.projection.look_at(["a"], world.day))
    move(world)
    assert earlier.after("", 5) == (["a", "b"] if keep else ["a"])
    earlier.forget()
    assert earlier.after("", 5) == []
