"""The ends of agreements while the projection runs: warnings before them, and what follows them."""

from __future__ import annotations

import math
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime

import structlog

from bus.errors import BusError
from bus.settings import Settings
from bus.vendors import end_warnings, expiry
from bus.vendors.applied import Applied
from bus.vendors.disclosures import DisclosureWriter

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 60.0
"""Seconds between two attempts to complete an agreement's end."""


class AgreementEnds:
    """The ends and the later deletions that are due. Use it from one thread only.

    con:    the file of the view, which has the last warnings.
    record: the record of disclosures.
    clock:  a monotonic clock in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        con: sqlite3.Connection,
        record: DisclosureWriter,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._con = con
        self._record = record
        self._clock = clock
        self._unsettled: deque[str] = deque()
        self._look_again = math.inf

    @property
    def waiting(self) -> bool:
        """Whether `settle_next` has something to do."""
        return bool(self._unsettled)

    @property
    def due(self) -> bool:
        """Whether it is time to call `plan` again."""
        return self._clock() >= self._look_again

    def look_again(self) -> None:
        """Let `due` become true in some time, because a command has changed an agreement.

        The command may have been interrupted. If not, it needs a moment to complete the end itself.
        """
        self._look_again = min(self._look_again, self._clock() + SETTLE_SECONDS)

    def plan(self, applied: Iterable[Applied], day: date) -> None:
        """Note which agreements' ends or deletions are due on this day."""
        self._look_again = math.inf
        self._unsettled = deque(expiry.unsettled(applied, day))

    def settle_next(self, day: date) -> None:
        """Complete the end of the next agreement. Its stream must have stopped already."""
        name = self._unsettled.popleft()

        def say(note: str) -> None:
            log.warning("others must act after an agreement's end", agreement=name, note=note)

        try:
            one = expiry.settle(self._settings, name, day, datetime.now(UTC), self._record, say)
        except BusError as error:  # the other agreements must go on
            self.look_again()
            log.error("the agreement's end is not complete", agreement=name, reason=str(error))
            return
        log.info("the agreement is over", agreement=name, state=one.state, deleted=one.deleted)

    def warn(self, applied: Iterable[Applied], day: date) -> None:
        """Log one warning for each agreement when 30, 7 and 1 days are left."""
        running = list(applied)
        agreements = [one.agreement for one in running]
        for one in running:
            agreement = one.agreement
            reached = end_warnings.threshold(agreement, day)
            if reached is None or not one.active(day):
                continue
            if not end_warnings.warned(self._con, agreement.name, f"{agreement.until} {reached}"):
                log.warning(
                    "an agreement ends soon",
                    agreement=agreement.name,
                    days=(agreement.until - day).days,
                    until=agreement.until.isoformat(),
                    renewal=end_warnings.renewal_of(agreement.name, agreements),
                )
