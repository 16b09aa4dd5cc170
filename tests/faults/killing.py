"""Processes of `bus …` that are killed without warning at a random moment."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bus.errors import RetryLater
from bus.kafka import topics
from bus.kafka.cloudevents import headers_of
from bus.kafka.reader import Reader
from bus.settings import Settings
from bus.standard import KINDS
from tests.faults import checker
from tests.faults.checker import Topics
from tests.integration.commands import Commands

ROOT = Path(__file__).parents[2]
LOGGED = (sys.executable, "-m", "tests.faults.step_log")
STEP_RECORDS = 50
"""The largest number of records in a transaction and in a consumer's batch."""
QUICK = '{"session.timeout.ms": 1500, "heartbeat.interval.ms": 300}'
"""librdkafka settings with which a group drops a killed member sooner than after 10 s."""
LONGEST = 60.0


@dataclass(slots=True)
class KilledCommand:
    """A command that is run in small steps (`tests.faults.step_log`) and killed.

    steps:  about how many steps a run has; corrected when a run reaches its end.
    killed: how many kills happened in each step.
    """

    commands: Commands
    rng: random.Random
    steps: int = 40
    killed: Counter[str] = field(default_factory=Counter)
    _size: int = field(default=0, init=False)
    _known: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.commands.variables |= {"PYTHONPATH": str(ROOT)}

    @property
    def log(self) -> Path:
        """The file in which the processes log their steps."""
        return self.commands.cwd / "steps.log"

    @property
    def summary(self) -> str:
        """A summary of the kills, by step."""
        return f"{self.killed.total()} kills: " + ", ".join(
            f"{number} in {step}" for step, number in sorted(self.killed.items())
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command and let it run."""
        return subprocess.Popen(
            [*LOGGED, str(self.log), str(STEP_RECORDS), *arguments, "--json"],
            cwd=self.commands.cwd,
            env=self.commands.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def kill_once(self, *arguments: str) -> None:
        """Start the command and kill it shortly after a random step, unless it ends before."""
        begun = len(self._lines())
        at, moment = self.rng.randint(1, self.steps), self.rng.choice((0, 0.003, 0.02, 0.1))
        process = self.start(*arguments)
        try:
            until = time.monotonic() + LONGEST
            while len(self._lines()) < begun + at and process.poll() is None:
                assert time.monotonic() < until, f"{arguments}: hangs after {self._lines()[-1:]}"
                time.sleep(0.001)
            time.sleep(self.rng.random() * moment)
        finally:
            process.kill()
            process.communicate()
        if process.returncode == -signal.SIGKILL:
            self.killed[_step(self._lines()[-1])] += 1
        else:
            self.steps = len(self._lines()) - begun

    def beside(self, *arguments: str, then: Callable[[], None]) -> None:
        """Start the command, call `then` after a random number of steps, and let the command end.

        The command may succeed or fail.
        """
        wanted = len(self._lines()) + self.rng.randint(1, self.steps)
        process = self.start(*arguments)
        try:
            while len(self._lines()) < wanted and process.poll() is None:
                time.sleep(0.001)
            then()
            process.wait(LONGEST * 2)
        finally:
            process.kill()
            process.communicate()

    def finish(self, *arguments: str, tries: int = 1) -> int:
        """Run the command until it succeeds, as a nightly job does; return the number of runs."""
        for number in range(1, tries + 1):
            process = self.start(*arguments)
            try:
                status = process.wait(LONGEST * 2)
            finally:
                process.kill()
                process.communicate()
            if status == 0:
                return number
        return self.commands.run(*arguments) and tries + 1

    def _lines(self) -> list[str]:
        """Return all lines of the log.

        The file is read only when it has grown, because this is called every millisecond.
        """
        size = self.log.stat().st_size if self.log.exists() else 0
        if size != self._size:
            self._size, self._known = size, [*checker.log_lines(self.log)]
        return self._known


def _step(line: str) -> str:
    """Return a line of the log in words: `_hand_over done` becomes "after hand over"."""
    words = line.replace("_", " ").split()
    if words[-1] == "done":
        return " ".join(["after", *words[:-1]])
    return words[0] if words[0] == "commit" and words[1:] else " ".join(words)


@dataclass(slots=True)
class Watched:
    """The events that a reader of committed data received during the faults."""

    ids: list[str] = field(default_factory=list)

    def received_only(self, published: Topics) -> None:
        """Check that the reader received every event of the topics once, and no others."""
        published_ids = {event.id for event in published.events}
        assert len(self.ids) == len(set(self.ids)), "received twice"
        assert set(self.ids) - published_ids == set(), "received, but aborted later"
        assert published_ids - set(self.ids) == set(), "in the topics, but not received"


@contextmanager
def watching(settings: Settings) -> Iterator[Watched]:
    """Read committed data while the block runs, and then up to the current end of the topics."""
    topics.ensure(settings, [topics.topic(settings, kind) for kind in KINDS])
    found, over = Watched(), threading.Event()
    reader = Reader(settings, "watching failed: {}", seconds=30)
    names = [topics.topic(settings, kind) for kind in KINDS]
    reader.assign(dict.fromkeys(reader.places(names), 0))

    def read() -> None:
        quiet = 0.0
        while not (over.is_set() and time.monotonic() - quiet > 2.0):
            try:
                messages, _ = reader.take(patience=0.2)
            except RetryLater:
                continue  # a broker is down
            if messages or not over.is_set():
                quiet = time.monotonic()
            found.ids += [(dict(headers_of(m))["ce_id"] or b"").decode() for m in messages]

    thread = threading.Thread(target=read, name="reader")
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        reader.close()


def ready(variables: Mapping[str, str], secret: str) -> dict[str, str]:
    """Return variables with which consumers wait only briefly."""
    return {
        **variables,
        "BUS_KAFKA__CLIENT": QUICK,
        "BUS_CONSUMER__RETRY_FIRST": "0.1",
        "BUS_CONSUMER__RETRY_MOST": "1",
        "BUS_PRODUCTS__WEBHOOK__SECRET": secret,
    }
