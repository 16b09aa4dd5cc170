"""Child processes that keep running and are found again; a small program replaces Java."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bus.errors import Stop
from bus.local import process
from bus.local.home import prepare, read_json, write_json

SLEEPER = f"#!{sys.executable}\nimport os, signal\nprint(sorted(os.environ), flush=True)\nsignal.pause()\n"
STUBBORN = (
    f"#!{sys.executable}\nimport signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('ready', flush=True)\nwhile True: signal.pause()\n"
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    prepare(folder)
    yield folder
    process.stop(folder, ("kafka", "registry"))


def program(home: Path, text: str) -> str:
    path = home / "program"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def started(home: Path, text: str = SLEEPER, name: str = "kafka") -> psutil.Process:
    found = process.start(home, name, [program(home, text)], cwd=home, env={"X": "1"})
    out = home / "logs" / f"{name}.out"
    while not out.read_text():
        time.sleep(0.01)
    return found


def test_it_is_found_again_and_ended(home: Path) -> None:
    child = started(home)
    assert process.find(home, "kafka") == child
    assert child.ppid() != os.getpid()
    assert process.stop(home, ("kafka", "registry")) == ["kafka"]
    assert not process.alive(child)
    assert process.find(home, "kafka") is None
    assert not process.recorded(home, "kafka")
    assert process.stop(home, ("kafka", "registry")) == []


def test_a_killed_one_is_known_to_be_dead(home: Path) -> None:
    child = started(home)
    child.kill()
    while process.alive(child):
        time.sleep(0.01)
    assert process.find(home, "kafka") is None
    assert process.recorded(home, "kafka")


def test_one_that_ignores_the_request_to_end_is_killed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TERM_SECONDS", 0.2)
    child = started(home, STUBBORN)
    process.stop(home, ("kafka",))
    assert not process.alive(child)


def test_an_id_that_now_belongs_to_another_program_is_not_touched(home: Path) -> None:
    write_json(home / "run" / "kafka.json", {"token": "0123456789abcdef", "pid": os.getpid()})
    assert process.find(home, "kafka") is None
    assert process.stop(home, ("kafka",)) == []


def test_a_process_whose_id_was_never_written_is_found_by_its_token(home: Path) -> None:
    child = started(home)
    record = home / "run" / "kafka.json"
    write_json(record, read_json(record) | {"pid": 0})
    assert process.find(home, "kafka") == child


def test_it_sees_no_secret_of_its_parent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUS_KAFKA__SASL_PASSWORD", "secret")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dx=y")
    started(home)
    seen = (home / "logs" / "kafka.out").read_text()
    assert "'X'" in seen
    assert "SASL" not in seen
    assert "JAVA" not in seen


def test_why_it_ended_is_reported_without_its_trace(home: Path) -> None:
    (home / "logs" / "kafka.out").write_text(
        "INFO starting\njava.io.IOException: No space left on device\n\tat a.b(C.java)\n"
        "java.io.IOException: No space left on device\n"
    )
    said = process.died(home, "kafka")
    assert said.count("No space left on device") == 1
    assert "C.java" not in said
    assert "INFO" not in said
    assert str(home / "logs" / "kafka.log") in said


def test_a_shell_that_is_missing_is_said(home: Path) -> None:
    with pytest.raises(Stop, match="kafka could not be started"):
        process.start(home, "kafka", [program(home, SLEEPER)], cwd=home / "gone", env={})
