"""Reads the messages of a window in one of two orders. Each partition keeps its own order.

By time: as it happened. All events of a student have the same partition number in each topic, and
references are published before the records that refer to them. So the messages of all topics are
merged by Kafka's timestamp. Clocks differ: a timestamp before that of the preceding message in its
partition counts as equal to it.

By level: referenced records before the records that refer to them, for a product that gets only
current states.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

from confluent_kafka import Message

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka import topics
from bus.kafka.reader import PATIENCE, Reader
from bus.replay.window import Window
from bus.settings import Settings
from bus.standard import KINDS

Order = Literal["time", "level"]
Taken = tuple[list[Message], list[tuple[Position, int]]]
Retry = Callable[[Callable[[], Taken]], Taken]
"""Calls a function, and may call it again when that raises `RetryLater`."""

AT_ONCE = 10_000
AHEAD = 60_000
"""The most messages that are kept until it is their turn, over all partitions."""
FETCHED = {"fetch.message.max.bytes": 262_144}
"""One fetch returns about 6,000 messages of a partition. Few, because they are kept in memory until
the other partitions have come as far."""
SILENCE = 30.0
"""After this many seconds without any message Kafka counts as down, and a new client connects."""
FAILURE = "could not read history: Kafka says {}; try again when it is up"


def read(
    settings: Settings, window: Window, order: Order, retry: Retry = lambda take: take()
) -> Iterator[list[Message]]:
    """Yield the messages of a window, thousands at a time.

    Yields an empty list after each second in which no message came.

    retry: calls the function that reads on. Each call continues where the last successful one
           ended.

    Raises `RetryLater` when Kafka does not answer, unless `retry` calls again.
    """
    steps = [window] if order == "time" else list(_levels(settings, window))
    for step in steps:
        merge = _Merge(settings, step, retry)
        try:
            yield from merge.batches()
        finally:
            merge.close()


def _levels(settings: Settings, window: Window) -> Iterator[Window]:
    level = {p: KINDS[topics.kind_of(settings, p.topic) or ""].level for p in window.start}
    for one in sorted(set(level.values())):
        yield Window(
            {p: at for p, at in window.start.items() if level[p] == one},
            {p: at for p, at in window.stop.items() if level[p] == one},
        )


@dataclass(slots=True)
class _Line:
    """What is kept of one partition.

    level: the dependency level of the partition's kind.
    next:  the offset to read next.
    kept:  (time, level, message), in the partition's order. The time never decreases.
    last:  the time of the last message.
    done:  whether the window's end is reached.
    read:  whether the partition is assigned to the client now.
    """

    level: int
    next: int
    kept: deque[tuple[int, int, Message]] = field(default_factory=deque)
    last: int = 0
    done: bool = False
    read: bool = True


class _Merge:
    """Merges the partitions of a window by time."""

    def __init__(
        self, settings: Settings, window: Window, retry: Retry = lambda take: take()
    ) -> None:
        self._settings = settings
        self._reader: Reader | None = None
        self._quiet = 0.0
        self._window = window
        self._retry = retry
        self._lines = {
            p: _Line(KINDS[topics.kind_of(settings, p.topic) or ""].level, at)
            for p, at in window.start.items()
        }

    def batches(self) -> Iterator[list[Message]]:
        while not all(line.done for line in self._lines.values()):
            messages, ended = self._retry(self._take)
            self._keep(messages)
            for place, _ in ended:
                self._end(place, self._lines[place])
            ready = self._ready()
            if ready or not (messages or ended):
                yield ready
            self._gate()
        if ready := self._ready():
            yield ready

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _take(self) -> Taken:
        """Return what comes next. After a failure, a new client continues at `_Line.next`."""
        try:
            reader = self._opened()
            found = reader.take(AT_ONCE)
            self._quiet = 0.0 if any(found) else self._quiet + PATIENCE
            if self._quiet >= SILENCE:
                raise RetryLater(FAILURE.format("nothing"))
        except RetryLater:
            self.close()
            raise
        return found

    def _opened(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(self._settings, FAILURE, FETCHED)
            self._quiet = 0.0
            lines = self._lines.items()
            self._reader.assign({p: line.next for p, line in lines if line.read})
        return self._reader

    def _keep(self, messages: Iterable[Message]) -> None:
        lines, stops = self._lines, self._window.stop
        for message in messages:
            place: Any = (message.topic(), message.partition())  # equal to a Position as a key
            line = lines[place]
            if not line.done:
                offset, (_, time) = message.offset() or 0, message.timestamp()
                stop = stops[place]
                if line.next <= offset < stop:
                    line.last = max(line.last, time)
                    line.kept.append((line.last, line.level, message))
                    line.next = offset + 1
                if offset >= stop - 1:
                    self._end(Position(*place), line)

    def _end(self, place: Position, line: _Line) -> None:
        """Stop reading a partition."""
        line.done = True
        if line.read:
            line.read = False
            self._opened().drop([place])

    def _ready(self) -> list[Message]:
        """Return the messages that no unread message can precede."""
        open_lines = [line for line in self._lines.values() if not line.done]
        if any(not line.kept for line in open_lines):
            return []
        horizon = min((line.kept[-1][0] for line in open_lines), default=None)
        found: list[Any] = []
        several = 0
        for line in self._lines.values():
            begun, kept = len(found), line.kept
            if horizon is None or (kept and kept[-1][0] <= horizon):
                found += kept
                kept.clear()
            else:
                while kept and kept[0][0] <= horizon:
                    found.append(kept.popleft())
            several += len(found) > begun
        if several > 1:
            found.sort(key=_when)  # a stable sort keeps each partition's order
        return [message for _, _, message in found]

    def _gate(self) -> None:
        """Keep partitions from running far ahead of the others; the limit depends on their number.

        A partition that is ahead is unassigned, not paused. librdkafka reads an assigned partition
        at once: `rd_kafka_toppar_set_fetch_state` of rdkafka_partition.c wakes the broker's thread.
        It reads a resumed one only when that thread next wakes, up to a second later.
        """
        most = AHEAD // max(1, sum(not line.done for line in self._lines.values()))
        full, empty = [], {}
        for place, line in self._lines.items():
            if line.done:
                continue
            if line.read and len(line.kept) >= most:
                line.read = False
                full.append(place)
            elif not line.read and len(line.kept) < most // 2:
                line.read = True
                empty[place] = line.next
        if full:
            self._opened().drop(full)
        if empty:
            self._opened().add(empty)


_when = itemgetter(0, 1)
