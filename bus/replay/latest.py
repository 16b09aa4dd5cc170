"""Finds the messages that hold a record's current state, and follows the topics as they grow.

**Never back in time.** Some products take states, such as a folder of files: what is written last
wins. To such a product, a replay delivers a message only if that is still its record's current
state at the moment of delivery. A record that has a newer event is left to the live consumer,
which has delivered that event or will.

The delivery makes sure of it under the lock that it shares with the live consumer. It checks that
the live consumer has delivered nothing beyond what was read here
(`bus.delivery.Redelivery.redeliver`). If it has, the replay reads on and tries again.

A product that takes events, such as a webhook, gets each event with its own id and time. By these
the receiver knows which events it has, and which of two states is older
(`bus.product.Product.tells_time`).

Some deliveries have no such lock (Canvas's API). There the topics are read again after each batch
too. A record that has changed in between is delivered once more in its current state, so what is
delivered last is the newest.

The current state of a record is looked up within its partition. An enrollment that moves to another
student ends in the one's partition and begins in the other's.

Memory: one byte for each message of the window, and 16 more for each message of the topic that is
being read. For events after the window's end: the hashes of their keys, and with `keep` the
messages.
"""

from __future__ import annotations

import numpy
from confluent_kafka import IsolationLevel, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka.client import client_settings
from bus.kafka.reader import Reader, scan
from bus.replay.window import Window
from bus.settings import Settings

COMMITTED = IsolationLevel.READ_COMMITTED
Hashes = numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]


class LatestStates:
    """The current states of the records of a window; see the module's docstring.

    The constructor reads the keys of `window`. `follow` reads what comes after it.

    keep: whether to keep the messages after the window, which `newest` needs.
    seen: for each partition, the offset up to which it has been read.
    """

    def __init__(self, settings: Settings, window: Window, *, keep: bool = False) -> None:
        self.seen: dict[Position, int] = dict(window.stop)
        self._start = window.start
        self._masks: dict[Position, numpy.ndarray[tuple[int], numpy.dtype[numpy.bool_]]] = {}
        self._keep = keep
        self._changed: dict[Position, dict[int, Message | None]] = {
            place: {} for place in window.start
        }
        for topic in dict.fromkeys(place.topic for place in window.start):
            self._look(settings, topic, window)
        self._settings = settings
        self._admin: AdminClient | None = None
        self._tail = Reader(settings, "could not read new events: Kafka says {}; try again later")
        self._tail.assign(self.seen)

    def _look(self, settings: Settings, topic: str, window: Window) -> None:
        start = {p.partition: at for p, at in window.start.items() if p.topic == topic}
        stop = {p.partition: at for p, at in window.stop.items() if p.topic == topic}
        columns = {number: _Columns() for number in start}
        for message in scan(settings, topic, start=start, stop=stop):
            columns[message.partition() or 0].add(hash(message.key()), message.offset() or 0)
        for number, column in columns.items():
            mask = numpy.zeros(stop[number] - start[number], dtype=numpy.bool_)
            hashes, at = column.arrays()
            # `unique` finds the first of each key; in reverse order that is the last one.
            _, last = numpy.unique(hashes[::-1], return_index=True)
            mask[at[::-1][last] - start[number]] = True
            self._masks[Position(topic, number)] = mask

    def follow(self) -> None:
        """Read what has arrived by now. Raises `RetryLater` when Kafka does not answer."""
        if self._admin is None:
            self._admin = AdminClient(client_settings(self._settings))
        try:
            asked = {TopicPartition(*p): OffsetSpec.latest() for p in self.seen}  # type: ignore[no-untyped-call]
            answers = self._admin.list_offsets(asked, isolation_level=COMMITTED)
            left = {
                place
                for p, answer in answers.items()
                if answer.result().offset > self.seen[place := Position(p.topic, p.partition)]
            }
        except KafkaException as error:
            # Use a new client next time. After a restart of Kafka, this one would send the old
            # leader epochs forever: librdkafka keeps its metadata after FENCED_LEADER_EPOCH.
            self._admin = None
            raise RetryLater(
                f"could not read the ends of the topics: Kafka says {error.args[0].name()}; try "
                "again when it is up"
            ) from None
        while left:
            messages, ended = self._tail.take(patience=10.0)
            if not messages and not ended:
                raise RetryLater("Kafka does not answer; the replay continues when it does")
            for message in messages:
                place = Position(message.topic() or "", message.partition() or 0)
                self._changed[place][hash(message.key())] = message if self._keep else None
                self.seen[place] = (message.offset() or 0) + 1
            for place, end in ended:
                self.seen[place] = max(self.seen[place], end)
                left.discard(place)

    def is_latest(self, place: Position, offset: int, key: bytes | None) -> bool:
        """Return whether the record had no newer event when the topics were last read."""
        at = offset - self._start[place]
        return bool(self._masks[place][at]) and hash(key) not in self._changed[place]

    def newest(self, message: Message) -> Message:
        """Return the newest message of the message's record, which may be the message itself."""
        place = Position(message.topic() or "", message.partition() or 0)
        return self._changed[place].get(hash(message.key())) or message

    def close(self) -> None:
        """Close the client."""
        self._tail.close()


class _Columns:
    """Hashes of keys and their offsets in two columns, packed into numpy arrays as they grow."""

    def __init__(self) -> None:
        self._done: list[tuple[Hashes, Hashes]] = []
        self._keys: list[int] = []
        self._offsets: list[int] = []

    def add(self, key: int, offset: int) -> None:
        self._keys.append(key)
        self._offsets.append(offset)
        if len(self._keys) == 100_000:
            self._pack()

    def _pack(self) -> None:
        packed = (
            numpy.array(self._keys, dtype=numpy.int64),
            numpy.array(self._offsets, dtype=numpy.int64),
        )
        self._done.append(packed)
        self._keys, self._offsets = [], []

    def arrays(self) -> tuple[Hashes, Hashes]:
        self._pack()
        keys, offsets = zip(*self._done, strict=True)
        return numpy.concatenate(keys), numpy.concatenate(offsets)
