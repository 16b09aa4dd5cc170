"""The projection in separate processes, which are killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.commands import Commands

NOT_RUNNING = "is not running: run `bus up`"


@dataclass(slots=True)
class Projector:
    """The processes of `bus vendors run`, with all that they print in one file.

    number: how many instances there are.
    """

    commands: Commands
    log: Path
    number: int = 1
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start the instances that do not run."""
        for one in [one for one in self.running if one.poll() is not None]:
            self._end(one)
        while len(self.running) < self.number:
            with self.log.open("ab") as out:
                started = subprocess.Popen(
                    [sys.executable, "-m", "bus", "vendors", "run", "--json"],
                    cwd=self.commands.cwd,
                    env=self.commands.env,
                    stdout=out,
                    stderr=out,
                )
            self.running.append(started)

    def kill(self) -> None:
        """Kill all instances that run."""
        for one in list(self.running):
            self._kill(one)

    def kill_one(self, rng: random.Random) -> None:
        """Kill one instance, if one runs."""
        if self.running:
            self._kill(rng.choice(self.running))

    def _kill(self, one: subprocess.Popen[bytes]) -> None:
        one.kill()
        one.wait()
        self.running.remove(one)

    def stop(self) -> None:
        """Ask the instances to end, if they run; they must do so well."""
        for one in self.running:
            one.send_signal(signal.SIGTERM)
        for one in list(self.running):
            self._end(one)

    def _end(self, one: subprocess.Popen[bytes]) -> None:
        """Wait for the end of an instance."""
        self.running.remove(one)
        try:
            status = one.wait(90)
        finally:
            one.kill()
        # SIGTERM ends a process that has not begun yet. A process that begins while a part of
        # the bus is killed ends too, and a service manager would start it again.
        said = self.log.read_text()
        assert status in (0, -signal.SIGTERM) or NOT_RUNNING in said, said[-2000:]
