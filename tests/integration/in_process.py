"""A `bus` command in this process, which saves the second that a process takes to import.

Python's own state is as it was when the command is over: environment, current folder, signal
handlers, logging. Not so what only the end of a process takes away; what is killed, signalled or
left running is for `Commands.start`.
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
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class TooLate(BaseException):
    """The command takes too long. Nothing in the product catches it."""


def possible() -> bool:
    """Whether a command can run here: signals and the environment are the main thread's."""
    return threading.current_thread() is threading.main_thread()


def run(arguments: list[str], *, cwd: Path, env: Mapping[str, str], seconds: float) -> Done:
    """Run `bus ARGUMENTS` to its end, with the status that its process would have."""
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
    """Ctrl-C is meant for the tests, not for the command that happens to run."""
    one: BaseException | None = ended
    while one is not None:
        if isinstance(one, KeyboardInterrupt):
            raise one
        one = one.__cause__ or one.__context__


@contextlib.contextmanager
def _captured(name: str, descriptor: int, file: BinaryIO) -> Iterator[None]:
    """The file gets all that is written there, by Python or by a library in C."""
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
    """End the clients of Kafka that the command left open, as the end of its process does.

    What is imported by then is left out of later collections, which take little time so.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()


@contextlib.contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """This environment and no other variable. What is the same is not touched."""
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
    """Give the threads that the command starts, and that those start; a test has some of its own."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        if threading.current_thread() in (threading.main_thread(), *started):
            started.append(thread)
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", noted)
        yield started


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """The command sets up its logs; afterwards those of the tests are back."""
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
    """What a process does once and for all is done once for all commands, or not at all."""
    configure, provide = structlog.configure, trace.set_tracer_provider

    def uncached(**how: Any) -> None:
        # a logger that keeps its configuration would keep this command's
        configure(**how | {"cache_logger_on_first_use": False})

    def once(provider: trace.TracerProvider) -> None:
        if not isinstance(trace.get_tracer_provider(), TracerProvider):
            provide(provider)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", uncached)
        patch.setattr(trace, "set_tracer_provider", once)
        patch.setattr(os, "nice", lambda _: 0)  # there is no way back from it
        patch.setattr(sys, "excepthook", sys.excepthook)  # typer puts its own in its place
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
    """All these threads have ended."""
    until = time.monotonic() + THREAD_SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
        assert not thread.is_alive(), f"{arguments} left a thread running: {thread.name}"
