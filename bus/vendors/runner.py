"""Runs the projections of all agreements: `bus vendors run`.

With `vendors.shards = 1`, one instance works at a time. Others wait and take over when it ends (a
Kafka consumer group on the one partition of `PREFIX.vendors`). With a larger number, the instances
share the partitions of the district's topics (`bus.vendors.shard`).

`bus.vendors.projection_work` has the work itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date

from bus.settings import Settings
from bus.vendors.projection_run import Run, RunOutcome, attempts
from bus.vendors.projection_work import Work
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
        self._run = Run(settings, today, clock)

    @property
    def outcome(self) -> RunOutcome:
        """What the loop has done so far."""
        return self._run.outcome

    def stop(self) -> None:
        """Ask the loop to end after the current batch."""
        self._run.stopping.set()

    def run(self, *, until_caught_up: bool = False) -> RunOutcome:
        """Project until `stop` is called.

        until_caught_up: end when everything that was in the topics at the start is with the
                         vendors, and all topics of vendors are written whole.

        Raises `Stop` when a person must act. Waits while Kafka or the registry does not answer.
        """
        run = replace(self._run, until_caught_up=until_caught_up)

        def attempt() -> Work | ShardGroup:
            return Work(run, WHOLE) if run.settings.vendors.shards == 1 else ShardGroup(run)

        attempts(attempt, run.stopping)
        return run.outcome
