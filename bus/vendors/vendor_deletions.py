"""The last deletions in vendors' topics. A crash of Kafka can undo them.

Kafka deletes old records by a higher log start offset. It writes this offset to disk once a minute
(Apache Kafka, broker settings, `log.flush.start.offset.checkpoint.interval.ms`). If a broker is
killed before that, it shows the deleted records again after its start. So the file of the view
keeps the offsets of the last deletions. The projection compares them with the topics at its start,
and every few seconds for some minutes after a deletion. Where records are there again, it deletes
them again.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Callable, Mapping

from bus.delivery import Position
from bus.kafka.reader import Reader
from bus.settings import Settings
from bus.vendors import old_records

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Seconds between two comparisons."""
WATCH_SECONDS = 180.0
"""Seconds after which Kafka has written a deletion to disk: three times the default interval."""


class VendorDeletions:
    """The offsets before which records were deleted, in the file of the view.

    clock: a monotonic clock in seconds.
    """

    def __init__(
        self, settings: Settings, con: sqlite3.Connection, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._con = con
        self._clock = clock
        self._look_at = -math.inf
        self._safe_at = clock() + WATCH_SECONDS

    def note(self, deleted: Mapping[Position, int]) -> None:
        """Note a deletion, within the transaction of the view.

        deleted: the first offset of each partition that was not deleted.
        """
        self._con.executemany(
            "INSERT OR REPLACE INTO deleted VALUES (?, ?, ?)",
            [(*place, before) for place, before in deleted.items()],
        )
        self._safe_at = self._clock() + WATCH_SECONDS

    def repeat(self) -> None:
        """Delete again what Kafka shows again, and forget deletions that it cannot undo any more.

        Does nothing if it was called a moment ago. Call it outside of a transaction.

        Raises `RetryLater` if Kafka does not answer.
        """
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        rows = self._con.execute("SELECT topic, part, before FROM deleted").fetchall()
        if not rows:
            return
        noted = {Position(topic, part): before for topic, part, before in rows}
        with Reader(self._settings, old_records.NOT_READ) as reader:
            there = set(reader.places({place.topic for place in noted}))
            marks = reader.marks(noted.keys() & there)
        # A partition that ends before the offset is not the one in which records were deleted: its
        # topic was created again.
        first = {place: low for place, (low, end) in marks.items() if noted[place] <= end}
        self._con.executemany(
            "DELETE FROM deleted WHERE topic = ? AND part = ?", noted.keys() - first.keys()
        )
        shown = {place: noted[place] for place, low in first.items() if low < noted[place]}
        if shown:
            old_records.delete(self._settings, shown)
            self._safe_at = now + WATCH_SECONDS
            log.warning(
                "Kafka showed deleted records of vendors again, as after a crash; they are deleted "
                "again (partitions: %d)",
                len(shown),
            )
        elif now >= self._safe_at:
            self._con.execute("DELETE FROM deleted")
