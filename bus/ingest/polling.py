"""Asks a system again and again: the `--watch` of a polled source."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from bus.errors import RetryLater, Stop

log = structlog.get_logger(__name__)

STEP_SECONDS = 0.2
"""How often a wait looks whether it is to end."""


def poll(take: Callable[[], None], every: float, stopped: Callable[[], bool]) -> None:
    """Call `take` until `stopped` answers True, with `every` seconds between the end and the start.

    take: publishes one poll. It may raise `Stop`: the poll is refused and logged, and the next one
          is made when its time comes, as the system may have been put right. It may raise
          `RetryLater`: the same poll is tried again with a growing wait until it succeeds.
    """
    again = Retrying(
        retry=retry_if_exception_type(RetryLater),
        wait=wait_random_exponential(1, 60),
        stop=lambda _: stopped(),
        sleep=lambda seconds: _wait(seconds, stopped),
        reraise=True,
        before_sleep=lambda state: log.warning(
            "poll tried again soon", why=str(state.outcome.exception()) if state.outcome else ""
        ),
    )
    while not stopped():
        try:
            again(take)
        except Stop as reason:
            log.error("poll refused", why=str(reason))
        except RetryLater:
            return  # stopped while waiting: the next start polls from the same position
        _wait(every, stopped)


def _wait(seconds: float, stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stopped():
        time.sleep(min(left, STEP_SECONDS))
