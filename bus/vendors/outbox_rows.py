"""The messages to vendors that are not sent yet, as rows in the file of the view.

A row holds many messages of a batch: a JSON list that describes them, and their values, joined
together. With one row for each message, the projection would spend most of its time on the table.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
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


class OutboxRows:
    """The table `outbox`. The caller opens and commits transactions.

    con: the connection to the file of the view.
    """

    def __init__(self, con: sqlite3.Connection) -> None:
        self._con = con

    @property
    def last(self) -> int:
        """The number of the last row; 0 if there is none."""
        return self._con.execute("SELECT max(number) FROM outbox").fetchone()[0] or 0

    def remove(self, last: int) -> None:
        """Remove the rows up to this number."""
        self._con.execute("DELETE FROM outbox WHERE number <= ?", [last])

    def add(self, messages: Iterable[Outgoing]) -> None:
        """Add messages, in their order."""
        rest = iter(messages)
        while some := list(islice(rest, ROW_MESSAGES)):
            events = secrets.token_hex(EVENT_DIGITS // 2 * len(some))
            self._insert(
                [
                    (one, events[EVENT_DIGITS * at : EVENT_DIGITS * (at + 1)])
                    for at, one in enumerate(some)
                ]
            )

    def _insert(self, messages: Sequence[tuple[Outgoing, str]], number: int | None = None) -> None:
        """Store messages, with the ids of their events, as one row; a new one without a number."""
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
            "INSERT OR REPLACE INTO outbox (number, about, data) VALUES (?, ?, ?)",
            [number, json.dumps(about), data],
        )

    def _row(self, number: int) -> Iterator[tuple[Outgoing, str]]:
        """Yield the messages of a row, with the ids of their events; nothing if it was removed."""
        about, data = self._con.execute(
            "SELECT about, data FROM outbox WHERE number = ?", [number]
        ).fetchone() or ("[]", b"")
        at = 0
        for agreement, topic, part, key, size, type_, time, event in json.loads(about):
            value = None if size is None else data[at : at + size]
            at += size or 0
            yield Outgoing(agreement, topic, part, key, value, type_, time), event

    def numbers(self) -> list[int]:
        """Return the numbers of the rows, in order."""
        return [n for (n,) in self._con.execute("SELECT number FROM outbox ORDER BY number")]

    def latest(self) -> Iterator[tuple[Outgoing, str]]:
        """Yield the last state of each record, in order."""
        numbers = self.numbers()
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

    def forget(self, agreement: str) -> None:
        """Remove the messages of an agreement. The others keep their rows.

        Another process may read the rows at the same time.
        """
        for number in self.numbers():
            messages = list(self._row(number))
            kept = [pair for pair in messages if pair[0].agreement != agreement]
            if not kept:
                self._con.execute("DELETE FROM outbox WHERE number = ?", [number])
            elif len(kept) < len(messages):
                self._insert(kept, number)


def _place(one: Outgoing) -> Place:
    return one.topic, one.partition, one.key
