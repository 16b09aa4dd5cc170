"""Processes of `bus …` that are killed without warning at a moment that chance has chosen."""

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
NOTED = (sys.executable, "-m", "tests.faults.noted")
SMALL = 50
"""How many records are in a transaction, and in a consumer's batch, at most."""
QUICK = '{"session.timeout.ms": 1500, "heartbeat.interval.ms": 300}'
"""librdkafka's settings with which a group does not wait 10 s for a member that was killed."""
LONGEST = 60.0


@dataclass(slots=True)
class Mortal:
    """Runs a command in small steps (`tests.faults.noted`), and kills it.

    steps:  of how many steps a run is, about; it is found out when one comes to its end.
    killed: how often in which step.
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
    def notes(self) -> Path:
        """What the processes have noted."""
        return self.commands.cwd / "notes"

    @property
    def told(self) -> str:
        """Where the kills were."""
        return f"{self.killed.total()} kills: " + ", ".join(
            f"{number} in {step}" for step, number in sorted(self.killed.items())
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it and let it run."""
        return subprocess.Popen(
            [*NOTED, str(self.notes), str(SMALL), *arguments, "--json"],
            cwd=self.commands.cwd,
            env=self.commands.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def kill_once(self, *arguments: str) -> None:
        """Start it and kill it a moment after some step, if it has not come to its end by then."""
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
        """Start it and do something to others when it has noted up to so many steps; let it end,
        well or not."""
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
        """Run it to its end, as often as it takes, as a nightly job does; how often that was."""
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
        """All notes; read when there are more than before, as this is asked every millisecond."""
        size = self.notes.stat().st_size if self.notes.exists() else 0
        if size != self._size:
            self._size, self._known = size, [*checker.notes(self.notes)]
        return self._known


def _step(line: str) -> str:
    """What a note says for a person: `_hand_over done` is "after hand over"."""
    words = line.replace("_", " ").split()
    if words[-1] == "done":
        return " ".join(["after", *words[:-1]])
    return words[0] if words[0] == "commit" and words[1:] else " ".join(words)


@dataclass(slots=True)
class Watched:
    """What a reader of committed data has been given while things went wrong."""

    ids: list[str] = field(default_factory=list)

    def saw_only(self, published: Topics) -> None:
        """Nothing that is not there in the end, nothing twice, all that is there."""
        there = {event.id for event in published.events}
        assert len(self.ids) == len(set(self.ids)), "given twice"
        assert set(self.ids) - there == set(), "given, and aborted afterwards"
        assert there - set(self.ids) == set(), "there, and not given"


@contextmanager
def watching(settings: Settings) -> Iterator[Watched]:
    """Read committed data while the block runs, and to the end as it is then."""
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
                continue  # a broker is away
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
    """The variables of consumers that do not wait long for anything."""
    return {
        **variables,
        "BUS_KAFKA__CLIENT": QUICK,
        "BUS_CONSUMER__RETRY_FIRST": "0.1",
        "BUS_CONSUMER__RETRY_MOST": "1",
        "BUS_PRODUCTS__WEBHOOK__SECRET": secret,
    }
