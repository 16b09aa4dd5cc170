"""A clock that moves only when the code waits, so that a test of an hour takes no time."""

from __future__ import annotations

from collections.abc import Callable

TICK = 0.001
"""The shortest wait, in seconds, as every real call takes some time."""


class Stuck(AssertionError):  # noqa: N818 - the name describes the state
    """The code under test waits for something that never comes."""


class Clock:
    """Seconds that pass only in waits. It replaces the modules `time` and `threading`.

    patience: how many seconds a test may wait in total; a longer wait means an endless loop.
    """

    def __init__(self, patience: float = 20_000.0) -> None:
        self.now = 1_000.0
        self._left = patience
        self._plans: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        """Return the time in seconds."""
        return self.now

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Call an action after this many seconds, inside of the wait that is then in progress."""
        self._plans.append((self.now + seconds, action))

    def wait(self, seconds: float) -> None:
        """Let time pass, and call the actions that are due."""
        seconds = max(seconds, TICK)
        self._left -= seconds
        if self._left < 0:
            raise Stuck("nothing happens any more, and the code still waits")
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass, at the request of a test."""
        until = self.now + seconds
        while due := [plan for plan in self._plans if plan[0] <= until]:
            first = min(due, key=lambda plan: plan[0])
            self._plans.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = max(self.now, until)

    def Event(self) -> Event:  # noqa: N802 - the name in `threading`
        """Return a `threading.Event` on this clock."""
        return Event(self)


class Event:
    """A flag. Waiting for it lets time pass."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._set = False

    def set(self) -> None:
        """Raise the flag."""
        self._set = True

    def is_set(self) -> bool:
        """Return whether the flag is raised."""
        return self._set

    def wait(self, seconds: float) -> bool:
        """Wait this many seconds; return whether the flag is raised."""
        if not self._set:
            self._clock.wait(seconds)
        return self._set
