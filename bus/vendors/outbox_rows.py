"""The messages to vendors that are not sent yet, as rows in the file of the view.

A row holds many messages: a JSON list that describes them column by column, and their values,
joined together. With one row for each message, the projection would spend most of its time on the
table.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

ROW_MESSAGES = 20_000
"""The largest number of messages in one row of the file."""
EVENT_DIGITS = 24
"""The number of hexadecimal digits of an event's id."""

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


@dataclass(slots=True)
class OutgoingBatch:
    """Messages of one agreement to one topic, of one type and time, as columns in their order.

    The fields are those of `Outgoing`.

    events: the ids of the events, `EVENT_DIGITS` characters each, without anything between them.
    """

    agreement: str
    topic: str
    type: str
    at: int
    partitions: list[int]
    keys: list[str]
    values: list[bytes | None]
    events: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    def parts(self, most: int) -> Iterator[OutgoingBatch]:
        """Yield the messages in parts of at most this many."""
        if len(self) <= most:
            yield self
            return
        for at in range(0, len(self), most):
            yield self.part(range(at, min(at + most, len(self))))

    def part(self, indexes: Iterable[int]) -> OutgoingBatch:
        """Return the messages with these indexes."""
        some = list(indexes)
        return OutgoingBatch(
            self.agreement,
            self.topic,
            self.type,
            self.at,
            [self.partitions[at] for at in some],
            [self.keys[at] for at in some],
            [self.values[at] for at in some],
            "".join(self.events[EVENT_DIGITS * at : EVENT_DIGITS * (at + 1)] for at in some),
        )


def batches(messages: Iterable[Outgoing]) -> Iterator[OutgoingBatch]:
    """Yield messages as batches, in their order."""
    for about, some in groupby(messages, lambda one: (one.agreement, one.topic, one.type, one.at)):
        parts, keys, values = [], [], []
        for one in some:
            parts.append(one.partition)
            keys.append(one.key)
            values.append(one.value)
        yield OutgoingBatch(*about, parts, keys, values)


class OutboxRows:
    """The table `outbox`. The caller opens and commits transactions.

    con: the connection to the file of the view.
    """

    def __init__(self, con: sqlite3.Connection) -> None:
        self._con = con
        self._given = 0  # the highest number that this object has given to a row

    @property
    def last(self) -> int:
        """The number of the last row; 0 if there is none."""
        return self._con.execute("SELECT max(number) FROM outbox").fetchone()[0] or 0

    def remove(self, last: int) -> None:
        """Remove the rows up to this number."""
        self._con.execute("DELETE FROM outbox WHERE number <= ?", [last])

    def add(self, messages: Iterable[OutgoingBatch]) -> None:
        """Add messages, in their order, with new ids of events."""
        row: list[OutgoingBatch] = []
        room = ROW_MESSAGES
        for batch in messages:
            batch.events = secrets.token_hex(EVENT_DIGITS // 2 * len(batch))
            for part in batch.parts(ROW_MESSAGES):
                if len(part) > room:
                    self._insert(row)
                    row, room = [], ROW_MESSAGES
                row.append(part)
                room -= len(part)
        if row:
            self._insert(row)

    def _insert(self, messages: Sequence[OutgoingBatch], number: int | None = None) -> None:
        """Store messages as one row: a new row, or the row with this number."""
        about, values = [], []
        for one in messages:
            sizes = [None if value is None else len(value) for value in one.values]
            about.append(
                [
                    *(one.agreement, one.topic, one.type, one.at),
                    *(one.partitions, one.keys, sizes, one.events),
                ]
            )
            values += [value for value in one.values if value is not None]
        if number is None:
            # Another process may remove rows while they are sent. Their numbers must not come
            # again: `remove` would take a new row for one that was sent.
            number = self._given = max(self.last, self._given) + 1
        self._con.execute(
            "INSERT OR REPLACE INTO outbox (number, topics, about, data) VALUES (?, ?, ?, ?)",
            [
                number,
                json.dumps(sorted({one.topic for one in messages})),
                json.dumps(about),
                b"".join(values),
            ],
        )

    def _row(self, number: int) -> Iterator[OutgoingBatch]:
        """Yield the messages of a row; nothing if it was removed."""
        about, data = self._con.execute(
            "SELECT about, data FROM outbox WHERE number = ?", [number]
        ).fetchone() or ("[]", b"")
        at = 0
        for agreement, topic, type_, time, parts, keys, sizes, events in json.loads(about):
            values: list[bytes | None] = []
            for size in sizes:
                if size is None:
                    values.append(None)
                else:
                    values.append(data[at : at + size])
                    at += size
            yield OutgoingBatch(agreement, topic, type_, time, parts, keys, values, events)

    def numbers(self) -> list[int]:
        """Return the numbers of the rows, in order."""
        return [n for (n,) in self._con.execute("SELECT number FROM outbox ORDER BY number")]

    def latest(self) -> Iterator[OutgoingBatch]:
        """Yield the last state of each record, in order."""
        rows: dict[str, list[int]] = defaultdict(list)  # for each topic, its rows
        for number, topics in self._con.execute("SELECT number, topics FROM outbox").fetchall():
            for topic in json.loads(topics):
                rows[topic].append(number)
        several = {topic for topic, numbers in rows.items() if len(numbers) > 1}
        last_row: dict[Place, int] = {}
        for number in sorted({number for topic in several for number in rows[topic]}):
            for batch in self._row(number):
                if batch.topic in several:
                    last_row |= dict.fromkeys(_places(batch), number)
        for number in self.numbers():
            row = list(self._row(number))
            number_of = Counter(one.topic for one in row)
            once = {topic for topic, n in number_of.items() if n == 1} - several
            plain = [one.topic in once and len(set(_places(one))) == len(one) for one in row]
            last = {
                place: (which, at)
                for which, one in enumerate(row)
                if not plain[which]
                for at, place in enumerate(_places(one))
            }
            for which, batch in enumerate(row):
                if plain[which]:  # no other message replaces one of this batch
                    yield batch
                elif kept := [
                    at
                    for at, place in enumerate(_places(batch))
                    if last[place] == (which, at) and last_row.get(place, number) == number
                ]:
                    yield batch.part(kept)

    def forget(self, agreement: str, *, deletions: bool = True) -> None:
        """Remove the messages of an agreement. The others keep their rows.

        Another process may read the rows at the same time.

        deletions: whether deletions are removed too.
        """
        for number in self.numbers():
            messages = list(self._row(number))
            kept = []
            for batch in messages:
                if batch.agreement != agreement:
                    kept.append(batch)
                elif not deletions:
                    some = batch.part(at for at, value in enumerate(batch.values) if value is None)
                    kept += [some] if some.keys else []
            if not kept:
                self._con.execute("DELETE FROM outbox WHERE number = ?", [number])
            elif sum(map(len, kept)) < sum(map(len, messages)):
                self._insert(kept, number)


def _places(batch: OutgoingBatch) -> Iterator[Place]:
    topic = batch.topic
    return ((topic, part, key) for part, key in zip(batch.partitions, batch.keys, strict=True))
