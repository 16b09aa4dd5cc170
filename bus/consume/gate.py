"""Decides which partitions an instance of a consumer reads now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from bus.consume.assignment import Assignment
from bus.consume.backlog import Backlog


class Gate:
    """Pauses and resumes partitions.

    hold_records: when this many records wait for others, no more records of their kinds are read.
    behind:       the metric for the number of partitions that are behind.
    """

    def __init__(
        self, partitions: Assignment, backlog: Backlog, hold_records: int, behind: Gauge
    ) -> None:
        self._partitions = partitions
        self._backlog = backlog
        self._hold_records = hold_records
        self._behind = behind
        self._is_shut = False

    def update(self) -> None:
        """Pause and resume partitions. Call this after each change."""
        full = self._backlog.waiting >= self._hold_records
        self._partitions.gate(
            shut=self._is_shut, waiting=self._backlog.waiting_kinds if full else ()
        )
        self._behind.set(self._partitions.behind)

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Read nothing inside of this context."""
        self._is_shut = True
        self.update()
        try:
            yield
        finally:
            self._is_shut = False
            self.update()
