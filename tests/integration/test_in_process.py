"""A command in this process does and prints the same as in its own process, and leaves no trace."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog

from bus.demo.sample import District
from tests.integration import in_process
from tests.integration.commands import Commands
from tests.integration.in_process import Done

DISTRICT = District(seed=2, students=20)
COMMANDS = {
    "published": (("produce", "oneroster-csv", "1.zip"), 0),
    "nothing new": (("produce", "oneroster-csv", "1.zip"), 0),
    "consumed": (("consume", "canvas", "--out", "canvas", "--until-caught-up"), 0),
    "caught up": (("consume", "canvas", "--out", "canvas", "--until-caught-up"), 0),
    "replayed": (("replay", "microsoft-sds", "--into", "sds"), 0),
    "registered": (("schemas", "list"), 0),
    "listed": (("quarantine", "list"), 0),
    "well": (("doctor",), 0),
    "failed": (("produce", "oneroster-csv", "2.zip"), 1),
    "no such place": (("deadletters", "show", "canvas", "schoolbus.student/0/7"), 1),
    "no such product": (("consume", "blackboard"), 2),
    "no such option": (("consume", "canvas", "--fast"), 2),
    "no such command": (("fly",), 2),
}
"""The commands to run, one after the other, and the exit status of each."""


OWN = ("id", "at", "by", "into", "seconds", "out")
"""Values that differ in each run, such as names, times and folders."""


def reported(done: Done, prefix: str, folder: Path) -> Any:
    """Return what a command printed, without the values that differ in each run."""
    text = done.stdout.replace(prefix, "PREFIX").replace(str(folder), "FOLDER")
    found = json.loads(text)
    for check in found.get("checks", ()):
        check.pop("says")  # the free memory and disk space
    return {name: value for name, value in found.items() if name not in OWN}


def test_it_says_what_a_process_says(commands: Commands, tmp_path: Path) -> None:
    ways = {}
    for process in (False, True):
        folder = tmp_path / str(process)
        folder.mkdir()
        DISTRICT.write(folder / "1.zip", 1)
        prefix = f"{commands.settings.topic_prefix}-{process}"
        settings = commands.settings.model_copy(update={"topic_prefix": prefix})
        one = Commands(settings, folder)
        one.run("schemas", "apply", process=process)
        ways[process] = {
            name: one.ended(*arguments, process=process)
            for name, (arguments, _) in COMMANDS.items()
        }
    for name, (_, status) in COMMANDS.items():
        here, there = (
            (one[name], f"{commands.settings.topic_prefix}-{process}", tmp_path / str(process))
            for process, one in ways.items()
        )
        said = f"{name}: {here[0].stdout}{there[0].stdout}"
        assert (here[0].returncode, there[0].returncode) == (status, status), said
        assert here[0].stdout.count("\n") == there[0].stdout.count("\n") == 1
        assert reported(*here) == reported(*there), name
        assert (here[0].stderr == "") == (there[0].stderr == ""), name


def test_nothing_of_it_is_left(commands: Commands) -> None:
    def state() -> list[object]:
        root = logging.getLogger()
        signals = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)]
        logs = [root.handlers[:], root.level, logging.getLogger("bus").level]
        streams = [sys.stdout, sys.stderr, sys.excepthook, os.nice(0)]
        places = [dict(os.environ), Path.cwd(), set(threading.enumerate())]
        return [signals, logs, streams, places, structlog.get_config(), structlog.is_configured()]

    before = state()
    commands.variables["BUS_TELEMETRY__LOG_LEVEL"] = "debug"
    commands.run("schemas", "apply")
    commands.run("consume", "canvas", "--out", "canvas", "--until-caught-up")
    commands.run("produce", "oneroster-csv", str(DISTRICT.write(commands.cwd / "1.zip", 1)))
    commands.run("replay", "canvas", "--into", "shadow")
    commands.run("replay", "canvas", "--into", "shadow", "--from", "last week", status=1)
    commands.run("fly", status=2)
    assert state() == before


@pytest.mark.parametrize("way", ["python", "library"])
def test_all_that_is_written_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def writes(**_: object) -> None:
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            if way == "python":
                stream.write(f"{number}")
            else:
                os.write(number, f"{number}".encode())
        sys.exit(3)

    monkeypatch.setattr(in_process, "app", writes)
    done = in_process.run([], cwd=tmp_path, env=os.environ, seconds=10)
    assert done == Done(3, "1", "2")


def test_what_hangs_is_ended_and_a_thread_that_is_left_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(in_process, "app", lambda **_: over.wait())
    with pytest.raises(in_process.TooLate, match="not within"):
        in_process.run(["consume"], cwd=tmp_path, env=os.environ, seconds=0.2)

    monkeypatch.setattr(in_process, "THREAD_SECONDS", 0.1)
    monkeypatch.setattr(in_process, "app", lambda **_: threading.Thread(target=over.wait).start())
    try:
        with pytest.raises(AssertionError, match="left a thread"):
            in_process.run(["consume"], cwd=tmp_path, env=os.environ, seconds=10)
    finally:
        over.set()


def test_ctrl_c_is_for_the_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(130)

    monkeypatch.setattr(in_process, "app", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_process.run([], cwd=tmp_path, env=os.environ, seconds=10)
