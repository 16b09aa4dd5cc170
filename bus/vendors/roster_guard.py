"""Counts who enters and leaves one agreement through the roster, for its guard.

When too many students would enter or leave within ten minutes, the projection holds all of them
back, until a person allows it. A mistake in an extract then changes nothing at a vendor.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from bus.vendors.agreement import Guard

WINDOW_SECONDS = 600.0
"""The guard counts the students who entered or left in the last ten minutes."""
COUNT_SECONDS = 60.0
"""The guard counts a whole cohort at most this often."""


class RosterGuard:
    """The counts of one agreement. For one thread.

    size:  returns how many students are in the cohort.
    clock: a monotonic clock in seconds.
    """

    def __init__(self, size: Callable[[], int], clock: Callable[[], float]) -> None:
        self._count = size
        self._clock = clock
        self._moves: deque[tuple[float, int]] = deque()
        self._counted: tuple[float, int] = (-math.inf, 0)

    def moved(self, students: int) -> None:
        """Count students who entered or left."""
        self._moves.append((self._clock(), students))

    def clear(self) -> None:
        """Forget who entered and left, because a person has allowed it."""
        self._moves.clear()

    def budget(self, limits: Guard) -> int:
        """Return how many students may still enter or leave."""
        now = self._clock()
        while self._moves and now - self._moves[0][0] > WINDOW_SECONDS:
            self._moves.popleft()
        used = sum(number for _, number in self._moves)
        return max(0, max(limits.students, int(limits.share * self._size())) - used)

    def _size(self) -> int:
        """Return how many students are in the cohort, as counted within the last minute."""
        if self._clock() - self._counted[0] > COUNT_SECONDS:
            self._counted = self._clock(), self._count()
        return self._counted[1]
