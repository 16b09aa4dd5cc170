"""Measures how fast a bus starts, and how much CPU an idle bus uses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bus import local
from bus.bench.usage import Usage
from bus.demo.stage import Stage, first_line

SETTLES = 10.0
"""Seconds that are not measured, for joining the group and reading each topic for the first time.
"""


@dataclass(frozen=True, slots=True)
class Start:
    """The seconds that `bus up` takes in a new home, when everything is downloaded.

    rounds: the seconds of each round.
    up:     their median.
    idle:   the CPU that each process uses when idle, in percent of one core, over `idle_seconds`.
    """

    rounds: list[float]
    up: float
    idle_seconds: float
    idle: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return the result as `bus bench start --json` prints it."""
        found = asdict(self)
        found["idleSeconds"], found["idlePercent"] = found.pop("idle_seconds"), found.pop("idle")
        return found

    def show(self, console: Console) -> None:
        """Print the start, then a row for each idle process."""
        rounds = ", ".join(f"{seconds:.1f}" for seconds in self.rounds)
        console.print(f"bus up in a fresh home: {self.up:.1f} s (the median of {rounds})")
        table = Table(f"idle for {self.idle_seconds:.0f} s", "% of a core", box=None)
        for name, percent in self.idle.items():
            table.add_row(name, f"{percent:.2f}")
        console.print(table)


def measure(
    folder: Path, rounds: int, idle_seconds: float, progress: Callable[[str], None]
) -> Start:
    """Start the bus in `folder`, which is rebuilt in each round; then measure it when idle."""
    progress("downloading what is missing")
    with Stage(folder) as stage:
        stage.run("up")
        stage.run("down")
    took = []
    for number in range(rounds):
        progress(f"start {number + 1} of {rounds}")
        with Stage(folder) as stage:
            stage.bus_down_at_the_end()
            began = time.monotonic()
            stage.run("up")
            took.append(round(time.monotonic() - began, 2))
    progress(f"measuring idle processes for {SETTLES + idle_seconds:.0f} s")
    return Start(took, median(took), idle_seconds, _idle(folder, idle_seconds))


def _idle(folder: Path, seconds: float) -> dict[str, float]:
    with Stage(folder) as stage:
        stage.bus_down_at_the_end()
        stage.run("up")
        stage.run("schemas", "apply")
        made = stage.run("produce", "http", "--new-key", "bench")
        stage.set(BUS_PRODUCERS__HTTP__CLIENTS__BENCH__KEY_SHA256=made["sha256"])
        service = stage.start("http", "produce", "http", "--port", "0")
        first_line(service)
        consumer = stage.start("canvas", "consume", "canvas", "--out", "out/canvas")
        running = local.status(stage.folder).running
        usage = Usage(
            {
                "consumer": consumer.pid,
                "HTTP source": service.pid,
                "Kafka": running["kafka"].pid,
                "registry": running["registry"].pid,
            }
        )
        time.sleep(SETTLES)
        usage.look()
        time.sleep(seconds)
        usage.look()
    return {
        name: round(100 * (last.cpu - first.cpu) / (last.at - first.at), 2)
        for name, (first, last) in usage.looks.items()
    }
