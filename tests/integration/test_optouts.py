"""Opt-outs by extract and by command: who publishes, ends and lists them."""

from __future__ import annotations

import json
from pathlib import Path

from bus.demo.sample import District
from bus.kafka import topics
from bus.kafka.cloudevents import header
from bus.kafka.reader import scan
from tests.integration.commands import Commands

DISTRICT = District(seed=4, students=20, opt_outs=0.01)
STUDENT = "student-0000003"
PROTECTED = ("--scope", "protected", "--decided-by", "court")


def listed(commands: Commands, *options: str) -> dict[str, str]:
    """Return the source of each active opt-out by its id."""
    found = commands.run("optouts", "list", "--why", "a parent asks", *options)["optOuts"]
    return {one["sourcedId"]: one["source"] for one in found}


def test_they_are_entered_listed_and_ended_beside_those_of_the_sis(commands: Commands) -> None:
    path = DISTRICT.write(commands.cwd / "1", 1)
    produced = commands.run("produce", "oneroster-csv", str(path))["records"]["optOut"]
    of_the_sis = listed(commands)
    assert set(of_the_sis.values()) == {"/oneroster-csv"}
    assert len(of_the_sis) == produced["created"] > 0

    entered = commands.run("optouts", "add", STUDENT, *PROTECTED, "--from", "2026-11-01")["optOut"]
    assert (entered["scope"], entered["beginDate"]) == ("protected", "2026-11-01")
    id_ = entered["sourcedId"]
    again = commands.run("optouts", "add", STUDENT, *PROTECTED)["optOut"]
    assert again["sourcedId"] == id_, "the same opt-out corrects the earlier one"
    assert listed(commands, "--student", STUDENT) == {id_: "/optouts"}
    assert listed(commands) == of_the_sis | {id_: "/optouts"}

    *_, event = [m for m in scan(commands.settings, _topic(commands)) if m.key() == id_.encode()]
    assert header(event, "ce_type") == "org.schoolbus.optOut.recorded"
    (student, *_) = [
        m
        for m in scan(commands.settings, topics.topic(commands.settings, "student"))
        if m.key() == STUDENT.encode()
    ]
    assert event.partition() == student.partition(), "it lies with its student"

    theirs = next(iter(of_the_sis))
    refused = commands.run("optouts", "end", theirs, status=1)
    assert "belongs to the source /oneroster-csv" in refused["error"]
    ended = commands.run("optouts", "end", id_)["optOut"]
    assert ended["status"] == "tobedeleted"
    assert listed(commands) == of_the_sis
    assert "no active opt-out" in commands.run("optouts", "end", id_, status=1)["error"]

    assert commands.run("optouts", "add", STUDENT, *PROTECTED)["optOut"]["sourcedId"] == id_
    about = ("--scope", "vendor", "--vendor", "Acorn Math", "--decided-by", "parent")
    allow = (*about, "--decision", "allow")
    refused = commands.run("optouts", "add", STUDENT, *allow, status=1)
    assert "the day of the signature (--from)" in refused["error"]
    consent = commands.run("optouts", "add", STUDENT, *allow, "--from", "2026-11-02")["optOut"]
    denied = commands.run("optouts", "add", STUDENT, *about)["optOut"]
    assert (consent["decision"], denied["decision"]) == ("allow", "deny")
    assert listed(commands, "--student", STUDENT) == dict.fromkeys(
        (id_, consent["sourcedId"], denied["sourcedId"]), "/optouts"
    )
    for one in (consent, denied):
        commands.run("optouts", "end", one["sourcedId"])
    _without_opt_outs(path)
    without = commands.run("produce", "oneroster-csv", str(path))["records"]
    assert not any(without["optOut"].values()), "an extract without the file withdraws none"
    assert listed(commands) == of_the_sis | {id_: "/optouts"}


def test_what_would_protect_nobody_is_refused(commands: Commands) -> None:
    path = DISTRICT.write(commands.cwd / "1.zip", 1)
    commands.run("produce", "oneroster-csv", str(path))
    before = listed(commands)
    for student, options, said in [
        ("student-9999999", PROTECTED, "no source has published a student"),
        (STUDENT, ("--scope", "vendor", "--decided-by", "parent"), "vendor must have a value"),
        (STUDENT, (*PROTECTED, "--vendor", "Acme"), "vendor must be null"),
        (STUDENT, ("--scope", "all", "--decided-by", "parent"), "scope must be one of"),
        (STUDENT, (*PROTECTED, "--from", "2026-11-02", "--until", "2026-11-01"), "would end"),
    ]:
        refused = commands.run("optouts", "add", student, *options, status=1)
        assert said in refused["error"]
    assert listed(commands) == before


def test_to_list_them_needs_a_reason_and_is_recorded(commands: Commands) -> None:
    assert "--why" in commands.run("optouts", "list", status=1)["error"]
    assert list(scan(commands.settings, topics.audit(commands.settings))) == []
    commands.run("optouts", "list", "--student", STUDENT, "--why", "ticket 12")
    (look,) = scan(commands.settings, topics.audit(commands.settings))
    note = json.loads(look.value() or b"")
    assert (note["what"], note["student"], note["why"]) == ("listed opt-outs", STUDENT, "ticket 12")


def _topic(commands: Commands) -> str:
    return topics.topic(commands.settings, "optOut")


def _without_opt_outs(path: Path) -> None:
    (path / "optOuts.csv").unlink()
    manifest = path / "manifest.csv"
    lines = manifest.read_text("utf-8").splitlines(keepends=True)
    manifest.write_text("".join(line for line in lines if "optOuts" not in line), "utf-8")
