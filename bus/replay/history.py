"""The messages of a window, in one of two orders, each partition's own kept.

By time: as it happened. A student's story is in one partition number of each topic, and what a
record refers to was published before it; so what came first is read first, over all topics. Kafka's
own time of each message says so; where one is before that of the message ahead of it in its
partition (clocks differ), it counts as the same.

By level: what is referred to before what refers to it, for a product that gets the present alone.
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
"""Does something, as often as it likes while that raises `RetryLater`."""

AT_ONCE = 10_000
AHEAD = 60_000
"""Messages that are kept at most, over all partitions, until it is their turn."""
FETCHED = {"fetch.message.max.bytes": 262_144}
"""What comes of one partition at once is kept until the others have come as far, so it is not much:
some 6,000 messages."""
SILENCE = 30.0
"""After so many seconds in which nothing comes Kafka has gone away, and is asked anew."""
FAILURE = "could not read history: Kafka says {}; go on when it is up"


def read(
    settings: Settings, window: Window, order: Order, retry: Retry = lambda take: take()
) -> Iterator[list[Message]]:
    """The messages of a window, some thousand at a time; none after a second in which none came.

    retry: tries to read on; each try goes on where the last one that was well has ended.

    Raises `RetryLater` when Kafka does not answer, unless `retry` tries again.
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
    """What is kept of one partition: (time, level, message); the time of the last, and the offset
    after it."""

    level: int
    next: int
    kept: deque[tuple[int, int, Message]] = field(default_factory=deque)
    last: int = 0
    done: bool = False
    read: bool = True


class _Merge:
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
        """What comes next. After a failure a new client reads on where the lines are."""
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
            place: Any = (message.topic(), message.partition())  # as good a key as a Position
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
        """Read nothing more of a partition."""
        line.done = True
        if line.read:
            line.read = False
            self._opened().drop([place])

    def _ready(self) -> list[Message]:
        """What nothing that is still to be read can come before."""
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
            found.sort(key=_when)  # stable: a partition's own order stays
        return [message for _, _, message in found]

    def _gate(self) -> None:
        """Let no partition run far ahead of the others; how far depends on how many are left.

        One that is ahead is given back, not paused: librdkafka begins to read an assigned one at
        once, and a resumed one when the broker's thread next wakes, up to a second later
        (`rd_kafka_toppar_set_fetch_state` of rdkafka_partition.c wakes it).
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
