"""What a benchmark found: subjects side by side on the same work, with rate, ratio and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from bus.bench.measured import Cost


@dataclass(frozen=True, slots=True)
class Figure:
    """One subject's work: how much of it (records, as a rule) and what it cost."""

    subject: str
    records: int
    cost: Cost

    @property
    def rate(self) -> float:
        """Records a second, by the clock on the wall."""
        return self.records / self.cost.seconds

    def memory(self) -> str:
        """Its course, in words: memory that grows shows from quarter to quarter."""
        seen = ", ".join(f"{most:,.0f}" for most in self.cost.quarters)
        return f"{self.subject}: at most {seen} MiB in each quarter of its time"


def middle(figures: Sequence[Figure]) -> Figure:
    """Of several rounds the one with the middle rate: machines are busy now and then."""
    return sorted(figures, key=lambda figure: figure.rate)[len(figures) // 2]


@dataclass(slots=True)
class Comparison:
    """Subjects that did the same work in the same run; the first is the bus.

    job:    what was done.
    target: what is to be reached, in words.
    notes:  what a reader must know to read the figures.
    """

    job: str
    target: str = ""
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ratio(self, figure: Figure) -> float:
        """How many times the rate of another subject the bus has."""
        return self.figures[0].rate / figure.rate

    def as_json(self) -> dict[str, Any]:
        """As `bus bench … --json` prints it."""
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
        """A table: a line for each subject; `ratio` is the bus's rate over the subject's."""
        table = Table(
            Column(self.job),  # wraps, so that no figure is cut short
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
