"""The `bus` commands as a person or a script runs them: JSON on stdout, and an exit status.

A command that runs to its end runs in this process. A command that a test kills or signals is a
separate process.
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
    """`bus …` against one bus, under separate topics.

    variables: more environment variables.
    cwd:       the current folder.
    """

    settings: Settings
    cwd: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """The environment without the user's settings, so that no test reaches a real cluster."""
        clean = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
        named = {
            "BUS_KAFKA__BOOTSTRAP": self.settings.kafka.bootstrap,
            "BUS_REGISTRY__URL": self.settings.registry.url,
        }
        return clean | {
            "BUS_HOME": str(self.settings.home),
            "BUS_TOPIC_PREFIX": self.settings.topic_prefix,
            "BUS_KAFKA__PARTITIONS": str(self.settings.kafka.partitions),
            **{name: value for name, value in named.items() if value},
            **self.variables,
        }

    def divide(self, shards: int) -> None:
        """Divide the students into this many shards of `bus vendors run`."""
        self.variables["BUS_VENDORS__SHARDS"] = str(shards)
        vendors = self.settings.vendors.model_copy(update={"shards": shards})
        self.settings = self.settings.model_copy(update={"vendors": vendors})

    def run(self, *arguments: str, status: int = 0, process: bool = False) -> dict[str, Any]:
        """Run a command to its end, check its status, and return the JSON object that it printed.

        process: run it in a separate process.
        """
        done = self.ended(*arguments, process=process)
        assert done.returncode == status, f"{arguments}: {done.stdout}\n{done.stderr}"
        assert done.stdout.count("\n") == 1, f"{arguments} printed more than one line"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def ended(self, *arguments: str, process: bool = False) -> Done:
        """Run a command to its end; return its exit status and its output.

        process: run it in a separate process.
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
        """Start a command in a separate process."""
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
        """Let a command run while the block runs; SIGTERM must then end it with status 0."""
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
    """Return what an ending process printed; kill it if it does not end within a minute."""
    try:
        return "".join(process.communicate(timeout=60))
    except subprocess.TimeoutExpired:
        process.kill()
        return "killed after 60 s; " + "".join(process.communicate())


def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Return what `condition` returns as soon as it is true; fail after this many seconds."""
    began = asked = time.monotonic()
    while not (found := condition()):
        answered = time.monotonic()
        assert answered < began + seconds, f"{what}: not within {seconds:g} s"
        # The check must not take the CPU from the process that it waits for.
        time.sleep(max(0.05, 2 * (answered - asked)))
        asked = time.monotonic()
    return found
