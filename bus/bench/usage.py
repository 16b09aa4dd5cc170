"""What running processes use: CPU, memory, file handles; looked at now and then from outside."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import psutil


@dataclass(frozen=True, slots=True)
class Look:
    """One process at one moment: `at` by `time.monotonic`, resident memory in MiB.

    cpu: seconds since the process began, all its threads. handles: open files and sockets.
    """

    at: float
    cpu: float
    memory: float
    handles: int


@dataclass(frozen=True, slots=True)
class Used:
    """What a process used between its first look and its last: CPU, and the most memory seen."""

    cpu_seconds: float
    peak_mib: float


class Usage:
    """Looks at processes, known by a name and their id, and remembers what it saw."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self.looks: dict[str, list[Look]] = {}
        self._processes: dict[str, psutil.Process] = {}
        for name, pid in processes.items():
            self.add(name, pid)

    def add(self, name: str, pid: int) -> None:
        """Look at this one as well from now on."""
        self._processes[name] = psutil.Process(pid)
        self.looks[name] = []

    def drop(self, name: str) -> None:
        """Look at it no more: it has ended."""
        del self._processes[name]

    def look(self) -> None:
        """Look at all."""
        for name, process in self._processes.items():
            self.looks[name].append(_look(process))

    def forget(self) -> None:
        """Begin anew, with a look."""
        self.looks = {name: [_look(process)] for name, process in self._processes.items()}

    def used(self) -> dict[str, Used]:
        """What each has used since it was first looked at."""
        return {
            name: Used(
                round(looks[-1].cpu - looks[0].cpu, 2), round(max(look.memory for look in looks))
            )
            for name, looks in self.looks.items()
        }


def quarters(looks: Sequence[Look]) -> tuple[float, ...]:
    """The most memory seen in each quarter of the looks, in MiB; () for fewer looks than four."""
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
