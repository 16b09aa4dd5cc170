"""Tries again what the other side cannot take now, and says when it counts as down.

tenacity provides the backoff with jitter. After some failures in a row the circuit counts as open,
which readiness and metrics show. While it is open, only the failed action is tried. The next
success closes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from bus.errors import RetryLater
from bus.observe.metrics import ConsumerMetrics
from bus.settings import ConsumerSettings

log = structlog.get_logger(__name__)
Result = TypeVar("Result")


class Retries:
    """The retries of one product's consumer.

    stay:     waits for this many seconds. If it raises, nothing is tried again.
    attempts: how many times the last action was tried.
    """

    def __init__(
        self,
        settings: ConsumerSettings,
        product: str,
        metrics: ConsumerMetrics,
        stay: Callable[[float], None],
    ) -> None:
        self.attempts = 1
        self._settings = settings
        self._product = product
        self._metrics = metrics
        self._stay = stay
        self._backoff = wait_random_exponential(settings.retry_first, settings.retry_most)
        self._failures = 0

    @property
    def open(self) -> str:
        """Why the circuit is open, or "" if it is closed."""
        if self._failures < self._settings.circuit_failures:
            return ""
        return f"{self._product} does not answer ({self._failures} tries failed)"

    def persist(self, action: Callable[[], Result]) -> Result:
        """Call an action until it does not raise `RetryLater`. Other errors pass through."""
        retrying = Retrying(
            retry=retry_if_exception_type(RetryLater),
            wait=self._wait,
            before_sleep=self._failed,
            sleep=self._stay,
            reraise=True,
        )
        result = retrying(action)
        self.attempts = retrying.statistics["attempt_number"]
        if self._failures:
            self._failures = 0
            self._metrics.circuit.labels(self._product).set(0)
            log.warning("delivering again", product=self._product, attempts=self.attempts)
        return result

    def _wait(self, state: RetryCallState) -> float:
        """Return how many seconds to wait before the next try.

        This is what the other side asked for (Retry-After), but at least the backoff.
        """
        asked = getattr(state.outcome.exception() if state.outcome else None, "after", None)
        return max(asked or 0.0, self._backoff(state))

    def _failed(self, state: RetryCallState) -> None:
        """Count a failure. Open the circuit after some in a row."""
        self._failures += 1
        self._metrics.retries.labels(self._product).inc()
        if self._failures == self._settings.circuit_failures:
            self._metrics.circuit.labels(self._product).set(1)
            reason = str(state.outcome.exception()) if state.outcome else ""
            log.warning("circuit open; partitions are paused", product=self._product, why=reason)


def in_steps(
    seconds: float,
    longest: float,
    step: Callable[[float], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait this many seconds in steps, between which other work can be done.

    longest: the length of a step, in seconds.
    step:    waits for at most the seconds that it is given. If it raises, the wait ends.
    """
    until = clock() + seconds
    while (left := until - clock()) > 0:
        step(min(left, longest))
