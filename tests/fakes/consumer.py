"""A fake of `confluent_kafka.Consumer`, as far as the bus uses it, on a fake broker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    KafkaError,
    Message,
    TopicPartition,
)

from tests.fakes.broker import Broker, Group, Place, failure

Rebalance = Callable[[Any, list[TopicPartition]], None]


class FakeConsumer:
    """A member of a group, or a reader without a group.

    * Rebalance callbacks run inside `poll` and `consume`. Rebalances are cooperative: a member is
      notified only of partitions that it loses or gets. It gets a partition only after the owner
      has given it up.
    * A paused partition stays assigned and returns nothing. It is still paused when it is revoked
      and assigned to this member again.
    * The end of a partition is reported once at each arrival, and again after a seek and after a
      resume. Its offset is the one after the last entry, transaction markers included.
    """

    def __init__(self, broker: Broker, config: Mapping[str, Any]) -> None:
        self._broker = broker
        self._config = dict(config)
        self._group = broker.group(config["group.id"])
        self._position: dict[Place, int] = {}
        self._paused: set[Place] = set()
        self._ended: dict[Place, int] = {}
        self._left = 0
        self._callbacks: dict[str, Rebalance] = {}
        self._topics: list[str] = []
        self._lost = False
        self.closed = False

    # ---- the group -----------------------------------------------------------------------------

    def subscribe(
        self,
        topics: list[str],
        on_assign: Rebalance,
        on_revoke: Rebalance,
        on_lost: Rebalance,
    ) -> None:
        """Join the group; the members that are in it keep an even share."""
        self._open()
        self._callbacks = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost}
        self._topics = topics
        self._join()

    def lose(self) -> None:
        """Have the group take this member for dead; the member learns of it in its next poll."""
        self._group.leave(self)
        self._lost = True

    def kill(self) -> None:
        """End as a killed process does: no callback runs, and nothing is committed."""
        if self in self._group.members:
            self._group.leave(self)
        self.closed = True

    def _join(self) -> None:
        self._group.members.append(self)
        self._group.divide_evenly(self._broker.places(self._topics))

    def _rebalance(self) -> None:
        if self._lost:
            self._lost = False
            lost = list(self._position)
            self._callbacks["lost"](self, _partitions(lost))
            self._forget(lost)
            self._join()
            return  # its partitions come in a later poll
        if self not in self._group.members:
            return
        if lost := self._group.given_up_by(self):
            self._callbacks["revoke"](self, _partitions(lost))
            self._forget(lost)
            for place in lost:
                del self._group.owner[place]
            return
        free = self._group.free_for(self)
        if free or id(self) not in self._group.reported:
            self._group.reported.add(id(self))
            self._group.owner |= dict.fromkeys(free, self)
            self._callbacks["assign"](self, _partitions(free))
            for place in free:
                if place not in self._position:
                    at = self._group.committed.get(place, OFFSET_BEGINNING)
                    self.incremental_assign([TopicPartition(*place, at)])

    # ---- reading -------------------------------------------------------------------------------

    def poll(self, timeout: float) -> Message | None:
        """Return the next message or event; None if none came before the timeout."""
        self._left = self._broker.fetch
        found = self.consume(1, timeout)
        return found[0] if found else None

    def consume(self, number: int, timeout: float) -> list[Message]:
        """Return at most this many messages and events; time passes only if there are none."""
        self._open()
        self._rebalance()
        found = self._read(number)
        if not found and timeout:
            self._broker.clock.wait(timeout)
            self._open()
        return found

    def _read(self, number: int) -> list[Message]:
        found: list[Message] = []
        if self._broker.down:
            return found
        for place in list(self._position):
            if place in self._paused:
                continue
            log = self._broker.log(place)
            if not log.low <= self._position[place] <= len(log.entries):
                self._position[place] = log.low  # auto.offset.reset=earliest
            while self._position[place] < log.stable:
                if len(found) >= number or self._left <= 0:
                    return found
                message = log.entries[self._position[place]]
                self._position[place] += 1
                if message is not None:
                    found.append(message)
                    self._left -= 1
            if self._reports_end(place) and len(found) < number:
                self._ended[place] = self._position[place]
                found.append(
                    Message(
                        topic=place[0],
                        partition=place[1],
                        offset=self._position[place],
                        error=KafkaError(KafkaError._PARTITION_EOF),
                    )
                )
            # The next read begins with another partition.
            self._position[place] = self._position.pop(place)
        return found

    def _reports_end(self, place: Place) -> bool:
        wanted = self._config.get("enable.partition.eof")
        return bool(wanted) and self._ended.get(place) != self._position[place]

    # ---- what is read --------------------------------------------------------------------------

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Read only these partitions."""
        self._forget(list(self._position))
        self.incremental_assign(partitions)

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        """Read these partitions as well."""
        self._open()
        for p in partitions:
            if (p.topic, p.partition) in self._position:
                raise failure(KafkaError._CONFLICT)
            self._set(p)

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        """Stop reading these partitions."""
        for p in partitions:
            if (p.topic, p.partition) not in self._position:
                raise failure(KafkaError._INVALID_ARG)
        self._forget([(p.topic, p.partition) for p in partitions])

    def seek(self, partition: TopicPartition) -> None:
        """Continue at another offset."""
        if (partition.topic, partition.partition) not in self._position:
            raise failure(KafkaError._STATE)
        self._set(partition)

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Return nothing from these partitions."""
        self._paused |= {(p.topic, p.partition) for p in partitions} & self._position.keys()

    @property
    def paused_kinds(self) -> set[str]:
        """The kinds that are assigned and paused."""
        return {topic.rpartition(".")[2] for topic, _ in self._paused & self._position.keys()}

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Return messages from these partitions again."""
        for p in partitions:
            self._paused.discard((p.topic, p.partition))
            self._ended.pop((p.topic, p.partition), None)

    def _set(self, partition: TopicPartition) -> None:
        place = (partition.topic, partition.partition)
        at = partition.offset
        if at == OFFSET_INVALID:
            at = self._group.committed.get(place, OFFSET_BEGINNING)
        self._position[place] = at if at >= 0 else self._broker.log(place).low
        self._ended.pop(place, None)

    def _forget(self, places: Iterable[Place]) -> None:
        for place in places:
            self._position.pop(place, None)
            self._ended.pop(place, None)

    # ---- offsets -------------------------------------------------------------------------------

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        """Commit for the group."""
        assert not asynchronous
        self._open()
        self._broker.answer()
        name = self._config["group.id"]
        self._broker.commit(name, self, {(p.topic, p.partition): p.offset for p in offsets})

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """Return the group's offsets."""
        self._open()
        self._broker.answer()
        return [committed(self._group, (p.topic, p.partition), OFFSET_INVALID) for p in partitions]

    def offsets_for_times(
        self, partitions: list[TopicPartition], timeout: float
    ) -> list[TopicPartition]:
        """Return for each partition the offset of the first message at or after a time, or -1.

        The time OFFSET_BEGINNING means the first offset, the time OFFSET_END the offset before
        which everything is committed.
        """
        self._open()
        self._broker.answer()
        return [
            TopicPartition(
                p.topic, p.partition, self._broker.offset_at((p.topic, p.partition), p.offset)
            )
            for p in partitions
        ]

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any:
        """Return the topics and their partitions."""
        self._open()
        return metadata(self._broker, topic)

    def close(self) -> None:
        """Give up all partitions and leave the group."""
        if self.closed:
            return
        if self in self._group.members:
            mine = [place for place, owner in self._group.owner.items() if owner is self]
            if mine:
                self._callbacks["revoke"](self, _partitions(mine))
            self._group.leave(self)
        self.closed = True

    def _open(self) -> None:
        if self.closed:
            raise RuntimeError("Consumer closed")


def metadata(broker: Broker, topic: str | None = None) -> Any:
    """Return the result of `list_topics`; a topic that was named is listed even if missing."""
    broker.answer()
    names = list(broker.topics) if topic is None else [topic]
    return SimpleNamespace(
        cluster_id=broker.cluster,
        topics={
            name: SimpleNamespace(
                partitions={
                    number: SimpleNamespace(id=number, leader=1)
                    for number in range(len(broker.topics.get(name, ())))
                }
            )
            for name in names
        },
    )


def committed(group: Group, place: Place, missing: int) -> TopicPartition:
    """Return what a group has committed in a partition, with its metadata."""
    offset, about = group.committed.get(place, missing), group.metadata.get(place)
    return TopicPartition(*place, offset, *([about] if about else []))


def _partitions(places: Iterable[Place]) -> list[TopicPartition]:
    return [TopicPartition(*place) for place in places]
