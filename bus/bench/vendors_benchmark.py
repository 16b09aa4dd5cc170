"""Measures the projection: how fast data reaches vendors, and how soon it stops.

All agreements share all categories under pseudonyms. In one run, on one bus:

* `bus vendors run` from the district's topics to the topics of one, ten and fifty vendors
  (`bus.bench.vendors_throughput`);
* attendance that the SIS POSTs, until it is in the topics of ten vendors; an opt-out and a
  revocation during such changes (`bus.bench.vendors_live`);
* a district of another size: a new vendor, and a field that is taken out of an agreement
  (`bus.bench.vendors_rewriting`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from bus import local
from bus.bench import vendors_rewriting, vendors_throughput
from bus.bench.figures import Comparison, Goal, show_goals
from bus.bench.freshness_benchmark import Freshness
from bus.bench.vendors_district import VendorsDistrict, published
from bus.bench.vendors_live import NAMES, live_vendors
from bus.demo.stage import Stage

P99_TARGETS = {200: 250.0, 500: 400.0}
"""The greatest p99 in milliseconds, by changes a second."""
STOP_SECONDS = 5.0
"""The greatest number of seconds until an opt-out or a revocation takes effect."""


@dataclass(slots=True)
class VendorsResult:
    """What `bus bench vendors` measured.

    comparisons: the throughput.
    rates:       the freshness at each rate.
    goals:       each figure that has a target, and figures to compare with them.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    rates: list[Freshness] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the result as `bus bench vendors --json` prints it."""
        return {
            "comparisons": [one.as_json() for one in self.comparisons],
            "rates": [one.as_json() for one in self.rates],
            "goals": [one.as_json() for one in self.goals],
        }

    def show(self, console: Console) -> None:
        """Print the tables of the measurements, then one with each figure beside its target."""
        for comparison in self.comparisons:
            comparison.show(console)
            console.print()
        for rate in self.rates:
            rate.show(console, "a vendor's topic")
            console.print()
        show_goals(self.goals, console)


def measure(
    folder: Path,
    *,
    students: int,
    large: int,
    rates: Sequence[int],
    seconds: float,
    rounds: int,
    progress: Callable[[str], None],
) -> VendorsResult:
    """Measure everything, on a bus in `folder`, which is rebuilt.

    students: the number of students for the throughput and the changes.
    large:    the number of students for the new vendor and the field that is taken out.
    rates:    changes per second, each for `seconds` seconds.
    rounds:   how many times one vendor and the bare loop run.
    """
    found = VendorsResult()
    with Stage(folder) as stage:
        stage.bus_down_at_the_end()
        local.up(stage.folder)
        progress(f"publishing a district of {students:,} students")
        district = published(stage, "schoolbus", students)
        found.comparisons, found.goals = vendors_throughput.measure(district, rounds, progress)
        _measure_live(district, rates, seconds, found, progress)
        progress(f"publishing a district of {large:,} students")
        found.goals += vendors_rewriting.measure(published(stage, "large", large), progress)
    return found


def _measure_live(
    district: VendorsDistrict,
    rates: Sequence[int],
    seconds: float,
    found: VendorsResult,
    progress: Callable[[str], None],
) -> None:
    """Measure what happens while changes flow to ten vendors."""
    with live_vendors(district, progress) as live:
        for rate in rates:
            progress(f"{rate:,} changes a second for {seconds:.0f} s")
            one = live.freshness(rate, seconds)
            found.rates.append(one)
            what = f"a change in the SIS to {len(NAMES)} vendors' topics, {rate:,} a second: p99"
            found.goals.append(Goal(what, one.delivered["p99"], "ms", P99_TARGETS.get(rate)))
        slowest = min(rates)
        progress("an opt-out during changes")
        took = live.opt_out(slowest, "student-0")
        what = "an opt-out: the student's records deleted at all vendors"
        found.goals.append(Goal(what, took, "s", STOP_SECONDS))
        progress("a revocation during changes")
        took = live.revocation(slowest, NAMES[0])
        what = "a revocation: no more records to the vendor"
        found.goals.append(Goal(what, took, "s", STOP_SECONDS))
