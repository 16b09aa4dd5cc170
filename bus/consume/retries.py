"""Tries again what the other side cannot take now, and says when it counts as down.

Backoff with jitter is tenacity's. After some failures in a row the circuit counts as open: nothing
else is tried meanwhile, which readiness and metrics show; the next success closes it.
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
    """The tries of one product's consumer.

    stay:     waits for so many seconds; it may raise, and nothing is tried again then.
    attempts: how many tries the last action took.
    """

    def __init__(
        self,
        how: ConsumerSettings,
        product: str,
        metrics: ConsumerMetrics,
        stay: Callable[[float], None],
    ) -> None:
        self.attempts = 1
        self._how = how
        self._product = product
        self._metrics = metrics
        self._stay = stay
        self._backoff = wait_random_exponential(how.retry_first, how.retry_most)
        self._failures = 0

    @property
    def open(self) -> str:
        """Why the circuit is open, or ""."""
        if self._failures < self._how.circuit_failures:
            return ""
        return f"{self._product} does not answer ({self._failures} tries failed)"

    def persist(self, action: Callable[[], Result]) -> Result:
        """Do something until it does not say `RetryLater`; whatever else it raises goes through."""
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
            log.warning("delivers again", product=self._product, attempts=self.attempts)
        return result

    def _wait(self, state: RetryCallState) -> float:
        """How long: what the other side asked for (Retry-After), and no less than the backoff."""
        asked = getattr(state.outcome.exception() if state.outcome else None, "after", None)
        return max(asked or 0.0, self._backoff(state))

    def _failed(self, state: RetryCallState) -> None:
        self._failures += 1
        self._metrics.retries.labels(self._product).inc()
        if self._failures == self._how.circuit_failures:
            self._metrics.circuit.labels(self._product).set(1)
            reason = str(state.outcome.exception()) if state.outcome else ""
            log.warning("circuit open; its partitions wait", product=self._product, why=reason)


def in_steps(
    seconds: float,
    longest: float,
    step: Callable[[float], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait so many seconds in steps, between which something else can be looked after.

    step: waits for at most so many seconds, `longest` or less; what it raises ends the wait.
    """
    until = clock() + seconds
    while (left := until - clock()) > 0:
        step(min(left, longest))
