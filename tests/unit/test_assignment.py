"""Which partitions an instance has, where it starts in them, and which it reads now."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import TopicPartition

from tests.fakes.harness import Bus, Group


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    yield Bus(monkeypatch)


@pytest.mark.parametrize(
    ("committed", "own", "begins"),
    [
        (None, None, 1),  # nothing is known: the first offset that is left
        (2, None, 2),
        (2, 3, 3),  # the delivery's own offset takes precedence
        (3, 2, 2),  # even if the group is further
        (4, None, 4),  # everything is delivered
        (9, None, 1),  # beyond the end: the topic was rebuilt
        (2, 9, 1),
        (0, None, 1),  # before the first offset that is left
    ],
)
def test_where_it_begins(bus: Bus, committed: int | None, own: int | None, begins: int) -> None:
    for number in range(4):
        bus.publish("student", f"s{number}")
    place = bus.place("student")
    bus.broker.log(place).low = 1
    if committed is not None:
        bus.broker.group(bus.group).committed[place] = committed
    group = Group(bus).has(place, own={} if own is None else {place: own})
    assert group.partitions.next == {place: begins}
    assert group.partitions.behind == (begins < 4)


def test_while_one_is_behind_higher_levels_are_paused(bus: Bus) -> None:
    bus.publish("student", "s1")
    bus.publish("class", "c1")
    student, class_ = bus.place("student"), bus.place("class")
    group = Group(bus).has(student, class_, bus.place("enrollment"))
    seen = []
    for place in (student, class_):
        group.partitions.gate(shut=False, waiting=())
        seen.append(group.paused)
        assert group.partitions.ended(place, 1)
    group.partitions.gate(shut=False, waiting=())
    assert [*seen, group.paused] == [{"class", "enrollment"}, {"enrollment"}, set()]


def test_shut_means_all_and_it_opens_again(bus: Bus) -> None:
    group = Group(bus).has(bus.place("student"), bus.place("class"))
    group.partitions.gate(shut=True, waiting=())
    assert group.paused == {"student", "class"}
    group.partitions.gate(shut=False, waiting=())
    assert group.paused == set()


def test_of_a_kind_of_which_too_many_wait_no_more_are_read(bus: Bus) -> None:
    group = Group(bus).has(*(bus.place(kind) for kind in ("student", "class", "enrollment")))
    group.partitions.gate(shut=False, waiting=["class"])
    assert group.paused == {"class", "enrollment"}


def test_one_that_is_read_for_long_without_an_end_is_behind(bus: Bus) -> None:
    place = bus.place("student")
    group = Group(bus).has(place)
    group.partitions.took({place: 1})
    bus.clock.advance(0.9)
    group.partitions.took({place: 2})
    assert group.partitions.behind == 0
    bus.clock.advance(0.2)
    group.partitions.took({place: 3})
    assert group.partitions.behind == 1
    group.partitions.ended(place, 3)
    assert group.partitions.behind == 0


def test_an_end_is_news_when_the_group_does_not_know_it(bus: Bus) -> None:
    bus.publish("student", "s1")
    place = bus.place("student")
    partitions = Group(bus).has(place).partitions
    partitions.took({place: 1})
    assert partitions.ended(place, 1)  # it was behind the end
    assert not partitions.ended(place, 1)
    assert partitions.ended(place, 3)  # transaction markers
    assert partitions.next == {place: 3}
    assert not partitions.ended(bus.place("class"), 7)  # a partition of another instance


def test_the_group_learns_where_a_partition_begins_until_it_knows_or_it_is_read(
    bus: Bus,
) -> None:
    student, class_ = bus.place("student"), bus.place("class")
    partitions = Group(bus).has(student, class_).partitions
    assert partitions.untouched() == {student: 0, class_: 0}
    partitions.took({student: 1})
    assert partitions.untouched() == {class_: 0}
    partitions.announced()
    assert partitions.untouched() == {}


def test_what_is_now_with_another_instance_is_forgotten(bus: Bus) -> None:
    bus.publish("student", "s1")
    student, class_ = bus.place("student"), bus.place("class")
    group = Group(bus).has(student, class_)
    group.partitions.gate(shut=False, waiting=())
    assert group.paused == {"class"}
    group.partitions.revoke([student])
    assert (group.partitions.next, group.partitions.behind) == ({class_: 0}, 0)
    group.partitions.gate(shut=False, waiting=())
    assert group.paused == set()


def test_what_was_lost_while_it_was_paused_is_read_when_it_comes_back(bus: Bus) -> None:
    bus.publish("student", "s1")
    place = bus.place("student")
    group = Group(bus).has(place)
    group.partitions.gate(shut=True, waiting=())
    group.partitions.revoke([place])
    group.consumer.incremental_unassign([TopicPartition(*place)])
    group.partitions.gate(shut=False, waiting=())
    group.has(place)
    assert group.consumer.poll(1) is not None


def test_it_reads_again_from_its_position(bus: Bus) -> None:
    for number in range(3):
        bus.publish("student", f"s{number}")
    place = bus.place("student")
    group = Group(bus).has(place)
    group.consumer.poll(1)
    group.consumer.poll(1)
    group.partitions.locate([place], {place: 1})
    group.partitions.seek()
    message = group.consumer.poll(1)
    assert message is not None
    assert message.offset() == 1
