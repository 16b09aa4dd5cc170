"""Until when a vendor's program has missed no deletion, for `bus.subscribe`.

See `bus.kafka.late_groups` for the reasons.
"""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from bus.delivery import Position
from bus.errors import Stop
from bus.kafka import late_groups, topics
from bus.kafka.reader import first_since

TIMEOUT = 30.0
"""Seconds after which a request counts as unanswered."""


class ReadingTimes:
    """Until when a vendor's program has missed no deletion, for each partition that it reads.

    Each committed offset has this time (`bus.kafka.late_groups`). A program that is away for too
    long after it may miss a deletion.
    """

    def __init__(self, consumer: Consumer, agreement: str) -> None:
        self._consumer = consumer
        self._agreement = agreement
        self._complete_at: dict[Position, int] = {}
        self._committed_at: dict[Position, int] = {}  # the time that Kafka has, or will have soon
        self._ends: dict[Position, int] = {}  # of the partitions that are read to their end

    def check(self, places: set[Position], anew: set[Position]) -> None:
        """Begin to read these partitions. Raises `Stop` if the group may have missed a deletion.

        Raises `KafkaException` if Kafka does not answer.

        anew: those of the partitions that are read from the first message.
        """
        asked = [TopicPartition(*place) for place in sorted(places - anew)]
        committed = self._consumer.committed(asked, timeout=TIMEOUT) if asked else []
        for one in committed:
            if one.error is not None:
                raise KafkaException(one.error)
        read = [one for one in committed if one.offset >= 0]
        oldest = late_groups.oldest_deletion()
        handled = {Position(one.topic, one.partition): late_groups.complete_at(one) for one in read}
        first = first_since(self._consumer, handled, oldest, TIMEOUT)
        if late := late_groups.late(read, first, oldest):
            raise _missed(self._agreement, late)
        # A partition of which the group has handled nothing is read from the first message.
        now = late_groups.now()
        self._complete_at |= dict.fromkeys(places, now) | handled
        self._committed_at |= dict.fromkeys(places, 0) | handled

    def forget(self, places: set[Position]) -> None:
        """Forget partitions that another instance reads now."""
        for place in places:
            for known in (self._complete_at, self._committed_at, self._ends):
                known.pop(place, None)

    def handled(self, message: Message) -> TopicPartition:
        """Return the offset after a message that was handled, with its metadata."""
        place = Position(message.topic() or "", message.partition() or 0)
        self._ends.pop(place, None)
        # All messages that were written before this one were handled before it.
        written = message.timestamp()[1]
        self._complete_at[place] = max(self._complete_at.get(place, 0), written)
        return self.part(place, (message.offset() or 0) + 1, message.leader_epoch())

    def part(self, place: Position, offset: int, epoch: int | None = None) -> TopicPartition:
        """Return an offset of a partition, with its metadata."""
        text = late_groups.metadata(self._complete_at.get(place, 0))
        if epoch is None:
            return TopicPartition(*place, offset, text)
        return TopicPartition(*place, offset, text, epoch)

    def ended(self, place: Position, end: int) -> TopicPartition | None:
        """Note that all messages before this offset were handled.

        Returns the offset with its metadata, or None if another instance reads the partition now.
        """
        if place not in self._complete_at:
            return None
        self._ends[place] = end
        self._complete_at[place] = late_groups.now()
        return self.part(place, end)

    def due(self) -> dict[Position, int]:
        """Return the ends of partitions whose time must be committed now: once a day.

        The caller must commit them.
        """
        now = late_groups.now()
        due = {
            place: end
            for place, end in self._ends.items()
            if now - self._committed_at[place] >= topics.DAY
        }
        self._complete_at |= dict.fromkeys(due, now)
        self._committed_at |= dict.fromkeys(due, now)
        return due


def _missed(agreement: str, late: list[Position]) -> Stop:
    days, names = topics.DELETION_DAYS, ", ".join(sorted({place.topic for place in late}))
    return Stop(
        f"your program has left messages of agreement {agreement} unread for more than {days} "
        f"days, in {names}. Kafka keeps a deletion for {days} days. So you may have missed "
        "deletions, and may keep data that you must no longer have. Delete everything that you "
        "keep of this agreement. Then read once with subscribe(..., anew=True), which starts at "
        "the first message"
    )
