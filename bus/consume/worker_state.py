"""The state of a consumer's loop, in one class for each part."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from enum import Enum

from bus.delivery import Position

Clock = Callable[[], float]
"""A monotonic clock, in seconds."""


@dataclass(slots=True)
class WorkerOutcome:
    """The result of a run of the loop.

    delivered:     the number of records that were delivered, by kind.
    dead_lettered: the number of dead letters.
    had_events:    whether the topics held any events at the start. Only set for a run that catches
                   up.
    """

    delivered: Counter[str] = field(default_factory=Counter)
    dead_lettered: int = 0
    had_events: bool = False


class RunMode(Enum):
    """When the loop ends. This also decides whether it waits to fill a batch."""

    FOLLOW = "until it is stopped"
    CATCH_UP = "until everything is delivered that was in the topics at the start"


class StopRequest:
    """Whether somebody has asked the loop to end, and since when. For any thread."""

    def __init__(self, clock: Clock, event: threading.Event) -> None:
        self._clock = clock
        self._event = event
        self._since = 0.0

    def __bool__(self) -> bool:
        return self._event.is_set()

    def make(self) -> None:
        """Ask the loop to end."""
        self._since = self._clock()
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Wait this many seconds, or until somebody asks. Return whether somebody has asked."""
        return self._event.wait(seconds)

    def older_than(self, seconds: float) -> bool:
        """Return whether somebody asked more than this many seconds ago."""
        return bool(self) and self._clock() - self._since > seconds


class Heartbeat:
    """When the loop last turned. Any thread may read it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.beat()

    def beat(self) -> None:
        """Remember that the loop turns now."""
        self._last = self._clock()

    @property
    def silence(self) -> float:
        """How many seconds ago the loop last turned."""
        return self._clock() - self._last


@dataclass(slots=True)
class BatchInHand:
    """The batch that is being delivered.

    partitions: the partitions of this instance when the batch began.
    lost:       whether another instance has one of them now.
    """

    partitions: Set[Position]
    lost: bool = False

    def lose(self, revoked: Set[Position]) -> None:
        """Remember that the group revokes these partitions."""
        self.lost |= bool(revoked & self.partitions)


class Unsettled:
    """Whether there is something to settle.

    That is: rows that the delivery has deferred, or offsets that are not committed.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending = False
        self._last = clock()

    def __bool__(self) -> bool:
        return self._pending

    def note(self) -> None:
        """Remember that there is something to settle."""
        self._pending = True

    def note_after(self, seconds: float) -> None:
        """Remember that there is something to settle if nothing was settled for this many seconds.

        The date may have changed since then.
        """
        self._pending |= self._clock() - self._last > seconds

    def settled(self, *, committed: bool) -> None:
        """Remember that the delivery has settled.

        committed: whether the offsets were committed to Kafka as well.
        """
        self._pending = not committed
        self._last = self._clock()
