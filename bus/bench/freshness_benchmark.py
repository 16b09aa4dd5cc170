"""How fresh a product is: from a change in the SIS to the product's own log, at a steady rate.

The change is attendance, which the SIS POSTs and a webhook gives to a vendor (`bus.bench.traffic`).
It counts from when it was due, not from when the sender came to it, so nothing that falls behind
is left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bus.bench.traffic import Traffic, at_once, traffic
from bus.bench.usage import Used
from bus.errors import Stop

WARM_UP = 3.0
"""Seconds of sending before measuring: the first connections, the first transactions."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long it took, in milliseconds (p50, p99, worst): until 202, until the product had it.

    asked:   changes a second that the SIS had.
    through: changes a second that reached the product, until the last one did.
    at_once: changes in one POST.
    beside:  what else went on.
    used:    by process, from the first change to the last, warming up included.
    """

    asked: int
    at_once: int
    changes: int
    through: float
    accepted: dict[str, float]
    delivered: dict[str, float]
    used: dict[str, Used]
    beside: str = ""

    def as_json(self) -> dict[str, Any]:
        """As `bus bench freshness --json` prints it."""
        found = asdict(self)
        found["used"] = {
            name: {"cpuSeconds": used.cpu_seconds, "peakMiB": used.peak_mib}
            for name, used in self.used.items()
        }
        return {"atOnce" if name == "at_once" else name: value for name, value in found.items()}

    def show(self, console: Console) -> None:
        """Two tables: the times, and what each process used."""
        posts = "each a POST" if self.at_once == 1 else f"{self.at_once} in each POST"
        posts += f", beside {self.beside}" if self.beside else ""
        times = Table(f"{self.asked:,}/s, {posts}: ms", "p50", "p99", "worst", box=None)
        for name, figures in (
            ("change to 202", self.accepted),
            ("change to the product's log", self.delivered),
        ):
            times.add_row(name, *(f"{value:,.0f}" for value in figures.values()))
        console.print(times)
        console.print(f"{self.through:,.0f}/s went through, {self.changes:,} measured")
        processes = Table("process", "CPU s", "peak MiB", box=None)
        for name, used in self.used.items():
            processes.add_row(name, f"{used.cpu_seconds:.1f}", f"{used.peak_mib:,.0f}")
        console.print(processes)


def measure(
    folder: Path,
    rates: Sequence[int],
    seconds: float,
    progress: Callable[[str], None] = lambda _: None,
    *,
    history: int = 0,
) -> list[Freshness]:
    """Measure at each rate in turn on one bus, in a folder of its own, made anew.

    history: of a district of so many students; at each rate it is then measured once more, while
             all of that is replayed for Canvas, again and again.
    """
    with traffic(folder, history) as there:
        found = []
        for rate in rates:
            progress(f"{rate:,} changes a second for {seconds:.0f} s")
            found.append(_measure(there, rate, seconds))
            if history:
                progress("the same beside full replays")
                with _replaying(there) as number:
                    beside = _measure(there, rate, seconds)
                found.append(replace(beside, beside=f"{len(number)} full replays"))
        return found


@contextmanager
def _replaying(there: Traffic) -> Iterator[list[int]]:
    """Replay all, and again, while the block runs; one entry for each that was begun."""
    begun: list[int] = []
    over = threading.Event()

    def again() -> None:
        while not over.is_set():
            begun.append(len(begun))
            into = there.folder / "replayed" / str(time.time_ns())
            there.stage.run("replay", "canvas", "--into", str(into), patience=600)

    thread = threading.Thread(target=again, name="replays")
    thread.start()
    try:
        yield begun
    finally:
        over.set()
        thread.join()


def _measure(there: Traffic, rate: int, seconds: float) -> Freshness:
    before = there.sent().keys()
    there.usage.forget()
    there.send(rate, seconds + WARM_UP)
    there.wait_for_all()
    arrived = there.received()
    sent = {name: one for name, one in there.sent().items() if name not in before}
    if lost := sent.keys() - arrived.keys():
        raise Stop(f"{len(lost)} events did not come to the product; see {there.folder}")
    first = min(one.due for one in sent.values())
    measured = {name: one for name, one in sent.items() if one.due >= first + WARM_UP}
    last = max(arrived[name][0] for name in measured)
    return Freshness(
        asked=rate,
        at_once=at_once(rate),
        changes=len(measured),
        through=round(len(measured) / (last - first - WARM_UP), 1),
        accepted=_figures([one.accepted - one.due for one in measured.values()]),
        delivered=_figures([arrived[name][0] - one.due for name, one in measured.items()]),
        used=there.usage.used(),
    )


def _figures(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    at = {"p50": 0.50, "p99": 0.99, "worst": 1.0}
    last = len(ordered) - 1
    return {name: round(ordered[round(share * last)] * 1000, 1) for name, share in at.items()}
