"""The `bus` commands as a person or a script runs them: JSON on stdout, a status.

What runs to its end runs in this process; what is to be killed or signalled is a process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bus.settings import Settings
from tests.integration import in_process
from tests.integration.in_process import Done

PATIENCE = 120.0


@dataclass(slots=True)
class Commands:
    """`bus …` against one bus, under topics of its own.

    variables: more of the environment. cwd: the current folder.
    """

    settings: Settings
    cwd: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """The environment: nothing of the user's settings, so no test reaches a real cluster."""
        clean = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
        named = {
            "BUS_KAFKA__BOOTSTRAP": self.settings.kafka.bootstrap,
            "BUS_REGISTRY__URL": self.settings.registry.url,
        }
        return clean | {
            "BUS_HOME": str(self.settings.home),
            "BUS_TOPIC_PREFIX": self.settings.topic_prefix,
            **{name: value for name, value in named.items() if value},
            **self.variables,
        }

    def run(self, *arguments: str, status: int = 0, process: bool = False) -> dict[str, Any]:
        """Run it to its end; the one JSON object that it printed.

        process: run it in a process of its own.
        """
        done = self.ended(*arguments, process=process)
        assert done.returncode == status, f"{arguments}: {done.stdout}\n{done.stderr}"
        assert done.stdout.count("\n") == 1, f"{arguments} printed more than one line"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def ended(self, *arguments: str, process: bool = False) -> Done:
        """Run it to its end; how that was, and what it printed.

        process: run it in a process of its own.
        """
        if not process and in_process.possible():
            return in_process.run(
                [*arguments, "--json"], cwd=self.cwd, env=self.env, seconds=PATIENCE
            )
        done = subprocess.run(
            self._line(*arguments),
            cwd=self.cwd,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it and let it run."""
        return subprocess.Popen(
            self._line(*arguments),
            cwd=self.cwd,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Let it run while the block does; it must then end by SIGTERM, with status 0."""
        process = self.start(*arguments)
        try:
            yield process
        except BaseException:
            process.terminate()
            sys.stderr.write(f"{arguments}: {_end(process)}")
            raise
        process.send_signal(signal.SIGTERM)
        log = _end(process)
        assert process.returncode == 0, f"{arguments}: {log}"

    def _line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "bus", *arguments, "--json"]


def _end(process: subprocess.Popen[str]) -> str:
    """What it logged, when it has ended; it is killed when it does not."""
    try:
        return process.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return "killed after 60 s; " + process.communicate()[1]


def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """What `condition` answers as soon as it is true; fails when that takes too long."""
    began = asked = time.monotonic()
    while not (found := condition()):
        answered = time.monotonic()
        assert answered < began + seconds, f"{what}: not within {seconds:g} s"
        # Asking must not take the CPU from what is waited for.
        time.sleep(max(0.05, 2 * (answered - asked)))
        asked = time.monotonic()
    return found
