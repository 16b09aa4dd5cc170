"""Which messages hold a record's latest state, as the topics stand and as they go on.

**Never back in time.** Into a product that takes states (a folder of files: what comes last holds),
a replay brings only what is still a record's latest state in the topics at the very moment of
delivery; all that a newer one follows is left to the live consumer, which has told it or will. The
delivery checks, under the lock that it shares with the live consumer, that this one has delivered
nothing beyond what was looked at (`bus.delivery.Redelivery.redeliver`); else it is looked at again.
A product that takes events (a webhook) gets each with its own id and time, by which the receiver
knows what it has and which of two states is the older (`bus.product.Product.tells_time`).

Where a delivery has no such lock (Canvas's API), it is looked up after each batch as well, and a
record that has changed meanwhile is told once more as it now stands: the last word is the latest.

A record's latest is looked for within its partition: an enrollment that goes to another student
ends in the one's and begins in the other's.

Memory: one byte for each message of the window, and 16 more for those of one topic while it is
read; of what has come since the window's end the keys' hashes (and with `keep` the messages).
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
    """See the module's docstring. Reads the keys of `window` when it is made, and what comes after
    it when it is asked to `follow`.

    keep: whether `newest` will be asked, for which what has come meanwhile is kept.
    seen: for each partition up to where has been looked.
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
        self._tail = Reader(settings, "Kafka says {} when read")
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
            # The last of each: the first when they are looked at from the end.
            _, last = numpy.unique(hashes[::-1], return_index=True)
            mask[at[::-1][last] - start[number]] = True
            self._masks[Position(topic, number)] = mask

    def follow(self) -> None:
        """Look at all that has come by now; raises `RetryLater` when Kafka does not answer."""
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
            # After a restart of Kafka the same client would ask with the old leaders' epochs for
            # ever: librdkafka does not ask for metadata again when it hears FENCED_LEADER_EPOCH.
            self._admin = None
            raise RetryLater(f"Kafka says {error.args[0].name()} when asked for ends") from None
        while left:
            messages, ended = self._tail.take(patience=10.0)
            if not messages and not ended:
                raise RetryLater("Kafka does not answer; the replay goes on when it does")
            for message in messages:
                place = Position(message.topic() or "", message.partition() or 0)
                self._changed[place][hash(message.key())] = message if self._keep else None
                self.seen[place] = (message.offset() or 0) + 1
            for place, end in ended:
                self.seen[place] = max(self.seen[place], end)
                left.discard(place)

    def is_latest(self, place: Position, offset: int, key: bytes | None) -> bool:
        """Whether nothing newer of the record was there when it was last looked."""
        at = offset - self._start[place]
        return bool(self._masks[place][at]) and hash(key) not in self._changed[place]

    def newest(self, message: Message) -> Message:
        """What holds the latest state of a message's record, be it this message."""
        place = Position(message.topic() or "", message.partition() or 0)
        return self._changed[place].get(hash(message.key())) or message

    def close(self) -> None:
        """Let go of the client."""
        self._tail.close()


class _Columns:
    """Hashes of keys and offsets, side by side; in numpy's form as soon as there are many."""

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
