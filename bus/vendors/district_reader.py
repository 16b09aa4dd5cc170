"""Reads the district's topics for the projection, from the offsets that the view has reached.

It reads opt-outs before anything else, so that a long extract does not delay them. It joins no
consumer group and commits nothing: the view keeps the offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import OFFSET_END, Consumer, Message, TopicPartition

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka.client import group_settings
from bus.kafka.reader import Reader, sift, some
from bus.settings import Settings
from bus.vendors.shard import WHOLE, Shard

NOT_ASKED = "could not ask for offsets: Kafka reports {}"


@dataclass(frozen=True, slots=True)
class DistrictBatch:
    """The next messages of the district's topics.

    messages: in the order of each partition, opt-outs first.
    reached:  the offset at which each partition continues after them.
    """

    messages: list[Message]
    reached: dict[Position, int]


class DistrictReader:
    """Reads these topics. Use it from one thread only.

    names:   the topics, with the kind of each.
    first:   the one of them that has the opt-outs.
    reached: the offset at which each partition continues. A missing partition is read from 0.
    shard:   which partitions are read.
    also:    more partitions to read, of other topics, with the offsets at which they begin.

    The attribute `partitions` has the number of partitions of each topic of the district.

    The attribute `goal` has the end offset of each partition at the start. For opt-outs, this
    includes what is not committed yet: behind an open transaction, for example of a process that
    was killed, there may be an opt-out that is committed already.
    """

    def __init__(
        self,
        settings: Settings,
        names: Mapping[str, str],
        first: str,
        reached: Mapping[Position, int],
        shard: Shard = WHOLE,
        also: Mapping[Position, int] | None = None,
    ) -> None:
        self._settings = settings
        self._first = first
        self._consumers: list[Consumer] = []
        with Reader(settings, NOT_ASKED) as reader:
            self.goal = reader.ends([*names, *{place.topic for place in also or ()}])
        with Reader(settings, NOT_ASKED, {"isolation.level": "read_uncommitted"}) as reader:
            self.goal |= reader.ends([first])
        self.partitions = sum(place.topic == first for place in self.goal)
        self.goal = {
            place: end
            for place, end in self.goal.items()
            if (
                shard.reads(names[place.topic], place.partition)
                if place.topic in names
                else place in (also or ())
            )
        }
        begun = {**(also or {}), **reached}
        self._places = {place: begun.get(place, 0) for place in self.goal}
        self._opt_outs = self._consumer(opt_outs=True)
        self._others = self._consumer(opt_outs=False)

    def close(self) -> None:
        """Close the clients."""
        for consumer in self._consumers:
            consumer.close()

    def take(self, at_most: int, patience: float) -> DistrictBatch:
        """Return the next messages; none after `patience` seconds without one.

        Call `stored` when they are stored. Raises `RetryLater` if Kafka reports an error.

        at_most: the largest number of opt-outs, and of other messages.
        """
        messages = some(self._opt_outs, at_most, 0.0)
        messages += some(self._others, at_most, 0.0 if messages else patience)
        records, ended, error = sift(messages)
        if error is not None:
            raise RetryLater(f"Kafka reports {error.name()}")
        last = {(one.topic(), one.partition()): one.offset() for one in records}
        reached = {
            Position(topic or "", part or 0): (at or 0) + 1 for (topic, part), at in last.items()
        }
        # The end of a partition may lie behind its last record: transactions end with a marker.
        return DistrictBatch(records, reached | dict(ended))

    def stored(self, places: Mapping[Position, int]) -> None:
        """Note that all messages before these offsets are stored."""
        self._places |= places

    def behind(self, goal: Mapping[Position, int] | None = None) -> bool:
        """Return whether there are messages before these offsets that are not stored.

        goal: None: `self.goal`.
        """
        wanted = self.goal if goal is None else goal
        return any(self._places[place] < end for place, end in wanted.items())

    def ends(self) -> dict[Position, int]:
        """Return the end of each partition that is read, as it is now."""
        with Reader(self._settings, NOT_ASKED) as reader:
            return reader.since(self._places, OFFSET_END)

    def _consumer(self, *, opt_outs: bool) -> Consumer:
        """Return a consumer of the opt-outs, or of all other records."""
        consumer = Consumer(group_settings(self._settings, "vendors.reader"))
        self._consumers.append(consumer)
        consumer.assign(
            [
                TopicPartition(*place, at)
                for place, at in self._places.items()
                if (place.topic == self._first) is opt_outs
            ]
        )
        return consumer
