"""The commands that read and check the record of disclosures or erase from it; in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bus.cli import disclosures as command
from bus.vendors import disclosures
from bus.vendors.disclosures import keep_head
from tests.unit.test_disclosures import AT, SETTINGS, Log, Topics, scope_changed, writer

APP = typer.Typer()
command.register(APP)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Topics:
    """A record of one agreement: s1 is in it, and s2 has left it."""
    found = Topics()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(disclosures, "DisclosureLog", lambda _: Log(found))
    monkeypatch.setattr(disclosures, "entries", lambda _: found.entries)
    monkeypatch.setattr(command, "settings_of_reached", lambda: SETTINGS)
    one = writer(Log(found))
    scope_changed(one)
    one.entered("math-app", ["s1", "s2"], AT)
    one.left("math-app", ["s2"], AT.replace(hour=4))
    return found


def run(*arguments: str, status: int = 0) -> Any:
    done = CliRunner().invoke(APP, [*arguments, "--json"])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def text(*arguments: str) -> str:
    done = CliRunner().invoke(APP, [*arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_parent_gets_what_was_disclosed_about_the_child(kept: Topics) -> None:
    (found,) = run("disclosures", "--student", "s2", "--why", "request")["disclosures"]
    assert found["vendor"] == "Acme Inc."
    assert (found["from"], found["to"]) == (
        "2026-11-28T03:00:00+00:00",
        "2026-11-28T04:00:00+00:00",
    )
    printed = text("disclosures", "--student", "s1", "--why", "request")
    for part in ("Acme Inc.", "Student Name", "since 2026-11-28 03:00 UTC", "school-official"):
        assert part in printed
    assert "no disclosure" in text("disclosures", "--student", "s9", "--why", "request")


def test_an_auditor_gets_the_agreements_the_students_and_the_end(kept: Topics) -> None:
    one = writer(Log(kept))
    one.rekeyed("math-app", AT.replace(hour=4), 1)
    one.ended("math-app", AT.replace(hour=5), "a breach")
    one.deleted("math-app", AT.replace(hour=6), {"topics": ["t1", "t2"]})
    one.attested("math-app", AT.replace(hour=7), "Bob")
    found = run("disclosures", "--vendor", "ACME inc.", "--why", "audit")
    assert found["agreements"] == ["math-app"]
    assert [one["student"] for one in found["periods"][0]["students"]] == ["s1", "s2"]
    assert [one["what"] for one in found["history"]] == [
        "rekeyed",
        "revoked",
        "deleted",
        "attested",
    ]
    printed = text("disclosures", "--vendor", "math-app", "--why", "audit")
    for part in (
        "2 students",
        "rekeyed: it receives new ids",
        "revoked: a breach",
        "2 topics",
        "by Bob",
        "to 2026-11-28 05:00",
    ):
        assert part in printed
    refused = run("disclosures", "--vendor", "nobody", "--why", "audit", status=1)
    assert "no agreement or vendor 'nobody'" in refused["error"]


def test_the_morning_after_a_breach(kept: Topics) -> None:
    found = run("held", "math-app", "--at", "2026-11-28", "--why", "breach")
    assert [(one["student"], one["to"]) for one in found["students"]] == [
        ("s1", None),
        ("s2", "2026-11-28T04:00:00+00:00"),
    ]
    assert found["categories"] == {"Student Name": 2}
    assert found["until"] == "2026-11-28T23:59:59.999999+00:00"
    exact = run("held", "math-app", "--at", "2026-11-28T02:59:59Z", "--why", "breach")
    assert exact["students"] == []
    assert exact["from"] == exact["until"] == "2026-11-28T02:59:59+00:00"
    assert "2 students" in text("held", "math-app", "--at", "2026-11-29", "--why", "breach")
    assert "--at" in run("held", "math-app", "--at", "May", "--why", "x", status=1)["error"]
    refused = run("held", "Acme Inc.", "--at", "2026-11-28", "--why", "x", status=1)
    assert "no agreement" in refused["error"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("disclosures", "--student", "s1"),
        ("disclosures", "--vendor", "math-app"),
        ("held", "math-app", "--at", "2026-11-28"),
        ("erase", "--student", "s1"),
    ],
)
def test_nothing_is_shown_without_a_reason(kept: Topics, arguments: tuple[str, ...]) -> None:
    before = list(kept.entries)
    assert "--why" in run(*arguments, status=1)["error"]
    assert kept.entries == before


@pytest.mark.parametrize("arguments", [(), ("--student", "s1", "--vendor", "x", "--why", "y")])
def test_one_question_at_a_time(kept: Topics, arguments: tuple[str, ...]) -> None:
    assert "name one" in run("disclosures", *arguments, status=1)["error"]


def test_each_question_is_recorded_before_its_answer(kept: Topics) -> None:
    run("disclosures", "--student", "s1", "--why", "request")
    run("disclosures", "--student", "s9", "--why", "request")
    run("disclosures", "--vendor", "math-app", "--why", "audit")
    run("held", "math-app", "--at", "2026-11-28", "--why", "breach")
    found = run("disclosures", "--accesses")["accesses"]
    assert [(one["question"], one["about"], len(one["students"])) for one in found] == [
        ("student", "", 1),
        ("student", "", 0),
        ("vendor", "math-app", 0),
        ("held", "math-app", 0),
    ]
    assert all("@" in one["by"] for one in found)
    printed = text("disclosures", "--accesses")
    assert "breach" in printed
    assert "4 times" in printed


def test_an_answer_that_cannot_be_recorded_is_not_given(
    kept: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(step: str) -> None:
        from bus.errors import RetryLater

        raise RetryLater("Kafka is down")

    monkeypatch.setattr(disclosures, "DisclosureLog", lambda _: Log(kept, before=down))
    found = run("disclosures", "--student", "s1", "--why", "request", status=1)
    assert found == {"error": "Kafka is down"}


def test_an_erased_student_is_not_found_any_more(kept: Topics) -> None:
    assert run("erase", "--student", "s2", "--student", "s9", "--why", "graduated") == {
        "erased": 1,
        "unknown": 1,
    }
    assert run("disclosures", "--student", "s2", "--why", "request")["disclosures"] == []
    found = run("held", "math-app", "--at", "2026-11-28", "--why", "breach")
    assert ([one["student"] for one in found["students"]], found["erased"]) == (["s1"], 1)
    printed = text("held", "math-app", "--at", "2026-11-28", "--why", "breach")
    assert "1 students, and 1 who were erased" in printed
    assert "graduated" in text("disclosures", "--accesses")
    assert run("verify")["problems"] == []


def test_verify_compares_with_the_head_of_the_agreements(kept: Topics, tmp_path: Path) -> None:
    assert "nothing shows whether the end" in text("verify")
    path = tmp_path / "agreements" / disclosures.HEAD_FILE
    path.parent.mkdir()
    saved_head = keep_head(SETTINGS, path)
    found = run("verify")
    assert (found["entries"], found["problems"]) == (3, [])
    assert found["compared"] == found["head"]
    assert "compared with entry 3" in text("verify")
    kept.entries.pop()
    assert [one["code"] for one in run("verify", status=1)["problems"]] == ["short"]
    assert saved_head.number == 3
    missing = run("verify", "--head", "other.head", status=1)
    assert "other.head does not exist" in missing["error"]
