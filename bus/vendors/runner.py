"""Runs the projections of all agreements: `bus vendors run`.

With `vendors.shards = 1`, one instance works at a time. Others wait and take over when it ends (a
Kafka consumer group on the one partition of `PREFIX.vendors`). With a larger number, the instances
share the partitions of the district's topics (`bus.vendors.shard`).

`bus.vendors.projection_work` has the work itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import date

from bus.settings import Settings
from bus.vendors.projection_work import RunOutcome, Work, attempts
from bus.vendors.shard import WHOLE
from bus.vendors.shard_group import ShardGroup


class Runner:
    """The loop. Call `run` on one thread; any thread may call `stop`.

    today: returns the day in the district's calendar.
    clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        today: Callable[[], date] = date.today,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outcome = RunOutcome()
        self._settings = settings
        self._today = today
        self._clock = clock
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask the loop to end after the current batch."""
        self._stopping.set()

    def run(self, *, until_caught_up: bool = False) -> RunOutcome:
        """Project until `stop` is called.

        until_caught_up: end when everything that was in the topics at the start is with the
                         vendors, and all topics of vendors are written whole.

        Raises `Stop` when a person must act. Waits while Kafka or the registry does not answer.
        """
        rest = (self._stopping, self._today, self._clock, self.outcome)

        def attempt() -> Work | ShardGroup:
            if self._settings.vendors.shards == 1:
                return Work(self._settings, WHOLE, *rest)
            return ShardGroup(self._settings, *rest)

        attempts(attempt, self._stopping, until_caught_up=until_caught_up)
        return self.outcome
