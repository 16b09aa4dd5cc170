"""Measures several instances of one consumer, which have joined their group before they work.

A group takes seconds to assign its partitions, which says nothing about its speed. So the instances
join while there is nothing to read. They are then stopped (SIGSTOP), and continue when everything
is published.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from bus import plugins
from bus.bench.figures import Figure
from bus.bench.measured import Cost
from bus.errors import Stop
from bus.observe import telemetry
from bus.settings import Settings

PATIENCE = 300.0
"""Seconds to wait for the instances."""
PATIENT = {
    "session.timeout.ms": 900_000,
    "max.poll.interval.ms": 900_000,
    "heartbeat.interval.ms": 3_000,
}
"""With these settings a stopped instance remains a member of its group for 900 seconds."""


class Instances:
    """Instances of the consumer for Canvas, one for each entry of `cores`, in a separate group.

    name:  names the group and the figure.
    cores: for each instance, the cores on which it may run. Empty: all cores.
    """

    def __init__(self, settings: Settings, name: str, cores: Sequence[Sequence[int]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._folder = tempfile.TemporaryDirectory(dir=settings.home)
        self._numbers = [context.Value("Q", 0) for _ in cores]
        self._members = [context.Event() for _ in cores]
        group = f"canvas-{name.replace(' ', '-')}"
        patient = settings.kafka.model_copy(update={"client": settings.kafka.client | PATIENT})
        theirs = settings.model_copy(update={"kafka": patient})
        self._processes = [
            context.Process(
                target=_run_instance,
                args=(theirs, group, self._folder.name, tuple(each), number, member),
            )
            for each, number, member in zip(cores, self._numbers, self._members, strict=True)
        ]

    def __enter__(self) -> Instances:
        for process in self._processes:
            process.start()
        for process, member in zip(self._processes, self._members, strict=True):
            until = time.monotonic() + PATIENCE
            while not member.wait(0.2):
                if not process.is_alive() or time.monotonic() > until:
                    raise Stop(
                        "an instance of the consumer did not join its group; "
                        "run the benchmark again"
                    )
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            self._signal(process.pid, signal.SIGCONT)
            process.terminate()
        for process in self._processes:
            process.join(60)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()

    def pause(self) -> None:
        """Stop the instances until `work` is called."""
        for process in self._processes:
            self._signal(process.pid, signal.SIGSTOP)

    def work(self, records: int) -> Figure:
        """Continue until the instances have delivered this many records. Return the cost."""
        watched = [psutil.Process(process.pid) for process in self._processes]
        before = sum(_cpu(each) for each in watched)
        began = time.perf_counter()
        for process in self._processes:
            self._signal(process.pid, signal.SIGCONT)
        while sum(number.value for number in self._numbers) < records:
            late = time.perf_counter() - began > PATIENCE
            if late or not all(process.is_alive() for process in self._processes):
                raise Stop(
                    f"{self._name}: an instance failed or took too long; run the benchmark again"
                )
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        cost = Cost(seconds, sum(_cpu(p) for p in watched) - before, sum(map(_peak, watched)))
        return Figure(self._name, records, cost)

    @staticmethod
    def _signal(pid: int | None, number: signal.Signals) -> None:
        try:
            os.kill(pid or 0, number)
        except ProcessLookupError:
            return


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _peak(process: psutil.Process) -> float:
    """Return the peak memory in MiB.

    Where the system does not report it, return the memory that is resident now.
    """
    try:
        status = Path(f"/proc/{process.pid}/status").read_text("ascii")
    except OSError:
        return float(process.memory_info().rss) / 2**20
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _run_instance(
    settings: Settings, name: str, out: str, cores: tuple[int, ...], number: Any, member: Any
) -> None:
    """Run `bus consume canvas --out OUT` in this process, as a product with this name."""
    from bus.consume.worker import Worker
    from bus.observe.metrics import ConsumerMetrics

    if cores and sys.platform == "linux":
        os.sched_setaffinity(0, cores)
    telemetry.configure(settings.telemetry)
    product = replace(plugins.product("canvas"), name=name)
    delivery = product.open(plugins.product_settings(product, settings, out=Path(out)))
    loop = Worker(settings, product, delivery, ConsumerMetrics())
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())

    def watch() -> None:
        while True:
            number.value = sum(loop.outcome.delivered.values())
            if not loop.ready():
                member.set()
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    loop.run()
    delivery.close()
