"""A Kafka cluster in memory: topics, partitions, groups with their offsets, transactions.

It keeps what a consumer can observe. Transaction markers take an offset. Messages of an open
transaction cannot be read yet. A partition has one owner at a time, and only its owner may commit
for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zlib import crc32

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    KafkaError,
    KafkaException,
    Message,
)

from tests.fakes.clock import Clock

if TYPE_CHECKING:
    from tests.fakes.consumer import FakeConsumer

Place = tuple[str, int]
"""A topic and the number of a partition."""
EPOCH = 1_795_500_000_000
"""The time of Kafka, in milliseconds, when the fake clock is at zero."""


def failure(code: int) -> KafkaException:
    """Return the exception of confluent_kafka for an error code."""
    return KafkaException(KafkaError(code))


@dataclass(slots=True)
class Log:
    """One partition.

    entries: messages by offset; None for a transaction marker and for a compacted message.
    low:     the first offset that is left.
    stable:  the offset from which on messages are not committed yet.
    """

    entries: list[Message | None] = field(default_factory=list)
    low: int = 0
    stable: int = 0


class Transaction:
    """The messages of one transaction, which become readable all at once or never."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._wrote: list[tuple[Place, int]] = []

    def append(self, topic: str, partition: int, **message: Any) -> int:
        """Write a message; return its offset."""
        offset = self._broker._write((topic, partition), **message)
        self._wrote.append(((topic, partition), offset))
        return offset

    def commit(self) -> None:
        """Make all messages readable."""
        for place in dict.fromkeys(place for place, _ in self._wrote):
            log = self._broker.log(place)
            log.entries.append(None)
            log.stable = len(log.entries)

    def abort(self) -> None:
        """Make no message readable."""
        for place, offset in self._wrote:
            self._broker.log(place).entries[offset] = None
        self.commit()


@dataclass(slots=True, eq=False)
class Group:
    """A consumer group: the assigned partitions, the partitions to assign, and the offsets.

    owner:    changes only in a member's own poll, which first gives up partitions and then takes
              others.
    metadata: of the committed offsets that have some.
    """

    members: list[FakeConsumer] = field(default_factory=list)
    committed: dict[Place, int] = field(default_factory=dict)
    metadata: dict[Place, str] = field(default_factory=dict)
    owner: dict[Place, FakeConsumer] = field(default_factory=dict)
    target: dict[Place, FakeConsumer] = field(default_factory=dict)
    reported: set[int] = field(default_factory=set)

    def divide(self, target: Mapping[Place, FakeConsumer]) -> None:
        """Decide which member gets which partition; each member learns of it in its next poll."""
        self.target = dict(target)
        self.reported = set()

    def divide_evenly(self, places: Iterable[Place]) -> None:
        """Give each member an equal share of the partitions, in turn."""
        if self.members:
            self.divide(
                {
                    place: self.members[at % len(self.members)]
                    for at, place in enumerate(sorted(places))
                }
            )

    def given_up_by(self, member: FakeConsumer) -> list[Place]:
        """Return the partitions that a member must give up now."""
        return [
            place
            for place, owner in self.owner.items()
            if owner is member and self.target.get(place) is not member
        ]

    def free_for(self, member: FakeConsumer) -> list[Place]:
        """Return the partitions that a member may take now, because no other member has them."""
        return [
            place
            for place, taker in self.target.items()
            if taker is member and place not in self.owner
        ]

    def leave(self, member: FakeConsumer) -> None:
        """Remove a member that was closed or killed; the others get its partitions."""
        self.members.remove(member)
        places = list(self.target)
        self.owner = {p: owner for p, owner in self.owner.items() if owner is not member}
        stays = {p: owner for p, owner in self.target.items() if owner is not member}
        self.divide(stays)
        if self.members:
            lost = sorted(place for place in places if place not in stays)
            more = {p: self.members[at % len(self.members)] for at, p in enumerate(lost)}
            self.divide(stays | more)


class Broker:
    """The cluster.

    fetch:      how many messages one poll and the next consume return at most.
    down:       whether consumers and producers get no answer.
    commits:    error codes with which the next commits fail, in order.
    unwritten:  how many of the next flushes fail.
    restarts:   how often the cluster has restarted.
    ends:       error codes with which the next ends of transactions fail, in order.
    history:    what happened, in order: ("write", place, offset), ("commit", group, offsets), and
                what tests add.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.cluster = "cluster-1"
        self.fetch = 10_000
        self.down = False
        self.commits: list[int] = []
        self.unwritten = 0
        self.ends: list[int] = []
        self.restarts = 0
        self.history: list[tuple[Any, ...]] = []
        self.topics: dict[str, list[Log]] = {}
        self.groups: dict[str, Group] = {}
        self.epochs: dict[str, int] = {}

    # ---- topics --------------------------------------------------------------------------------

    def create(self, topic: str, partitions: int) -> None:
        """Create a topic, or create it again without its messages."""
        self.topics[topic] = [Log() for _ in range(partitions)]

    def places(self, topics: Iterable[str]) -> list[Place]:
        """Return the partitions of these topics."""
        return [(name, n) for name in topics for n in range(len(self.topics.get(name, ())))]

    def log(self, place: Place) -> Log:
        """Return one partition."""
        topic, number = place
        if number >= len(self.topics.get(topic, ())):
            raise failure(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return self.topics[topic][number]

    def offset_at(self, place: Place, milliseconds: int) -> int:
        """Return the offset of the first message at or after a time; -1 if there is none.

        The time OFFSET_BEGINNING means the first offset, the time OFFSET_END the offset before
        which everything is committed.
        """
        log = self.log(place)
        if milliseconds in (OFFSET_BEGINNING, OFFSET_END):
            return log.low if milliseconds == OFFSET_BEGINNING else log.stable
        return next(
            (
                message.offset() or 0
                for message in log.entries
                if message and message.timestamp()[1] >= milliseconds
            ),
            -1,
        )

    def append(self, topic: str, partition: int, **message: Any) -> int:
        """Write a message and return its offset.

        message: `key`, `value`, `headers`, and `time` in milliseconds.
        """
        offset = self._write((topic, partition), **message)
        log = self.log((topic, partition))
        log.stable = len(log.entries)
        return offset

    def transaction(self) -> Transaction:
        """Begin a transaction."""
        return Transaction(self)

    def compact(self, topic: str, partition: int, offset: int) -> None:
        """Remove one message, as compaction does."""
        self.log((topic, partition)).entries[offset] = None

    def messages(self, topic: str) -> list[Message]:
        """Return all messages of a topic that can be read, partition by partition."""
        return [m for log in self.topics.get(topic, ()) for m in log.entries[: log.stable] if m]

    def _write(
        self,
        place: Place,
        *,
        key: bytes | None = None,
        value: bytes | None = None,
        headers: Any = None,
        time: int | None = None,
    ) -> int:
        log = self.log(place)
        offset = len(log.entries)
        when = EPOCH + int(self.clock.now * 1000) if time is None else time
        log.entries.append(
            Message(
                topic=place[0],
                partition=place[1],
                offset=offset,
                key=key,
                value=value,
                headers=headers,
                timestamp=(1, when),
            )
        )
        self.history.append(("write", place, offset))
        return offset

    def partition(self, topic: str, key: bytes | None) -> int:
        """Return the partition for a producer's key."""
        return crc32(key or b"") % len(self.topics[topic])

    # ---- groups --------------------------------------------------------------------------------

    def group(self, name: str) -> Group:
        """Return a group; create it if it does not exist."""
        return self.groups.setdefault(name, Group())

    def commit(self, name: str, member: FakeConsumer, offsets: Mapping[Place, int]) -> None:
        """Commit as a member; raise for a partition of another member, as in a rebalance."""
        if self.commits:
            raise failure(self.commits.pop(0))
        group = self.group(name)
        if member not in group.members:
            raise failure(KafkaError.UNKNOWN_MEMBER_ID)
        if any(group.owner.get(place) is not member for place in offsets):
            raise failure(KafkaError.ILLEGAL_GENERATION)
        group.committed |= offsets
        self.history.append(("commit", name, dict(offsets)))

    def answer(self) -> None:
        """Raise if the cluster is down."""
        if self.down:
            raise failure(KafkaError._TRANSPORT)
