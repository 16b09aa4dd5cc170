"""Run a `bus` command in this process, which saves a second of imports for each command.

Afterwards the state of Python is restored: environment, current folder, signal handlers, logging.
State that only the end of a process clears stays. Use `Commands.start` for a command that is
killed, signaled or left running.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from bus.cli import app

LOGGERS = ("", "bus", "bus.librdkafka")
"""The loggers that `bus.observe.telemetry` sets up; the first is the root."""
THREAD_SECONDS = 10.0
"""How long the threads of a command may take to end after it."""


@dataclass(frozen=True, slots=True)
class Done:
    """The exit status and the output of a command."""

    returncode: int
    stdout: str
    stderr: str


class TooLate(BaseException):
    """A command takes too long. The code of the bus does not catch this."""


def possible() -> bool:
    """Return whether a command can run here: only the main thread can handle signals."""
    return threading.current_thread() is threading.main_thread()


def run(arguments: list[str], *, cwd: Path, env: Mapping[str, str], seconds: float) -> Done:
    """Run `bus ARGUMENTS` to its end, with the exit status that its process would have."""
    with TemporaryFile() as out, TemporaryFile() as err:
        with (
            contextlib.chdir(cwd),
            _environment(env),
            _signals(),
            _logging(),
            _threads() as threads,
            _process_alone(),
            _captured("stdout", 1, out),
            _captured("stderr", 2, err),
            _within(seconds, arguments),
        ):
            status = _status(arguments)
        _collect()
        _ended(arguments, threads)
        return Done(status, _text(out), _text(err))


def _status(arguments: list[str]) -> int:
    try:
        app(args=arguments, prog_name="python -m bus")
    except SystemExit as ended:
        _interrupted(ended)
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        sys.stderr.write(f"{ended.code}\n")
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _interrupted(ended: BaseException) -> None:
    """Raise the KeyboardInterrupt of Ctrl-C again: it is meant for the tests."""
    one: BaseException | None = ended
    while one is not None:
        if isinstance(one, KeyboardInterrupt):
            raise one
        one = one.__cause__ or one.__context__


@contextlib.contextmanager
def _captured(name: str, descriptor: int, file: BinaryIO) -> Iterator[None]:
    """Send all output to the file, from Python and from libraries in C."""
    before, kept = getattr(sys, name), os.dup(descriptor)
    before.flush()
    try:
        os.dup2(file.fileno(), descriptor)
        with open(descriptor, "w", encoding="utf-8", closefd=False) as stream:
            setattr(sys, name, stream)
            yield
    finally:
        setattr(sys, name, before)
        os.dup2(kept, descriptor)
        os.close(kept)


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


def _collect() -> None:
    """End the Kafka clients that the command left open, as the end of its process does.

    Later collections skip the objects that exist by then, to take little time.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()


@contextlib.contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """Set this environment and no other variable; leave equal ones untouched."""
    before = dict(os.environ)
    try:
        _become(env)
        yield
    finally:
        _become(before)


def _become(env: Mapping[str, str]) -> None:
    for name in os.environ.keys() - env.keys():
        del os.environ[name]
    for name, value in env.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _threads() -> Iterator[list[threading.Thread]]:
    """Yield the threads that the command and its threads start; a test has other threads."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_and_record(thread: threading.Thread) -> None:
        if threading.current_thread() in (threading.main_thread(), *started):
            started.append(thread)
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_record)
        yield started


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Let the command set up its logs; restore those of the tests afterwards."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(one, one.level, one.handlers[:]) for one in loggers]
    configured, config = structlog.is_configured(), structlog.get_config()
    try:
        yield
    finally:
        for one, level, handlers in before:
            one.setLevel(level)
            one.handlers[:] = handlers
        structlog.reset_defaults()
        if configured:
            structlog.configure(**config)


@contextlib.contextmanager
def _process_alone() -> Iterator[None]:
    """Run only once, or not at all, what changes a process for good."""
    configure, provide = structlog.configure, trace.set_tracer_provider

    def uncached(**how: Any) -> None:
        # a logger that caches its configuration would keep that of this command
        configure(**how | {"cache_logger_on_first_use": False})

    def once(provider: trace.TracerProvider) -> None:
        if not isinstance(trace.get_tracer_provider(), TracerProvider):
            provide(provider)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", uncached)
        patch.setattr(trace, "set_tracer_provider", once)
        patch.setattr(os, "nice", lambda _: 0)  # a process cannot take it back
        patch.setattr(sys, "excepthook", sys.excepthook)  # typer installs its own hook
        yield


@contextlib.contextmanager
def _within(seconds: float, arguments: list[str]) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TooLate(f"{arguments}: not within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _ended(arguments: list[str], threads: list[threading.Thread]) -> None:
    """Check that all these threads have ended."""
    until = time.monotonic() + THREAD_SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
        assert not thread.is_alive(), f"{arguments} left a thread running: {thread.name}"
