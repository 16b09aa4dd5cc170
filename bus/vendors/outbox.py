"""What the projection must still send, in the file of the view.

A batch is committed to the file together with the messages that follow from it. Only then are they
sent, and then they are removed. After a kill they are sent again. Of several states of one record
only the last one is sent, so what is sent again never takes a record back.

The messages are sent by an idempotent producer without transactions. Each message is the whole
state of a record, so it does no harm to repeat it. A transaction would write a marker into each
touched partition of each vendor at every commit, and a vendor could read aborted data anyway.

The headers join no two vendors: the event's id is random for each vendor, the source is the same
for all events, times are cut to the second (for studies: to the day), and the trace is left out.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby, islice
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from bus.errors import RetryLater
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import CONTENT_TYPE, TYPE_PREFIX
from bus.kafka.kafka_errors import failure
from bus.settings import Settings
from bus.vendors.disclosures import DisclosureWriter
from bus.vendors.district_view import DistrictView

SOURCE = b"/schoolbus"
SECONDS = 60.0
DAY_SECONDS = 86_400
ROW_MESSAGES = 20_000
"""The largest number of messages in one row of the file."""
EVENT_DIGITS = 24
"""Hexadecimal digits of an event's id."""
PRODUCER = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 5,
    "queue.buffering.max.messages": 200_000,
    "delivery.report.only.error": True,
}
"""The librdkafka settings of the producer."""


Place = tuple[str, int, str]
"""A topic, a partition and a key."""


class Outgoing(NamedTuple):
    """A message to a vendor.

    agreement: the agreement's name.
    topic, partition, key, value: as Kafka has them.
    type:      the CloudEvents type.
    at:        the CloudEvents time and Kafka's time, in whole seconds since 1970-01-01 UTC.
    """

    agreement: str
    topic: str
    partition: int
    key: str
    value: bytes | None
    type: str
    at: int


def event_type(kind: str, change: str) -> str:
    """Return the CloudEvents type: `org.schoolbus.KIND.updated`, `.withdrawn` or `.deleted`."""
    return f"{TYPE_PREFIX}{kind}.{change}"


def headers(event: str, type_: str, at: int) -> list[tuple[str, bytes]]:
    """Return the headers of a message: the CloudEvents id, type and time, and what is constant.

    at: in seconds since 1970-01-01 UTC.
    """
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event.encode()),
        ("ce_type", type_.encode()),
        ("ce_source", SOURCE),
        ("ce_time", _time(at)),
        ("content-type", CONTENT_TYPE.encode()),
    ]


@lru_cache(maxsize=16)
def _time(at: int) -> bytes:
    return datetime.fromtimestamp(at, UTC).isoformat().encode()


class Outbox:
    """The messages and the disclosures that the last commits must send. For one thread.

    disclosures: the record of disclosures.
    """

    def __init__(
        self, settings: Settings, view: DistrictView, disclosures: DisclosureWriter
    ) -> None:
        self._con = view.con
        self._disclosures = disclosures
        self._refused: list[KafkaError] = []
        self._producer = Producer(client_settings(settings) | PRODUCER)

    def add(self, messages: Iterable[Outgoing]) -> None:
        """Add messages, in their order, within the transaction of the view."""
        rest = iter(messages)
        while some := list(islice(rest, ROW_MESSAGES)):
            events = secrets.token_hex(EVENT_DIGITS // 2 * len(some))
            self._insert(
                [
                    (one, events[EVENT_DIGITS * at : EVENT_DIGITS * (at + 1)])
                    for at, one in enumerate(some)
                ]
            )

    def _insert(self, messages: Sequence[tuple[Outgoing, str]]) -> None:
        """Store messages, with the ids of their events, as one row."""
        about = [
            (
                one.agreement,
                one.topic,
                one.partition,
                one.key,
                None if one.value is None else len(one.value),
                one.type,
                one.at,
                event,
            )
            for one, event in messages
        ]
        data = b"".join(one.value for one, _ in messages if one.value is not None)
        self._con.execute(
            "INSERT INTO outbox (about, data) VALUES (?, ?)", [json.dumps(about), data]
        )

    def _row(self, number: int) -> Iterator[tuple[Outgoing, str]]:
        """Yield the messages of a row, with the ids of their events."""
        about, data = self._con.execute(
            "SELECT about, data FROM outbox WHERE number = ?", [number]
        ).fetchone()
        at = 0
        for agreement, topic, part, key, size, type_, time, event in json.loads(about):
            value = None if size is None else data[at : at + size]
            at += size or 0
            yield Outgoing(agreement, topic, part, key, value, type_, time), event

    def _numbers(self) -> list[int]:
        """Return the numbers of the rows, in order."""
        return [n for (n,) in self._con.execute("SELECT number FROM outbox ORDER BY number")]

    def _latest(self) -> Iterator[tuple[Outgoing, str]]:
        """Yield the last state of each record, in order."""
        numbers = self._numbers()
        last_row: dict[Place, int] = {}
        if len(numbers) > 1:
            for number in numbers:
                last_row |= {_place(one): number for one, _ in self._row(number)}
        for number in numbers:
            last: dict[Place, tuple[Outgoing, str]] = {}
            for pair in self._row(number):
                last.pop(place := _place(pair[0]), None)
                last[place] = pair
            for place, pair in last.items():
                if last_row.get(place, number) == number:
                    yield pair

    def note(self, agreement: str, students: Iterable[str], *, entered: bool) -> None:
        """Add that students entered or left, within the transaction of the view."""
        self._con.executemany(
            "INSERT INTO disclosed (agreement, student, entered) VALUES (?, ?, ?)",
            [(agreement, student, entered) for student in students],
        )

    def forget(self, agreement: str) -> None:
        """Remove the messages of an agreement, within the transaction of the view."""
        for number in self._numbers():
            kept = [pair for pair in self._row(number) if pair[0].agreement != agreement]
            self._con.execute("DELETE FROM outbox WHERE number = ?", [number])
            if kept:
                self._insert(kept)

    def send(self, active: Collection[str]) -> int:
        """Send what was added, wait until Kafka has stored it, and remove it.

        active: the agreements that hold now; what was meant for others is dropped. Who entered is
                in the record of disclosures before the first message is sent. Returns the number of
                messages. Raises `RetryLater` if Kafka does not answer.
        """
        last = self._con.execute("SELECT max(number) FROM outbox").fetchone()[0] or 0
        noted = self._con.execute("SELECT max(number) FROM disclosed").fetchone()[0] or 0
        if not last and not noted:
            return 0
        now = datetime.now(UTC)
        notes = self._con.execute(
            "SELECT agreement, entered, student FROM disclosed ORDER BY number"
        ).fetchall()
        with _explained():
            self._disclose(notes, active, now, entered=True)
            number = self._send_messages(active)
            self._disclose(notes, active, now, entered=False)
        self._con.execute("BEGIN IMMEDIATE")
        self._con.execute("DELETE FROM outbox WHERE number <= ?", [last])
        self._con.execute("DELETE FROM disclosed WHERE number <= ?", [noted])
        self._con.execute("COMMIT")
        return number

    def _disclose(
        self,
        notes: list[tuple[str, int, str]],
        active: Collection[str],
        now: datetime,
        *,
        entered: bool,
    ) -> None:
        """Write who entered, or who left and did not enter again."""
        for agreement, rows in groupby(sorted(notes, key=lambda one: one[0]), lambda one: one[0]):
            latest = {student: bool(was) for _, was, student in rows}
            students = [one for one, was in latest.items() if was is entered]
            if not students or (entered and agreement not in active):
                continue
            if entered:
                self._disclosures.entered(agreement, students, now)
            else:
                self._disclosures.left(agreement, students, now)

    def _send_messages(self, active: Collection[str]) -> int:
        """Send the last state of each record, in order."""
        number = 0
        level = ""
        for one, event in self._latest():
            if one.agreement not in active:
                continue
            if one.value is not None and (kind := one.topic.rpartition(".")[2]) != level:
                self._flush()  # what a record refers to is stored before the record
                level = kind
            self._produce(one, headers(event, one.type, one.at))
            number += 1
        self._flush()
        return number

    def _produce(self, one: Outgoing, about: list[tuple[str, bytes]]) -> None:
        while True:
            try:
                self._producer.produce(
                    one.topic,
                    one.value,
                    one.key,
                    one.partition,
                    headers=about,  # type: ignore[arg-type]
                    timestamp=one.at * 1000,
                    on_delivery=self._delivered,
                )
                break
            except BufferError:  # librdkafka's queue is full: wait until it has room
                self._producer.poll(0.1)
        self._producer.poll(0)

    def _flush(self) -> None:
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
        self._producer.purge()
        self._producer.flush(5)


def _place(one: Outgoing) -> Place:
    return one.topic, one.partition, one.key


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise failure("send to vendors", error.args[0]) from None
