"""Runs a subject of a benchmark in a separate process, and measures what it costs."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus.bench.usage import Usage, quarters
from bus.errors import Stop

LOOK_SECONDS = 0.1
"""Seconds between two samples of a process's memory."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What work cost.

    seconds:     elapsed time.
    cpu_seconds: CPU time of all threads of the process, and of the child processes that it waited
                 for.
    peak_mib:    peak resident memory in MiB, including the interpreter.
    quarters:    peak resident memory in each quarter of the time, in MiB. Empty when the memory was
                 not sampled or the time was too short.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    quarters: tuple[float, ...] = ()


Work = Callable[..., Any]
"""A function that prepares the work (imports, connections, data in memory). It returns the function
that is measured, which takes no arguments and whose result is returned to the caller. Another
process must be able to import it.
"""


def alone(work: Work, *arguments: Any, cores: Sequence[int] = ()) -> tuple[Any, Cost]:
    """Do this work in a new process. Return its result and its cost.

    cores: the cores on which it may run. Empty: all cores. Only Linux can restrict a process.
    """
    answers, cost = together([(work, arguments, cores)])
    return answers[0], cost


def together(
    works: Sequence[tuple[Work, Sequence[Any], Sequence[int]]],
) -> tuple[list[Any], Cost]:
    """Do several works at the same time, each in a process. Return their results and total cost.

    All of them prepare first. The time runs from when all are ready until the last one ends.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for work, arguments, cores in works:
            here, there = context.Pipe()
            process = context.Process(
                # Python looks for garbage as rarely as in every command of the bus (`bus.__main__`)
                target=_child,
                args=(there, work, tuple(arguments), tuple(cores), gc.get_threshold()),
            )
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        for pipe in pipes:
            _answer(pipe)
        began = time.perf_counter()
        for pipe in pipes:
            pipe.send("go")
        found = [_answer(pipe) for pipe in pipes]
        seconds = time.perf_counter() - began
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(60)
    answers, cpu, peaks, resident = zip(*found, strict=True)
    by_quarter = tuple(sum(each) for each in zip(*resident, strict=False))
    return list(answers), Cost(seconds, sum(cpu), sum(peaks), by_quarter)


def command(arguments: Sequence[str], folder: Path, env: Mapping[str, str]) -> tuple[Any, Cost]:
    """Run a command in a folder until it ends. Return the JSON that it printed, and its cost.

    The cost includes the start of the command. Raises `Stop` when the command fails.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(arguments, cwd=folder, env=env, stdout=out, stderr=err)
        # The use of this command alone: `resource.RUSAGE_CHILDREN` adds up all commands.
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise Stop(f"`{' '.join(arguments)}` failed with {process.returncode}:\n{err.read()}")
        peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
        return json.load(out), Cost(seconds, used.ru_utime + used.ru_stime, peak)


def _answer(pipe: Any) -> Any:
    """Return the next message of a child. Raise it if it is an exception."""
    try:
        message = pipe.recv()
    except EOFError:
        raise Stop("a process of the benchmark ended before its work was done") from None
    if isinstance(message, BaseException):
        raise message
    return message


def _child(
    pipe: Any,
    work: Work,
    arguments: tuple[Any, ...],
    cores: tuple[int, ...],
    collections: tuple[int, int, int],
) -> None:
    if cores and sys.platform == "linux":
        os.sched_setaffinity(0, cores)
    gc.set_threshold(*collections)
    try:
        measured = work(*arguments)
        pipe.send("ready")
        pipe.recv()
        before = _cpu()
        usage = Usage({"me": os.getpid()})
        with _watched(usage):
            answer = measured()
        pipe.send((answer, _cpu() - before, _peak(), quarters(usage.looks["me"])))
    except Exception as error:
        pipe.send(Stop(f"{type(error).__name__}: {error}"))
        raise


@contextmanager
def _watched(usage: Usage) -> Iterator[None]:
    """Sample the memory regularly while the block runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOOK_SECONDS):
            usage.look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _cpu() -> float:
    own, waited = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + waited.ru_utime + waited.ru_stime


def _peak() -> float:
    """Return the peak memory in MiB of this process since its program began."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:  # macOS counts in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
