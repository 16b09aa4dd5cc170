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
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from bus.cli import disclosures as command
from bus.settings import Settings
from bus.vendors.agreement import parse
from bus.vendors.disclosed_students import DisclosedStudents
from bus.vendors.disclosure_chain import verify
from bus.vendors.disclosure_questions import by_student
from bus.vendors.disclosures import (
    DisclosureWriter,
    decoded_entries,
    entries,
    head,
    keep_head,
)
from bus.vendors.scope import compile_scope
from tests.integration.commands import Commands

AT = datetime(2026, 11, 28, 3, tzinfo=UTC)
WRITE = """
import sys
from datetime import UTC, datetime
from bus import settings
from bus.vendors.disclosures import DisclosureWriter

name, times = sys.argv[1], int(sys.argv[2])
with DisclosureWriter(settings.load()) as writer:
    for number in range(times):
        writer.entered(name, [f"{name}-{number}", "shared"], datetime.now(UTC))
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
    """Whatever a writer has confirmed is in the chain once, and the chain is whole."""
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


def agreement_of(name: str) -> object:
    return parse(
        name,
        {
            "vendor": "Acme Inc.",
            "purpose": "instruction",
            "basis": "school-official",
            "from": "2026-08-01",
            "until": "2027-07-31",
            "document": {"title": "NDPA", "sha256": "ab" * 32},
            "contacts": {"vendor": "a@acme.example", "district": "b@d.example"},
            "share": {"categories": ["Student Name"]},
        },
        "test",
    )


def test_questions_accesses_erasure_and_the_head(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, path = commands.settings, tmp_path / "disclosures.head"
    monkeypatch.chdir(tmp_path)
    for name, value in commands.env.items():
        if name.startswith("BUS_"):
            monkeypatch.setenv(name, value)
    app = typer.Typer()
    command.register(app)

    def run(*arguments: str, status: int = 0) -> dict[str, object]:
        import json

        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert done.exit_code == status, done.output
        return dict(json.loads(done.stdout))

    def text(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    with DisclosureWriter(settings) as writer:
        scope = compile_scope(agreement_of("math-app"))  # type: ignore[arg-type]
        writer.scope_changed(SimpleNamespace(fingerprint="cd" * 32), scope, AT)
        writer.entered("math-app", ["s1", "s2"], AT)
        writer.left("math-app", ["s2"], AT.replace(hour=4))
    noted = keep_head(settings, path)
    assert noted == head(settings)

    assert "--why" in str(run("disclosures", "--student", "s1", status=1)["error"])
    found = run("disclosures", "--student", "s1", "--why", "a parent asked")
    assert [(one["agreement"], one["to"]) for one in found["disclosures"]] == [("math-app", None)]  # type: ignore[attr-defined]
    assert "Student Name" in text("disclosures", "--student", "s1", "--why", "a parent asked")
    assert "no disclosure" in text("disclosures", "--student", "s9", "--why", "a parent asked")
    found = run("disclosures", "--vendor", "acme inc.", "--why", "audit")
    assert found["agreements"] == ["math-app"]
    assert "2 students" in text("disclosures", "--vendor", "acme inc.", "--why", "audit")
    assert "no agreement" in str(
        run("disclosures", "--vendor", "nobody", "--why", "audit", status=1)["error"]
    )
    found = run("held", "math-app", "--at", "2026-11-28", "--why", "breach")
    assert [one["student"] for one in found["students"]] == ["s1", "s2"]  # type: ignore[attr-defined]
    assert "2 students" in text("held", "math-app", "--at", "2026-11-28", "--why", "breach")
    assert run("held", "math-app", "--at", "2026-11-27", "--why", "breach")["students"] == []
    assert "--at" in str(run("held", "math-app", "--at", "May", "--why", "x", status=1)["error"])

    asked = run("disclosures", "--accesses")["accesses"]
    assert [(one["question"], one["why"]) for one in asked] == [  # type: ignore[attr-defined]
        *[("student", "a parent asked")] * 3,
        *[("vendor", "audit")] * 3,
        *[("held", "breach")] * 3,
    ]
    assert [len(one["students"]) for one in asked[:3]] == [1, 1, 0]  # type: ignore[index]
    assert "a parent asked" in text("disclosures", "--accesses")

    assert run("erase", "--student", "s2", "--student", "s9", "--why", "graduated") == {
        "erased": 1,
        "unknown": 1,
    }
    assert by_student(decoded_entries(entries(settings)), table_of(settings), "s2") == []
    found = run("held", "math-app", "--at", "2026-11-28", "--why", "breach")
    assert ([one["student"] for one in found["students"]], found["erased"]) == (["s1"], 1)  # type: ignore[attr-defined]

    found = run("verify", "--head", str(path))
    assert (found["problems"], found["compared"]["number"]) == ([], noted.number)  # type: ignore[index]
    assert "The record is whole" in text("verify")
    path.write_text(path.read_text().replace(noted.sha256, "0" * 64))
    found = run("verify", "--head", str(path), status=1)
    assert [one["code"] for one in found["problems"]] == ["head"]  # type: ignore[attr-defined]
    assert "does not exist" in str(run("verify", "--head", "other.head", status=1)["error"])
