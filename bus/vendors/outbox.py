"""The messages that the projection must still send, in the file of the view.

The projection commits a batch to the file together with the messages that follow from it. Only then
it sends the messages, and then removes them from the file. After a kill, it sends them again. It
sends only the last state of each record, so a repeated message never replaces a newer state.

A thread sends while the projection computes the next batch. Only one batch is on the way at a time,
so an older state never follows a newer one.

An idempotent producer without transactions sends the messages. Each message is the whole state of a
record, so it does no harm to repeat it. A transaction would write a marker into each changed
partition of each vendor at every commit, and a vendor could read aborted data anyway.

Two vendors cannot use the headers to join their data: the event's id is random for each vendor, the
source is the same for all events, times are cut to the second (for studies: to the day), and the
trace is left out.

The extension attribute `scope` (the header `ce_scope`) says under which edition of the agreement a
message was written. After a change of the agreement, the projection writes everything again with
another value. So a consumer that lags recognizes the messages of an earlier edition, and skips
them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from bus.errors import RetryLater
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import CONTENT_TYPE, TYPE_PREFIX
from bus.kafka.kafka_errors import failure
from bus.settings import Settings
from bus.vendors.asking import Asking, NotAnswered, NotAsking, SaidBefore
from bus.vendors.district_view import DistrictView
from bus.vendors.outbox_rows import EVENT_DIGITS, OutboxRows, OutgoingBatch
from bus.vendors.words_to_say import WaitingWord

SOURCE = b"/schoolbus"
SCOPE = "ce_scope"
"""The header with the edition of the agreement under which a message was written."""
SECONDS = 60.0
DAY_SECONDS = 86_400
PORTION = 20_000
"""About how many messages the thread has in memory at a time."""
PRODUCER = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 5,
    "queue.buffering.max.messages": 200_000,
    "delivery.report.only.error": True,
}
"""The librdkafka settings of the producer."""


def event_type(kind: str, change: str) -> str:
    """Return the CloudEvents type: `org.schoolbus.KIND.updated`, `.withdrawn` or `.deleted`."""
    return f"{TYPE_PREFIX}{kind}.{change}"


def scope_mark(edition: str) -> str:
    """Return the value of the header `SCOPE` for an agreement's `Applied.edition`."""
    return edition[:16]


def headers(event: str, type_: str, at: int, scope: bytes) -> list[tuple[str, bytes]]:
    """Return the headers of a message: the CloudEvents id, type and time, and the constant ones.

    at:    in seconds since 1970-01-01 UTC.
    scope: the value of the header `SCOPE`.
    """
    return [("ce_id", event.encode()), *shared_headers(type_, at, scope)]


def shared_headers(type_: str, at: int, scope: bytes) -> list[tuple[str, bytes]]:
    """Return the headers that messages of one type and time share: all but the event's id."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_type", type_.encode()),
        ("ce_source", SOURCE),
        (SCOPE, scope),
        ("ce_time", _time(at)),
        ("content-type", CONTENT_TYPE.encode()),
    ]


@lru_cache(maxsize=16)
def _time(at: int) -> bytes:
    return datetime.fromtimestamp(at, UTC).isoformat().encode()


class Disclosing(Protocol):
    """The record of disclosures, as far as the outbox writes it (`DisclosureWriter`)."""

    def entered(self, name: str, students: Sequence[str], at: datetime) -> None:
        """Record that a vendor receives data about these students from now on."""

    def left(self, name: str, students: Sequence[str], at: datetime) -> None:
        """Record that a vendor receives no more data about these students."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What is on the way to Kafka.

    last:   the last row of the file that is sent.
    noted:  the last note of who entered or left.
    notes:  the agreement, whether the student entered, and the student.
    asked:  what the common shard is asked for.
    at:     when the sending began.
    number: gives the number of messages when Kafka has stored them.
    """

    last: int
    noted: int
    notes: list[tuple[str, int, str]]
    asked: list[WaitingWord]
    at: datetime
    number: Future[int]


class Outbox:
    """The messages and the disclosures that the last commits must send. For one thread.

    Call `begin` after a commit, and `confirm` before anything that depends on what is sent: the
    ends of vendors' topics, the record of disclosures, and the end of an agreement.

    disclosures: the record of disclosures. While something is on the way, only the outbox uses it.
    asking:      what the common shard is asked for, if this shard has students.
    """

    def __init__(
        self,
        settings: Settings,
        view: DistrictView,
        disclosures: Disclosing,
        asking: Asking | NotAsking | None = None,
    ) -> None:
        self._con = view.con
        self._rows = OutboxRows(view.con)
        self._disclosures = disclosures
        self._asking = asking or NotAsking()
        self._refused: list[KafkaError] = []
        self._producer = Producer(client_settings(settings) | PRODUCER)
        self._thread = ThreadPoolExecutor(1, "to-vendors")
        self._closing = threading.Event()
        self._given = 0  # the highest number that this object has given to a note
        self._sending: Sending | None = None

    def add(self, messages: Iterable[OutgoingBatch]) -> None:
        """Add messages, in their order, within the transaction of the view."""
        self._rows.add(messages)

    def note(self, agreement: str, students: Iterable[str], *, entered: bool) -> None:
        """Add that students entered or left, within the transaction of the view."""
        # No number comes again, for the same reason as in `OutboxRows`.
        first = max(self._last_note(), self._given) + 1
        notes = [
            (number, agreement, student, entered) for number, student in enumerate(students, first)
        ]
        self._given = max(self._given, first + len(notes) - 1)
        self._con.executemany(
            "INSERT INTO disclosed (number, agreement, student, entered) VALUES (?, ?, ?, ?)", notes
        )

    def _last_note(self) -> int:
        """Return the number of the last note; 0 if there is none."""
        return self._con.execute("SELECT max(number) FROM disclosed").fetchone()[0] or 0

    def forget(self, agreement: str, *, deletions: bool = True) -> None:
        """Remove the messages of an agreement, within the transaction of the view.

        Nothing may be on the way: call `confirm` before the transaction.

        deletions: whether deletions are removed too.
        """
        self._rows.forget(agreement, deletions=deletions)

    def forget_entered(self, agreement: str) -> None:
        """Remove the notes of who entered, within the transaction of the view.

        Nothing may be on the way: call `confirm` before the transaction.
        """
        self._con.execute("DELETE FROM disclosed WHERE agreement = ? AND entered", [agreement])

    def begin(self, active: Mapping[str, str]) -> int:
        """Begin to send what was added, after what is on the way.

        Messages of other agreements are dropped. The record of disclosures names the students who
        entered before the first message is sent. Calls `confirm` first, and returns what it
        returns.

        active: the agreements that are active now, with their editions.
        """
        confirmed = self.confirm()
        last = self._rows.last
        noted = self._last_note()
        asked, said = self._asking.rows(), self._asking.said()
        if not last and not noted and not asked:
            return confirmed
        at = datetime.now(UTC)
        notes = self._con.execute(
            "SELECT agreement, entered, student FROM disclosed WHERE number > ? OR NOT entered "
            "ORDER BY number",
            [said.note],
        ).fetchall()
        sent: Future[int] = Future()
        sent.set_result(0)
        if self._asking.waits:  # deletions must not wait for another shard
            sent = self._send(active, sent, deletions=True)
        sent = self._thread.submit(self._before, notes, active, at, asked, said, sent)
        sent = self._send(active, sent, deletions=False if self._asking.waits else None)
        self._sending = Sending(last, noted, notes, asked, at, sent)
        return confirmed

    def _send(
        self, active: Mapping[str, str], before: Future[int], *, deletions: bool | None
    ) -> Future[int]:
        """Let the thread send the last states of records, after what was sent before.

        deletions: whether to send the deletions alone, or all others; None: both.
        """
        latest = (one for one in self._rows.latest() if one.agreement in active)
        last: Future[int] | None = None
        for portion in portions(_only(latest, deletions)):
            if last is not None:
                wait([last])  # so that the thread has few portions at a time
            last = before
            before = self._thread.submit(self._send_messages, portion, active, before)
        return before

    def confirm(self) -> int:
        """Wait until Kafka has stored what is on the way, and remove it from the file.

        Returns the number of messages. Raises `RetryLater` if Kafka does not answer.
        """
        done, self._sending = self._sending, None
        if done is None:
            return 0
        try:
            with _explained():
                number = done.number.result()
        except NotAnswered:
            self._asking.keep(done.asked, done.noted)
            raise
        with _explained():
            self._disclose(done.notes, (), done.at, entered=False)
            self._asking.after(done.asked)
        # Do not wait for the disk: the next batch's commit does. After a power failure, the rows
        # may be there again, and are sent again.
        self._con.execute("PRAGMA synchronous = NORMAL")
        self._con.execute("BEGIN IMMEDIATE")
        self._rows.remove(done.last)
        self._con.execute("DELETE FROM disclosed WHERE number <= ?", [done.noted])
        self._asking.remove(done.asked)
        self._con.execute("COMMIT")
        return number

    def settle(self) -> None:
        """Wait until nothing is on the way. It stays in the file until `confirm`."""
        if self._sending is not None:
            wait([self._sending.number])

    def _before(
        self,
        notes: list[tuple[str, int, str]],
        active: Collection[str],
        now: datetime,
        asked: list[WaitingWord],
        said: SaidBefore,
        before: Future[int],
    ) -> int:
        """Do what must be done before the states of records are sent.

        before: what was sent before, on the same thread.

        Returns the number of messages sent so far: `_send_messages` adds to it.
        """
        number = before.result()
        self._disclose(notes, active, now, entered=True)
        self._asking.before(asked, said)
        return number

    def _disclose(
        self,
        notes: list[tuple[str, int, str]],
        active: Collection[str],
        now: datetime,
        *,
        entered: bool,
    ) -> None:
        """Write to the record who entered, or who left and did not enter again.

        active: the agreements whose students may be recorded as entered.
        """
        for agreement, rows in groupby(sorted(notes, key=lambda one: one[0]), lambda one: one[0]):
            latest = {student: bool(was) for _, was, student in rows}
            students = [one for one, was in latest.items() if was is entered]
            if not students or (entered and agreement not in active):
                continue
            if entered:
                self._disclosures.entered(agreement, students, now)
            else:
                self._disclosures.left(agreement, students, now)

    def _send_messages(
        self,
        messages: Iterable[OutgoingBatch],
        active: Mapping[str, str],
        before: Future[int],
    ) -> int:
        """Send messages in their order, and wait until they are stored.

        before: what was sent before, on the same thread. If that failed, nothing is sent.

        Returns the number of messages, those before included.
        """
        scopes = {name: scope_mark(edition).encode() for name, edition in active.items()}
        number = before.result()
        level = ""
        for batch in messages:
            kind = batch.topic.rpartition(".")[2]
            if kind != level and any(value is not None for value in batch.values):
                self._flush()  # what a record refers to is stored before the record
                level = kind
            shared = shared_headers(batch.type, batch.at, scopes[batch.agreement])
            self._produce(batch, shared)
            number += len(batch)
        self._flush()
        return number

    def _produce(self, batch: OutgoingBatch, shared: list[tuple[str, bytes]]) -> None:
        """Hand messages to librdkafka. It runs for every message, so it uses local names only."""
        produce, poll, delivered = self._producer.produce, self._producer.poll, self._delivered
        topic, timestamp = batch.topic, batch.at * 1000
        events = batch.events.encode()
        at = 0
        for part, key, value in zip(batch.partitions, batch.keys, batch.values, strict=True):
            about = [("ce_id", events[at : at + EVENT_DIGITS]), *shared]
            at += EVENT_DIGITS
            while True:
                try:
                    produce(
                        topic,
                        value,
                        key,
                        part,
                        headers=about,  # type: ignore[arg-type]
                        timestamp=timestamp,
                        on_delivery=delivered,
                    )
                    break
                except BufferError:  # librdkafka's queue is full: wait until it has room
                    poll(0.1)
        poll(0)

    def _flush(self) -> None:
        if self._closing.is_set():
            raise RetryLater("the projection ends")
        waiting = self._producer.flush(SECONDS)
        refused, self._refused = self._refused, []
        if refused:
            raise failure("send to vendors", refused[0])
        if waiting:
            raise RetryLater(f"Kafka did not confirm messages to vendors in {SECONDS:g} s")

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._refused.append(error)

    def close(self) -> None:
        """Drop what was not sent; it stays in the file."""
        self._closing.set()
        self._producer.purge()
        self._thread.shutdown()
        self._producer.purge()
        self._producer.flush(5)


def portions(messages: Iterable[OutgoingBatch]) -> Iterator[list[OutgoingBatch]]:
    """Yield messages in their order, about `PORTION` at a time."""
    some: list[OutgoingBatch] = []
    number = 0
    for batch in messages:
        some.append(batch)
        number += len(batch)
        if number >= PORTION:
            yield some
            some, number = [], 0
    if some:
        yield some


def _only(messages: Iterable[OutgoingBatch], deletions: bool | None) -> Iterator[OutgoingBatch]:
    """Yield deletions alone, or all others, in their order; None: both."""
    for batch in messages:
        if deletions is None:
            yield batch
        else:
            some = batch.part(
                at for at, value in enumerate(batch.values) if (value is None) is deletions
            )
            if some.keys:
                yield some


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise failure("send to vendors", error.args[0]) from None
