"""The projection in a separate process, which is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.integration.commands import Commands

NOT_RUNNING = "is not running: run `bus up`"


@dataclass(slots=True)
class Projector:
    """The process of `bus vendors run`, with all that it prints in one file."""

    commands: Commands
    log: Path
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.running is not None and self.running.poll() is not None:
            self.stop()
        if self.running is None:
            with self.log.open("ab") as out:
                self.running = subprocess.Popen(
                    [sys.executable, "-m", "bus", "vendors", "run", "--json"],
                    cwd=self.commands.cwd,
                    env=self.commands.env,
                    stdout=out,
                    stderr=out,
                )

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self.running is not None:
            self.running.kill()
            self.running.wait()
            self.running = None

    def stop(self) -> None:
        """Ask it to end, if it runs; it must do so well."""
        if self.running is not None:
            ended, self.running = self.running, None
            ended.send_signal(signal.SIGTERM)
            try:
                status = ended.wait(90)
            finally:
                ended.kill()
            # SIGTERM ends a process that has not begun yet. A process that begins while a part of
            # the bus is killed ends too, and a service manager would start it again.
            said = self.log.read_text()[-2000:]
            assert status in (0, -signal.SIGTERM) or NOT_RUNNING in said, said
