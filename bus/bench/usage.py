"""Samples the CPU, memory and file handles of running processes from outside."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import psutil


@dataclass(frozen=True, slots=True)
class Look:
    """A sample of one process.

    at:      when it was taken (`time.monotonic`).
    cpu:     CPU seconds of all threads since the process began.
    memory:  resident memory in MiB.
    handles: open files and sockets.
    """

    at: float
    cpu: float
    memory: float
    handles: int


@dataclass(frozen=True, slots=True)
class Used:
    """What a process used between its first and its last sample: CPU and peak memory."""

    cpu_seconds: float
    peak_mib: float


class Usage:
    """Samples processes, given by name and process id, and keeps the samples."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self.looks: dict[str, list[Look]] = {}
        self._processes: dict[str, psutil.Process] = {}
        for name, pid in processes.items():
            self.add(name, pid)

    def add(self, name: str, pid: int) -> None:
        """Sample this process as well from now on."""
        self._processes[name] = psutil.Process(pid)
        self.looks[name] = []

    def drop(self, name: str) -> None:
        """Stop sampling a process, because it has ended."""
        del self._processes[name]

    def look(self) -> None:
        """Sample all processes."""
        for name, process in self._processes.items():
            self.looks[name].append(_look(process))

    def forget(self) -> None:
        """Delete all samples and take a first one."""
        self.looks = {name: [_look(process)] for name, process in self._processes.items()}

    def used(self) -> dict[str, Used]:
        """Return what each process has used since its first sample."""
        return {
            name: Used(
                round(looks[-1].cpu - looks[0].cpu, 2), round(max(look.memory for look in looks))
            )
            for name, looks in self.looks.items()
        }


def quarters(looks: Sequence[Look]) -> tuple[float, ...]:
    """Return the peak memory in each quarter of the samples, in MiB.

    Returns () for fewer than four samples.
    """
    if len(looks) < 4:
        return ()
    edges = [len(looks) * part // 4 for part in range(5)]
    return tuple(max(look.memory for look in looks[a:b]) for a, b in pairwise(edges))


def _handles(process: psutil.Process) -> int:
    if sys.platform == "win32":
        return process.num_handles()
    return process.num_fds()


def _look(process: psutil.Process) -> Look:
    with process.oneshot():
        cpu = process.cpu_times()
        return Look(
            time.monotonic(),
            cpu.user + cpu.system,
            process.memory_info().rss / 2**20,
            _handles(process),
        )
