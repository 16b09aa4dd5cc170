"""A long run at a steady rate: memory and file handles stay flat, nothing is lost or doubled.

Attendance goes from a SIS to a vendor (`bus.bench.traffic`) while the processes are looked at. The
first third of the time is for warming up: first connections, caches, Java's heap. Flat is what over
the other two thirds, by the line of least squares through all looks, rises by less than 5 % of its
middle. (A JVM takes and gives memory in steps, so single looks say little.)
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
WARMING = 1 / 3
RISE = 0.05
LOOK_EVERY = 10.0


@dataclass(frozen=True, slots=True)
class Trend:
    """How one figure of a process went: MiB of memory, or file handles.

    rise: what the line of least squares rises by, after warming up, as a share of the middle.
    per_hour: the same line's slope.
    """

    first: float
    last: float
    highest: float
    per_hour: float
    rise: float

    @property
    def flat(self) -> bool:
        """Whether it does not grow."""
        return self.rise < RISE


@dataclass(frozen=True, slots=True)
class Soak:
    """What a long run found. `lost`: answered 202 and not at the vendor; `doubled`: there more than
    once; `unknown`: there and never answered 202."""

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
        """Whether all is as it should be."""
        courses = [*self.memory.values(), *self.handles.values()]
        return not (self.lost or self.doubled or self.unknown) and all(c.flat for c in courses)

    def as_json(self) -> dict[str, Any]:
        """As `bus bench soak --json` prints it."""
        return {"sound": self.sound, **asdict(self)}

    def show(self, console: Console) -> None:
        """A line for each process and figure, then what became of the events."""
        table = Table(
            f"{self.seconds / 60:g} min at {self.rate:,}/s",
            *("first", "last", "highest", "an hour", "rise", ""),
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
            f"flat: after the first third, the line through all looks rises by less than {RISE:.0%}"
        )
        console.print(
            f"{self.sent:,} events sent, {self.lost:,} lost, {self.doubled:,} doubled, "
            f"{self.unknown:,} unknown"
        )


def measure(folder: Path, minutes: float, rate: int) -> Soak:
    """Run for so long on a bus in a folder of its own, made anew."""
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
