"""Runs for a long time at a steady rate, to show that memory is flat and no event is lost.

Attendance records go from an SIS to a vendor (`bus.bench.traffic`) while the memory and the file
handles of the processes are sampled. The first third of the time is for warming up: first
connections, caches, Java's heap. For the rest of the time a least-squares line is fitted to all
samples. A figure is flat when the line rises by less than 5 % of the mean. Single samples say
little, because a JVM allocates and frees memory in steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression, mean
from typing import Any

from rich.console import Console
from rich.table import Table

from bus.bench.traffic import traffic
from bus.bench.usage import Look

WATCHED = ("HTTP source", "consumer", "Kafka")
"""The processes that are sampled."""
WARMING = 1 / 3
"""The share of the time that is for warming up."""
RISE = 0.05
"""A figure is flat if it rises by less than this share."""
LOOK_EVERY = 10.0
"""Seconds between two samples."""


@dataclass(frozen=True, slots=True)
class Trend:
    """The course of one figure of a process: MiB of memory, or file handles.

    first, last, highest: sampled values.
    per_hour: the slope of the least-squares line after the warm-up.
    rise:     how much the line rises after the warm-up, as a share of the mean.
    """

    first: float
    last: float
    highest: float
    per_hour: float
    rise: float

    @property
    def flat(self) -> bool:
        """Whether the figure does not grow."""
        return self.rise < RISE


@dataclass(frozen=True, slots=True)
class Soak:
    """The result of a long run.

    sent:    how many events were answered with 202.
    lost:    how many of them did not reach the vendor.
    doubled: how many events reached the vendor more than once.
    unknown: how many events reached the vendor without an answer of 202.
    """

    seconds: float
    rate: int
    sent: int
    lost: int
    doubled: int
    unknown: int
    memory: dict[str, Trend]
    handles: dict[str, Trend]

    @property
    def sound(self) -> bool:
        """Whether no event was lost, doubled or unknown, and all figures are flat."""
        courses = [*self.memory.values(), *self.handles.values()]
        return not (self.lost or self.doubled or self.unknown) and all(c.flat for c in courses)

    def as_json(self) -> dict[str, Any]:
        """Return the result as `bus bench soak --json` prints it."""
        return {"sound": self.sound, **asdict(self)}

    def show(self, console: Console) -> None:
        """Print a row for each process and figure, then the counts of events."""
        table = Table(
            f"{self.seconds / 60:g} min at {self.rate:,}/s",
            *("first", "last", "highest", "per hour", "rise", ""),
            box=None,
        )
        for what, courses in (("MiB", self.memory), ("handles", self.handles)):
            for name, course in courses.items():
                table.add_row(
                    f"{name}, {what}",
                    *(f"{value:,.0f}" for value in (course.first, course.last, course.highest)),
                    f"{course.per_hour:+,.0f}",
                    f"{course.rise:+.1%}",
                    "flat" if course.flat else "grows",
                )
        console.print(table)
        console.print(
            f"flat: after the first third, the line through the samples rises by under {RISE:.0%}"
        )
        console.print(
            f"{self.sent:,} events sent, {self.lost:,} lost, {self.doubled:,} doubled, "
            f"{self.unknown:,} unknown"
        )


def measure(folder: Path, minutes: float, rate: int) -> Soak:
    """Run for this many minutes on a bus in a folder that is rebuilt."""
    seconds = minutes * 60
    with traffic(folder) as there:
        there.usage.forget()
        there.send(rate, seconds, look_every=min(LOOK_EVERY, seconds / 30))
        there.wait_for_all()
        sent, received = there.sent(), there.received()
        looks = {name: there.usage.looks[name] for name in WATCHED}
    return Soak(
        seconds=seconds,
        rate=rate,
        sent=len(sent),
        lost=len(sent.keys() - received.keys()),
        doubled=sum(len(times) > 1 for times in received.values()),
        unknown=len(received.keys() - sent.keys()),
        memory={
            name: _course(seen, [look.memory for look in seen]) for name, seen in looks.items()
        },
        handles={
            name: _course(seen, [float(look.handles) for look in seen])
            for name, seen in looks.items()
        },
    )


def _course(looks: Sequence[Look], values: Sequence[float]) -> Trend:
    warm = looks[0].at + (looks[-1].at - looks[0].at) * WARMING
    since = next(i for i, look in enumerate(looks) if look.at >= warm)
    times = [look.at for look in looks[since:]]
    slope = linear_regression(times, values[since:]).slope
    return Trend(
        first=round(values[0], 1),
        last=round(values[-1], 1),
        highest=round(max(values), 1),
        per_hour=round(slope * 3600, 2),
        rise=round(slope * (times[-1] - times[0]) / (mean(values[since:]) or 1.0), 4),
    )
