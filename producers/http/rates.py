"""How many requests a client may send: a token bucket for each."""

from __future__ import annotations

import time
from collections.abc import Callable


class Rates:
    """`per_second` requests a second for each client, `burst` of them at once.

    clock: seconds, monotonic.
    """

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str) -> float:
        """Count one request: 0 when it may go on, else the seconds after which one may."""
        now = self._clock()
        tokens, since = self._buckets.get(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._per_second
        self._buckets[client] = (tokens if wait else tokens - 1, now)
        return wait
