"""The record of disclosures on a real Kafka: two writers at once, and writers that are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from bus.settings import Settings
from bus.vendors.disclosed_students import DisclosedStudents
from bus.vendors.disclosure_chain import verify
from bus.vendors.disclosure_questions import by_student
from bus.vendors.disclosures import (
    DisclosureWriter,
    ask,
    decoded_entries,
    entries,
    head,
    keep_head,
    read_head,
)
from tests.integration.commands import Commands

AT = datetime(2026, 11, 28, 3, tzinfo=UTC)
WRITE = """
import sys
from datetime import UTC, datetime
from bus import settings
from bus.errors import RetryLater
from bus.vendors.disclosures import DisclosureWriter

name, times = sys.argv[1], int(sys.argv[2])
with DisclosureWriter(settings.load()) as writer:
    for number in range(times):
        at = datetime.now(UTC)
        while True:
            try:
                writer.entered(name, [f"{name}-{number}", "shared"], at)
                break
            except RetryLater:  # another writer was always faster, or Kafka slow
                pass
        print(number, flush=True)
"""


def start(commands: Commands, name: str, times: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, name, str(times)],
        cwd=commands.cwd,
        env=commands.env,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_writers_at_once_and_one_that_is_killed(commands: Commands) -> None:
    """Each entry that a writer has confirmed is in the chain once, and the chain is whole."""
    busy = [start(commands, name, 30) for name in ("a", "b")]
    confirmed: Counter[str] = Counter()
    try:
        for number in range(3):
            killed = start(commands, f"k{number}", 10_000)
            assert killed.stdout is not None
            killed.stdout.readline()
            time.sleep(random.uniform(0, 0.3))
            killed.kill()
            out, _ = killed.communicate()
            confirmed[f"k{number}"] = 1 + out.count("\n")
        for one, name in zip(busy, ("a", "b"), strict=True):
            out, _ = one.communicate(timeout=120)
            assert one.returncode == 0
            confirmed[name] = out.count("\n")
    finally:
        for one in busy:
            if one.poll() is None:
                os.kill(one.pid, signal.SIGKILL)
                one.wait()
    assert confirmed["a"] == confirmed["b"] == 30
    values, table = entries(commands.settings), table_of(commands.settings)
    assert verify(values, head(commands.settings)) == []
    found = decoded_entries(values)
    counted = Counter(entry["agreement"] for entry in found)
    for name, times in confirmed.items():
        assert times <= counted[name] <= times + (1 if name.startswith("k") else 0)
    named = table.by_commitment()
    assert len(table.commitments("shared")) == 1
    for entry in found:
        students = {named[one] for one in entry["students"]}
        assert "shared" in students
        assert len(students) == 2


def table_of(settings: Settings) -> DisclosedStudents:
    with DisclosureWriter(settings) as writer:
        return writer.students()


def test_an_answer_an_erasure_and_the_head(commands: Commands, tmp_path: Path) -> None:
    settings, path = commands.settings, tmp_path / "disclosures.head"
    with DisclosureWriter(settings) as writer:
        writer.entered("math-app", ["s1", "s2"], AT)
        writer.left("math-app", ["s2"], AT.replace(hour=4))
    saved_head = keep_head(settings, path)
    assert saved_head == head(settings) == read_head(path)
    found, students = ask(settings, "ann@desk", "a parent asked", "student", student="s2")
    assert [one.to for one in by_student(found, students, "s2")] == [AT.replace(hour=4)]
    assert found[-1]["students"] == students.commitments("s2")
    with DisclosureWriter(settings) as writer:
        assert writer.erase(["s2", "s9"], "ann@desk", "graduated") == 1
        assert "s2" not in writer.students()
    found, students = ask(settings, "ann@desk", "a parent asked", "student", student="s2")
    assert by_student(found, students, "s2") == []
    assert [one["number"] for one in found] == [1, 2, 3, 4, 5]
    assert verify(entries(settings), saved_head) == []
    assert keep_head(settings, path).number == 5
