"""What the loop of a consumer knows about itself, one thing an object."""

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
    """What a run of the loop did: records delivered by kind, and dead letters.

    there: whether the topics held anything when it began, where it was asked to catch up.
    """

    delivered: Counter[str] = field(default_factory=Counter)
    dead_lettered: int = 0
    there: bool = False


class RunMode(Enum):
    """How long the loop runs, and so whether it waits to fill a batch."""

    FOLLOW = "until it is stopped"
    CATCH_UP = "until all is delivered that was there"


class StopRequest:
    """Whether somebody has asked the loop to end, and since when. For any thread."""

    def __init__(self, clock: Clock, event: threading.Event) -> None:
        self._clock = clock
        self._event = event
        self._since = 0.0

    def __bool__(self) -> bool:
        return self._event.is_set()

    def make(self) -> None:
        """Ask."""
        self._since = self._clock()
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until somebody asks; whether somebody has."""
        return self._event.wait(seconds)

    def older_than(self, seconds: float) -> bool:
        """Whether it is so long ago that somebody asked."""
        return bool(self) and self._clock() - self._since > seconds


class Heartbeat:
    """When the loop turned last. Any thread may ask."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.beat()

    def beat(self) -> None:
        """The loop turns."""
        self._last = self._clock()

    @property
    def silence(self) -> float:
        """For how many seconds it has not turned."""
        return self._clock() - self._last


@dataclass(slots=True)
class BatchInHand:
    """The batch that is being delivered.

    partitions: what this instance had when the batch began.
    lost:       whether another instance has one of them now.
    """

    partitions: Set[Position]
    lost: bool = False

    def lose(self, gone: Set[Position]) -> None:
        """The group takes these partitions away."""
        self.lost |= bool(gone & self.partitions)


class Unsettled:
    """Whether there is something to settle: rows that the delivery has put off, or offsets that
    the group does not know."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending = False
        self._last = clock()

    def __bool__(self) -> bool:
        return self._pending

    def note(self) -> None:
        """There is something."""
        self._pending = True

    def note_after(self, seconds: float) -> None:
        """There is something when nothing was settled for so long, as the day may have changed."""
        self._pending |= self._clock() - self._last > seconds

    def settled(self, *, wholly: bool) -> None:
        """The delivery has settled; `wholly` says whether the group knows the offsets as well."""
        self._pending = not wholly
        self._last = self._clock()
