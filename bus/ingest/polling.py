"""Poll a system at intervals: the `--watch` of a polled source."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from bus.errors import RetryLater, Stop

log = structlog.get_logger(__name__)

STEP_SECONDS = 0.2
"""How often a wait checks whether it must end, in seconds."""


def poll(take: Callable[[], None], every: float, stopped: Callable[[], bool]) -> None:
    """Call `take` at intervals until `stopped` returns True.

    take:  publishes one poll. If it raises `Stop`, the poll is refused and logged. The next poll is
           made at its time, because the system may work again by then. If `take` raises
           `RetryLater`, the same poll is tried again with a growing wait until it succeeds.
    every: how many seconds to wait between the end of one poll and the start of the next.
    """
    again = Retrying(
        retry=retry_if_exception_type(RetryLater),
        wait=wait_random_exponential(1, 60),
        stop=lambda _: stopped(),
        sleep=lambda seconds: _wait(seconds, stopped),
        reraise=True,
        before_sleep=lambda state: log.warning(
            "poll is tried again soon", why=str(state.outcome.exception()) if state.outcome else ""
        ),
    )
    while not stopped():
        try:
            again(take)
        except Stop as reason:
            log.error("poll refused", why=str(reason))
        except RetryLater:
            return  # stopped during a wait: the next start polls from the same position
        _wait(every, stopped)


def _wait(seconds: float, stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stopped():
        time.sleep(min(left, STEP_SECONDS))
