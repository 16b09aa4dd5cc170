"""Limits the rate of requests with a token bucket for each client."""

from __future__ import annotations

import time
from collections.abc import Callable


class Rates:
    """Allows each client `per_second` requests a second, and up to `burst` requests at once.

    clock: returns monotonic seconds.
    """

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str) -> float:
        """Count a request. Return 0 if it may proceed, else the seconds until one may."""
        now = self._clock()
        tokens, since = self._buckets.get(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._per_second
        self._buckets[client] = (tokens if wait else tokens - 1, now)
        return wait
