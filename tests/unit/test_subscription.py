"""A vendor's script when the bus does not answer: one line for a person, status 1."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

FIVE_LINES = """
from bus import subscribe

for event in subscribe("student", group="lunch", until_caught_up=True):
    print(event.record["sourcedId"])
"""


def ended(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=env | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_with_the_bus_down_it_says_one_line(tmp_path: Path) -> None:
    done = ended(FIVE_LINES, tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"error: the bus in {tmp_path / '.bus'} is not up: run `bus up`\n"
    assert done.stdout == ""


def test_a_wrong_address_is_said_within_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    done = ended(FIVE_LINES, tmp_path, BUS_KAFKA__BOOTSTRAP="127.0.0.1:1")
    assert time.monotonic() - began < 30  # 5 s, and the start of Python on a busy machine
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Connection refused" in done.stderr


@pytest.mark.parametrize(
    "more",
    [
        "sys.excepthook = lambda *_: print('mine', file=sys.stderr)",
        "try: next(subscribe('student', group='x'))\nexcept Exception as e: print('mine', file=sys.stderr)\n1/0",
    ],
)
def test_a_scripts_own_errors_are_shown_as_ever(tmp_path: Path, more: str) -> None:
    done = ended(f"import sys\nfrom bus import subscribe\n{more}\n{FIVE_LINES}", tmp_path)
    assert done.returncode == 1
    assert "mine" in done.stderr
    assert ("ZeroDivisionError" in done.stderr) == ("1/0" in more)
