"""A clock that moves only when somebody waits, so a test of an hour takes no time."""

from __future__ import annotations

from collections.abc import Callable

TICK = 0.001
"""A wait moves the clock at least so far, as no real call takes no time at all."""


class Stuck(AssertionError):  # noqa: N818 - reads as what is the matter
    """The code under test waits for what never comes."""


class Clock:
    """Seconds that pass in waits. It takes the place of the modules `time` and `threading`.

    patience: how many seconds a test may wait in all; more than that is a loop without an end.
    """

    def __init__(self, patience: float = 20_000.0) -> None:
        self.now = 1_000.0
        self._left = patience
        self._plans: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        """The time, in seconds."""
        return self.now

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something once so much time has passed, inside of the wait that is going on then."""
        self._plans.append((self.now + seconds, action))

    def wait(self, seconds: float) -> None:
        """Let time pass, and do what was planned for it."""
        seconds = max(seconds, TICK)
        self._left -= seconds
        if self._left < 0:
            raise Stuck("nothing happens any more, and the code still waits")
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass, as a test wants it to."""
        until = self.now + seconds
        while due := [plan for plan in self._plans if plan[0] <= until]:
            first = min(due, key=lambda plan: plan[0])
            self._plans.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = max(self.now, until)

    def Event(self) -> Event:  # noqa: N802 - as `threading` has it
        """What `threading.Event` is, on this clock."""
        return Event(self)


class Event:
    """A flag. To wait for it lets time pass."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._set = False

    def set(self) -> None:
        """Raise the flag."""
        self._set = True

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self._set

    def wait(self, seconds: float) -> bool:
        """Wait so long; whether the flag is up."""
        if not self._set:
            self._clock.wait(seconds)
        return self._set
