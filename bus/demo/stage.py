"""The demo's environment: its folder, its settings, and the `bus` commands that it runs there."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bus import local
from bus.errors import Stop
from bus.settings import KafkaSettings, RegistrySettings, Settings

PATIENCE = 120.0
"""The greatest number of seconds that one step may take on a very busy machine."""

TOML = """\
# Settings of the demo: in this folder, `bus` commands use the demo's own bus.
home = "."
"""


class Stage:
    """A new folder with a separate bus for the demo; leaving the block stops its processes.

    The processes do not see `BUS_…` variables or the user's bus.toml, so the demo never touches a
    district's cluster.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.settings = Settings(
            home=self.folder,
            topic_prefix="schoolbus",
            kafka=KafkaSettings(),
            registry=RegistrySettings(),
        )
        self.webhook_secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self.env = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
        self._ends = ExitStack()

    def __enter__(self) -> Stage:
        if self.folder.exists():
            if not (self.folder / "bus.toml").is_file():
                raise Stop(
                    f"{self.folder} exists and is not from an earlier demo; move it, or set "
                    "BUS_HOME to another folder"
                )
            local.down(self.folder)
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, mode=0o700)
        (self.folder / "bus.toml").write_text(TOML, "utf-8")
        for name in ("extracts", "out", "log"):
            (self.folder / name).mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def set(self, **variables: str) -> None:
        """Set environment variables for the commands that run from now on."""
        self.env |= variables

    def run(
        self, *arguments: str, fails: bool = False, patience: float = PATIENCE
    ) -> dict[str, Any]:
        """Run `bus …` until it ends and return the JSON that it printed.

        fails:    whether the command is expected to fail.
        patience: how many seconds it may take.

        Raises `Stop` if it ends in another way than expected.
        """
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
        if bool(done.returncode) != fails:
            raise Stop(
                f"`bus {' '.join(arguments)}` exited with status {done.returncode}:\n"
                f"{done.stderr or done.stdout}"
            )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """Start `bus …` in the background.

        Its log is log/NAME.txt. It gets SIGTERM when the block ends.
        """
        return self._start(name, self.command(*arguments))

    def start_program(self, name: str, program: Path) -> subprocess.Popen[str]:
        """Start a Python program in the background, as `start` does with a command."""
        return self._start(name, [sys.executable, str(program)])

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[str]:
        log = self._ends.enter_context((self.folder / "log" / f"{name}.txt").open("w"))
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self._ends.callback(_end, process)
        return process

    def bus_down_at_the_end(self) -> None:
        """Also stop Kafka and the registry when the block ends."""
        self._ends.callback(local.down, self.folder)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `bus … --json` with this Python."""
        return [sys.executable, "-m", "bus", *arguments, "--json"]


def first_line(process: subprocess.Popen[str]) -> Mapping[str, Any]:
    """Return the JSON that a service prints when it is ready; raises `Stop` if it ends instead."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise Stop(f"a process of the demo exited with status {process.wait(10)}; see its log")
    found: dict[str, Any] = json.loads(line)
    return found


def wait_for(condition: Any, what: str, every: float = 0.1, patience: float = PATIENCE) -> None:
    """Return when `condition()` is true; raises `Stop` if that takes too long.

    what:     the subject of the message of `Stop`.
    every:    how many seconds to wait between two checks.
    patience: after how many seconds it takes too long.
    """
    until = time.monotonic() + patience
    while not condition():
        if time.monotonic() > until:
            raise Stop(f"{what} took more than {patience:.0f} s; is the machine very busy?")
        time.sleep(every)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
