"""What all instances of a consumer have delivered, and up to which time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from bus.contract import a_record
from tests.fakes.harness import Bus, Group

ENROLLMENT = a_record("enrollment", userSourcedId="s1", classSourcedId="c1")


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    yield Bus(monkeypatch)


def commit(bus: Bus, kind: str, offset: int) -> None:
    """Commit an offset as another instance that has delivered up to it."""
    bus.broker.group(bus.group).committed[bus.place(kind)] = offset


def test_what_lies_before_the_groups_offsets_is_delivered(bus: Bus) -> None:
    bus.publish("student", "s1")
    bus.publish("class", "c1")
    group = Group(bus)
    group.instances.ask(waiting=False)
    assert str(group.delivered.missing("enrollment", ENROLLMENT)) == "class c1"
    commit(bus, "class", 1)
    group.instances.ask(waiting=False)
    assert str(group.delivered.missing("enrollment", ENROLLMENT)) == "student or staff s1"
    commit(bus, "student", 1)
    group.instances.ask(waiting=False)
    assert group.delivered.missing("enrollment", ENROLLMENT) is None


def test_what_the_delivery_has_counts_when_it_is_ahead_of_the_group(bus: Bus) -> None:
    bus.publish("student", "s1")
    bus.publish("class", "c1")
    group = Group(bus)
    group.instances.ask({bus.place("student"): 1, bus.place("class"): 1}, waiting=False)
    assert group.delivered.missing("enrollment", ENROLLMENT) is None


def test_it_is_not_asked_more_often_than_is_wanted(bus: Bus) -> None:
    bus.publish("student", "s1")
    bus.publish("class", "c1")
    group = Group(bus)
    group.instances.ask_again(1.0, waiting=False)
    commit(bus, "student", 1)
    commit(bus, "class", 1)
    group.instances.ask_again(1.0, waiting=False)
    assert group.delivered.missing("enrollment", ENROLLMENT)
    bus.clock.advance(1.1)
    group.instances.ask_again(1.0, waiting=False)
    assert group.delivered.missing("enrollment", ENROLLMENT) is None


def test_up_to_when_lower_levels_are_delivered(bus: Bus) -> None:
    """Students are level 1, classes 2, and enrollments 3."""
    bus.publish("student", "s1")
    bus.publish("class", "c1")
    group = Group(bus).has(bus.place("enrollment"))
    begun = bus.clock.now
    group.instances.ask(waiting=True)
    levels = [group.instances.delivered_up_to(level) for level in (1, 2, 3)]
    assert levels == [begun, -math.inf, -math.inf]
    bus.clock.advance(10)
    commit(bus, "student", 1)
    group.instances.ask(waiting=True)
    levels = [group.instances.delivered_up_to(level) for level in (1, 2, 3)]
    assert levels == [begun, begun, -math.inf]
    commit(bus, "class", 1)
    group.instances.ask(waiting=True)
    assert group.instances.delivered_up_to(3) == begun
    bus.clock.advance(10)
    group.instances.ask(waiting=True)
    assert group.instances.delivered_up_to(3) == begun + 20


def test_of_its_own_partitions_what_was_read_counts(bus: Bus) -> None:
    bus.publish("student", "s1")
    group = Group(bus).has(bus.place("student"))
    group.instances.ask(waiting=True)
    assert group.instances.delivered_up_to(3) == -math.inf
    group.partitions.took({bus.place("student"): 1})
    group.instances.ask(waiting=True)
    assert group.instances.delivered_up_to(3) == bus.clock.now


def test_a_goal_is_reached_when_the_others_have_committed_it(bus: Bus) -> None:
    bus.publish("student", "s1")
    bus.publish("class", "c1")
    group = Group(bus).has(bus.place("student"))
    goal = group.offsets_client.ends(group.kinds)
    assert goal == {bus.place("student"): 1, bus.place("class"): 1}
    assert not group.instances.reached(goal)
    commit(bus, "class", 1)
    assert group.instances.reached(goal)  # its own partitions do not count
