"""One run of `bus vendors run`: what it is given, what it did, and how it tries again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

import structlog

from bus.errors import RetryLater
from bus.settings import Settings

log = structlog.get_logger(__name__)

RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class RunOutcome:
    """What a run did.

    sent:        messages to vendors.
    undecodable: messages of the district that do not decode; the vendors keep the older state.
    """

    sent: int = 0
    undecodable: int = 0
    agreements: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run is given.

    today:           returns the day in the district's calendar.
    clock:           a monotonic clock in seconds.
    until_caught_up: end when everything that was in the topics at the start is with the vendors.
    stopping:        set when the run must end after the current batch.
    outcome:         what it has done so far.
    """

    settings: Settings
    today: Callable[[], date]
    clock: Callable[[], float]
    until_caught_up: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)
    outcome: RunOutcome = field(default_factory=RunOutcome)


class Attempt(Protocol):
    """One attempt to work. `worked` is whether it came so far that the next one may begin soon."""

    worked: bool

    def work(self) -> None:
        """Work until a stop is requested."""

    def close(self) -> None:
        """Close all clients."""


def attempts(attempt: Callable[[], Attempt], stopping: threading.Event) -> None:
    """Make attempts until one ends by itself, or a stop is requested.

    Raises `Stop` when a person must act. After `RetryLater`, waits and makes the next attempt.
    """
    failed = 0
    while not stopping.is_set():
        made = attempt()
        try:
            made.work()
            return
        except RetryLater as error:
            if made.worked:
                failed = 0
            wait = RETRY_SECONDS[min(failed, len(RETRY_SECONDS) - 1)]
            failed += 1
            log.warning("the vendors' projection waits", reason=str(error), seconds=wait)
            stopping.wait(wait)
        finally:
            made.close()
