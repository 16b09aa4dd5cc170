"""The results of a benchmark: figures of subjects that did the same work, delays, and goals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from bus.bench.measured import Cost


@dataclass(frozen=True, slots=True)
class Figure:
    """The work of one subject and what it cost.

    records: the amount of work, usually a number of records.
    """

    subject: str
    records: int
    cost: Cost

    @property
    def rate(self) -> float:
        """Records per second of elapsed time."""
        return self.records / self.cost.seconds

    def memory(self) -> str:
        """Return the peak memory of each quarter of the time, which shows memory that grows."""
        seen = ", ".join(f"{most:,.0f}" for most in self.cost.quarters)
        return f"{self.subject}: peak memory in each quarter of the time: {seen} MiB"


def percentiles(seconds: Collection[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the worst of some delays, in milliseconds."""
    ordered = sorted(seconds)
    at = {"p50": 0.50, "p99": 0.99, "worst": 1.0}
    last = len(ordered) - 1
    return {name: round(ordered[round(share * last)] * 1000, 1) for name, share in at.items()}


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that the project has a target for.

    what:   what was measured.
    target: the target in the same unit; None if there is none for what was measured.
    least:  whether the figure must be at least the target. Otherwise it must be under it.
    remark: what a reader must know about the target.
    """

    what: str
    figure: float
    unit: str
    target: float | None = None
    least: bool = False
    remark: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the goal as `bus bench … --json` prints it."""
        return {
            "what": self.what,
            "figure": round(self.figure, 3),
            "unit": self.unit,
            "target": self.target,
            "least": self.least,
            "remark": self.remark,
        }

    def target_text(self) -> str:
        """Return the target in words."""
        if self.target is None:
            return self.remark
        bound = "at least" if self.least else "under"
        return ", ".join(filter(None, (f"{bound} {self.target:g} {self.unit}", self.remark)))


def show_goals(goals: Sequence[Goal], console: Console) -> None:
    """Print a table with a row for each goal."""
    table = Table(Column("job"), box=None)
    for name in ("figure", ""):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    table.add_column("to reach")
    for goal in goals:
        figure = f"{goal.figure:,.0f}" if goal.unit == "ms" else f"{goal.figure:,.2f}"
        table.add_row(goal.what, figure, goal.unit, goal.target_text())
    console.print(table)


def middle(figures: Sequence[Figure]) -> Figure:
    """Return the round with the median rate, because machines are busy now and then."""
    return sorted(figures, key=lambda figure: figure.rate)[len(figures) // 2]


@dataclass(slots=True)
class Comparison:
    """Subjects that did the same work in the same run. The first is the bus.

    job:    what was done.
    target: the target, in words.
    notes:  what a reader must know to understand the figures.
    """

    job: str
    target: str = ""
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ratio(self, figure: Figure) -> float:
        """Return the rate of the bus divided by the rate of another subject."""
        return self.figures[0].rate / figure.rate

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as `bus bench … --json` prints it."""
        return {
            "job": self.job,
            "target": self.target,
            "notes": self.notes,
            "figures": [
                {
                    "subject": figure.subject,
                    "records": figure.records,
                    "seconds": round(figure.cost.seconds, 3),
                    "cpuSeconds": round(figure.cost.cpu_seconds, 3),
                    "rate": round(figure.rate),
                    "ratio": round(self.ratio(figure), 3),
                    "peakMiB": round(figure.cost.peak_mib),
                    "quartersMiB": [round(most) for most in figure.cost.quarters],
                }
                for figure in self.figures
            ],
        }

    def show(self, console: Console) -> None:
        """Print a table with a row for each subject.

        `ratio` is the rate of the bus divided by the rate of the subject.
        """
        table = Table(
            Column(self.job),  # wraps, so that no figure is truncated
            title=self.target and f"to reach: {self.target}",
            box=None,
        )
        table.title_justify = "left"
        for name in ("records", "s", "records/s", "ratio", "CPU s", "peak MiB"):
            table.add_column(name, justify="right", no_wrap=True)
        for figure in self.figures:
            table.add_row(
                figure.subject,
                f"{figure.records:,}",
                f"{figure.cost.seconds:.1f}",
                f"{figure.rate:,.0f}",
                "" if figure is self.figures[0] else f"{self.ratio(figure):.2f}",
                f"{figure.cost.cpu_seconds:.1f}",
                f"{figure.cost.peak_mib:,.0f}",
            )
        console.print(table)
        for note in self.notes:
            console.print(f"  {note}", markup=False)
