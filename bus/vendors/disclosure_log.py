"""The topics of the record of disclosures, for its one writer.

`PREFIX.disclosures` has the entries: one partition, kept forever, the number as the key.
`PREFIX.disclosures.students` has the table of students. Both are written in one transaction, so an
entry never names a commitment that the table lacks.

Several processes write entries: `bus vendors run` (who entered and left), `apply` and `revoke`
(what is shared), and every command that asks a question. A hash chain needs one writer at a time.
The lock is the transactional id `PREFIX/disclosures`. `take_over` starts a producer with it. From
then on, Kafka has ended the transaction of every earlier producer and refuses their next one
(KIP-98). A process that has taken over, and has then read the chain to its end, can append to it
until another process takes over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, Producer

from bus.delivery import Position
from bus.errors import BusError
from bus.kafka import topics
from bus.kafka.connection_watch import ConnectionWatch
from bus.kafka.kafka_errors import failure
from bus.kafka.reader import Reader, scan
from bus.kafka.transactions import STEP_SECONDS, fence, producer_settings
from bus.settings import Settings
from bus.vendors.disclosed_students import Row
from bus.vendors.disclosure_chain import head_of

if TYPE_CHECKING:
    from confluent_kafka import Message

FIRST_LOOK = 16
"""How many offsets from the end the search for the last entry begins. Control records of
transactions take offsets too."""
SILENCE = 30.0
"""Seconds without an answer after which Kafka counts as unavailable."""
TRANSACTION_MS = 60_000
"""After a kill, Kafka ends the open transaction after this time, or when the next writer starts."""
DOING = "write the record of disclosures"
LATER = "nothing was disclosed that it lacks; try again when Kafka is available"
TAKEN_OVER = (
    KafkaError._FENCED,
    KafkaError._FATAL,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.CONCURRENT_TRANSACTIONS,
)


TURN = ("GETPID", "ADDPARTS", "TXNERR", "FATAL")
"""librdkafka's log facilities for the messages that are normal when writers take turns."""


class NotTheWriter(Exception):  # noqa: N818 - it is no failure: take over and try again
    """Another process has taken over, or the connection broke. Take over again, then read."""


class _TurnWatch(ConnectionWatch):
    """A watch that logs the loss of a turn as a detail. librdkafka calls it a fatal error."""

    def log(self, level: int, text: str, *parts: str) -> None:
        quiet = bool(parts) and parts[0] in TURN
        super().log(logging.DEBUG if quiet else level, text, *parts)


class DisclosureLog:
    """The topics of the record, as its writer sees them. Use it from one thread only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entries = Position(topics.disclosures(settings), 0)
        self._students = Position(topics.disclosed_students(settings), 0)
        self._next: dict[Position, int] = {}
        self._producer: Producer | None = None
        self._watch = _TurnWatch()
        self._reader: Reader | None = None

    def take_over(self) -> None:
        """Become the only writer.

        Raises `NotTheWriter` if another process takes over at the same time. Raises `RetryLater` if
        Kafka does not answer, and `Stop` if it denies access.
        """
        self._drop()
        if self._reader is None:
            names = [self._entries.topic, self._students.topic]
            topics.ensure(self._settings, names)
            self._reader = Reader(self._settings, f"could not {DOING}: Kafka reports {{}}; {LATER}")
        self._watch = _TurnWatch()
        name = f"{self._settings.topic_prefix}/disclosures"
        more = {"transaction.timeout.ms": TRANSACTION_MS}
        self._producer = Producer(producer_settings(self._settings, name, self._watch) | more)
        try:
            fence(self._producer)
        except KafkaException as error:
            self._drop()
            raise _why(error) from None

    def entries(self) -> list[bytes]:
        """Return the entries since the last call. The first call returns only the last entry.

        Messages that are no entries are left out: `verify` reports them, and they must not stop
        the record. Raises `RetryLater` if Kafka does not answer.
        """
        if self._entries in self._next:
            found = self._read(self._entries, self._next[self._entries])
            return [value for message in found if head_of(value := message.value()) and value]
        low, high = self._open_reader().marks([self._entries])[self._entries]
        look = FIRST_LOOK
        while True:
            start = max(low, high - look)
            found = self._read(self._entries, start)
            values = [value for message in found if head_of(value := message.value()) and value]
            if values or start == low:
                return values[-1:]
            look *= 16

    def all_entries(self) -> list[bytes | None]:
        """Return the values of all messages of the record, in order.

        Raises `RetryLater` if Kafka does not answer.
        """
        return [message.value() for message in scan(self._settings, self._entries.topic)]

    def students(self) -> list[Row]:
        """Return the messages of the table of students since the last call; at first, all.

        Raises `RetryLater` if Kafka does not answer.
        """
        found = self._read(self._students, self._next.get(self._students, 0))
        return [(message.key() or b"", message.value()) for message in found]

    def append(self, entries: Sequence[tuple[int, bytes]], rows: Sequence[Row]) -> None:
        """Append entries and messages of the table in one transaction.

        Raises `NotTheWriter` if `take_over` is needed again. Raises `RetryLater` or `Stop` if Kafka
        fails. In all these cases, the transaction may still have been committed: read the entries
        to find out.

        entries: each with its number.
        """
        producer = self._producer
        if producer is None:
            raise NotTheWriter
        try:
            producer.poll(0)
            if self._watch:
                raise NotTheWriter
            producer.begin_transaction()
            for key, value in rows:
                _produce(producer, self._students.topic, key, value)
            for number, entry in entries:
                _produce(producer, self._entries.topic, str(number).encode(), entry)
            producer.commit_transaction(STEP_SECONDS)
        except NotTheWriter:
            self._drop()
            raise
        except KafkaException as error:
            self._drop()
            raise _why(error) from None
        except BaseException:  # Ctrl-C: the next `take_over` ends the transaction
            self._drop()
            raise

    def close(self) -> None:
        """Close the clients."""
        self._drop()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _open_reader(self) -> Reader:
        if self._reader is None:
            raise NotTheWriter
        return self._reader

    def _read(self, place: Position, start: int) -> list[Message]:
        """Return the messages from an offset to the end, and remember the end."""
        reader = self._open_reader()
        batches = reader.batches({place: start}, silence=SILENCE)
        found = [message for batch in batches for message in batch]
        self._next |= reader.reached
        return found

    def _drop(self) -> None:
        """Drop the producer. Kafka ends its open transaction when a writer takes over."""
        if self._producer is not None:
            with suppress(KafkaException):  # a producer from which another one has taken over
                self._producer.purge()
                self._producer.flush(5)
            self._producer = None


def _produce(producer: Producer, topic: str, key: bytes, value: bytes | None) -> None:
    while True:
        try:
            producer.produce(topic, value, key, 0)
            return
        except BufferError:  # librdkafka's queue is full: wait until it has room
            producer.poll(0.1)


def _why(error: KafkaException) -> NotTheWriter | BusError:
    found = error.args[0]
    # A new producer helps after a fatal error too, whatever its cause.
    if found.code() in TAKEN_OVER or found.fatal():
        return NotTheWriter()
    return failure(DOING, found, later=LATER)
