"""Measures how fresh a product is: the time from a change in the SIS to the product's log.

The changes are attendance records at a steady rate. The SIS POSTs them, and a webhook delivers them
to a vendor (`bus.bench.traffic`). The time of a change begins when the change was due, not when it
was sent. So the delay of a sender that falls behind is included.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bus.bench.figures import percentiles
from bus.bench.traffic import SentChange, Traffic, at_once, traffic
from bus.bench.usage import Used
from bus.errors import Stop

WARM_UP = 3.0
"""Seconds of sending before the measurement, for the first connections and transactions."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """The delays in milliseconds (p50, p99, worst) at one rate.

    asked:     changes per second in the SIS.
    at_once:   changes in one POST.
    changes:   how many changes were measured.
    through:   changes per second that reached the product, until the last one arrived.
    accepted:  the delay until the service answered 202.
    delivered: the delay until the product had the change.
    used:      what each process used, from the first change to the last, including the warm-up.
    beside:    what else ran at the same time.
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
        """Return the result as `bus bench freshness --json` prints it."""
        found = asdict(self)
        found["used"] = {
            name: {"cpuSeconds": used.cpu_seconds, "peakMiB": used.peak_mib}
            for name, used in self.used.items()
        }
        return {"atOnce" if name == "at_once" else name: value for name, value in found.items()}

    def show(self, console: Console, where: str = "the product's log") -> None:
        """Print two tables: the delays, and what each process used.

        where: where the changes arrive.
        """
        posts = "one per POST" if self.at_once == 1 else f"{self.at_once} per POST"
        posts += f", during {self.beside}" if self.beside else ""
        times = Table(f"{self.asked:,}/s, {posts}: ms", "p50", "p99", "worst", box=None)
        for name, figures in (
            ("change to 202", self.accepted),
            (f"change to {where}", self.delivered),
        ):
            times.add_row(name, *(f"{value:,.0f}" for value in figures.values()))
        console.print(times)
        console.print(f"{self.through:,.0f}/s reached {where}, {self.changes:,} changes measured")
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
    """Measure each rate in turn on one bus, in a folder that is rebuilt.

    history: the number of students of a district whose records are published first. At each rate
             there is then a second measurement, during which all of its history is replayed for
             Canvas repeatedly.
    """
    with traffic(folder, history) as there:
        found = []
        for rate in rates:
            progress(f"{rate:,} changes a second for {seconds:.0f} s")
            found.append(_measure(there, rate, seconds))
            if history:
                progress("the same rate during full replays")
                with _replaying(there) as number:
                    beside = _measure(there, rate, seconds)
                found.append(replace(beside, beside=f"{len(number)} full replays"))
        return found


@contextmanager
def _replaying(there: Traffic) -> Iterator[list[int]]:
    """Replay everything repeatedly while the block runs.

    Yields a list with one entry for each replay that has begun.
    """
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
    there.usage.forget()
    sent = there.send_new(rate, seconds + WARM_UP)
    there.wait_for_all()
    received = there.received()
    if lost := sent.keys() - received.keys():
        raise Stop(f"{len(lost)} events did not reach the product; see the logs in {there.folder}")
    arrived = {name: received[name][:1] for name in warmed_up(sent)}
    return freshness(rate, sent, arrived, there.usage.used())


def warmed_up(sent: Mapping[str, SentChange]) -> dict[str, SentChange]:
    """Return the changes that are measured: those that were due after the warm-up."""
    first = min(one.due for one in sent.values())
    return {name: one for name, one in sent.items() if one.due >= first + WARM_UP}


def freshness(
    rate: int,
    sent: Mapping[str, SentChange],
    arrived: Mapping[str, Sequence[float]],
    used: dict[str, Used],
) -> Freshness:
    """Return the delays of changes at a rate.

    sent:    all changes, also those of the warm-up.
    arrived: when each of the `warmed_up` changes arrived: one time for each receiver.
    """
    first = min(one.due for one in sent.values())
    measured = warmed_up(sent)
    last = max(max(times) for times in arrived.values())
    return Freshness(
        asked=rate,
        at_once=at_once(rate),
        changes=len(measured),
        through=round(len(measured) / (last - first - WARM_UP), 1),
        accepted=percentiles([one.accepted - one.due for one in measured.values()]),
        delivered=percentiles(
            [at - one.due for name, one in measured.items() for at in arrived[name]]
        ),
        used=used,
    )
