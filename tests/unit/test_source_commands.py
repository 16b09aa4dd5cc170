"""`bus produce SOURCE`: what it prints and when it ends, with a fake in place of the bus."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from structlog.testing import capture_logs
from typer.testing import CliRunner

import bus.ingest.pipeline
import bus.observe.telemetry
import bus.registry.subjects
import bus.settings
from bus.cli.source_commands import command_of
from bus.errors import RetryLater, Stop
from bus.ingest import drop_folder, polling
from bus.ingest.pipeline import MassWithdrawal
from bus.ingest.record_difference import RecordDifference
from bus.ingest.report import ExtractDryRun, Report
from bus.source import Fault, Polled, Source, Staging
from producers.oneroster_csv import SOURCE

COUNTS = {"created": 1200, "updated": 0, "withdrawn": 2, "unchanged": 0, "quarantined": 1}
FAULTS = [
    Fault("users.csv", line, "role", "text of 6 characters", "is [none] of the roles")
    for line in range(2, 14)
]
FAULTS.insert(0, Fault("users.csv", 0, "", "", "the file is not UTF-8", fatal=False))

Produce = Callable[..., Report]


def report() -> Report:
    return Report("west", {"student": COUNTS}, FAULTS, {"student": "1 row could not be read"})


@pytest.fixture
def calls(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[dict[str, Any]]]:
    """Return the calls of `produce`, which does nothing but return `report()`. x.zip exists."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    Path("x.zip").touch()
    made: list[dict[str, Any]] = []

    def produce(settings: object, source: str, read: object, **options: Any) -> Report:
        options.pop("progress")("reading")
        made.append({"source": source, **options})
        return report()

    monkeypatch.setattr(bus.ingest.pipeline, "produce", produce)
    monkeypatch.setattr(bus.registry.subjects, "lookup", lambda _: {})
    monkeypatch.setattr(bus.observe.telemetry, "configure", lambda _: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with capture_logs():  # otherwise logs go to stdout, because `configure` is a fake too
        yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def run(*arguments: str, source: Source = SOURCE) -> Any:
    app = typer.Typer()
    app.command()(command_of(source))
    return CliRunner().invoke(app, arguments)


def test_json_is_one_object_and_progress_goes_elsewhere(calls: list[dict[str, Any]]) -> None:
    result = run("x.zip", "--json", "--source", "west", "--allow-mass-withdrawal")
    assert json.loads(result.stdout) == report().as_json()
    assert "reading" in result.stderr
    assert calls == [
        {
            "source": "west",
            "mass_withdrawal_share": None,
            "allow_mass_withdrawal": True,
            "polled": False,
            "rules": SOURCE.rules,
        }
    ]


def test_a_person_sees_counts_faults_in_groups_and_where_each_is(
    calls: list[dict[str, Any]],
) -> None:
    result = run("x.zip")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["west", *COUNTS]
    assert lines[1].split() == ["student", "1,200", "·", "2", "·", "1"]
    assert "not withdrawn: student: 1 row could not be read" in lines
    at = lines.index("✗ users.csv role: 12 × other (text of 6 characters)")
    assert lines[at + 1 : at + 3] == ["    is [none] of the roles", "    lines 2, 3, 4, 5, 6, …"]
    assert lines[-1] == "13 faults in all: see bus quarantine list"


def test_what_stops_it_is_said_and_the_status_is_1(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Report:
        raise Stop("x.zip is cut short")

    monkeypatch.setattr(bus.ingest.pipeline, "produce", refuse)
    result = run("x.zip", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"error": "x.zip is cut short"}


def drop(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"")


def test_watch_takes_what_arrives_until_it_must_end(
    calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused extract is reported and the next one is taken. SIGTERM ends it with status 0."""
    monkeypatch.setattr(drop_folder, "SETTLED_SECONDS", 0.0)
    taken = bus.ingest.pipeline.produce

    def produce(*arguments: Any, **options: Any) -> Report:
        if not calls:
            calls.append({})
            raise Stop("cut short")
        os.kill(os.getpid(), signal.SIGTERM)
        return taken(*arguments, **options)

    monkeypatch.setattr(bus.ingest.pipeline, "produce", produce)
    drop(tmp_path, "1.zip", "2.zip")
    result = run(str(tmp_path), "--watch", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "extracts": [
            {"extract": "1.zip", "error": "cut short"},
            {"extract": "2.zip", **report().as_json()},
        ]
    }
    assert (tmp_path / "taken" / "2.zip").exists()
    assert (tmp_path / "refused" / "1.zip").exists()


def test_what_the_guard_stopped_goes_on_by_the_command_that_is_reported(
    calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason file has the whole command, with the name under which the source publishes."""
    monkeypatch.setattr(drop_folder, "SETTLED_SECONDS", 0.0)
    taken = bus.ingest.pipeline.produce

    def guarded(*arguments: Any, **options: Any) -> Report:
        os.kill(os.getpid(), signal.SIGTERM)
        raise MassWithdrawal("would withdraw half the district")

    drop(tmp_path, "a day.zip")
    monkeypatch.setattr(bus.ingest.pipeline, "produce", guarded)
    result = run(str(tmp_path), "--watch", "--source", "west", "--json")
    assert json.loads(result.stdout)["extracts"] == [
        {"extract": "a day.zip", "error": "would withdraw half the district"}
    ]
    beside = (tmp_path / "waiting" / "a day.zip.reason.txt").read_text("utf-8")
    command = shlex.split(beside.splitlines()[-1])
    assert command[:3] == ["bus", "produce", "oneroster-csv"]

    monkeypatch.setattr(bus.ingest.pipeline, "produce", taken)
    assert json.loads(run(*command[3:], "--json").stdout) == report().as_json()
    assert (calls[-1]["source"], calls[-1]["allow_mass_withdrawal"]) == ("west", True)
    assert (tmp_path / "taken" / "a day.zip").exists()


def test_watch_prints_a_line_for_each(
    calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop_folder, "SETTLED_SECONDS", 0.0)
    taken = bus.ingest.pipeline.produce

    def produce(*arguments: Any, **options: Any) -> Report:
        os.kill(os.getpid(), signal.SIGINT)
        return taken(*arguments, **options)

    monkeypatch.setattr(bus.ingest.pipeline, "produce", produce)
    drop(tmp_path, "a.zip")
    result = run(str(tmp_path), "--watch")
    assert result.stdout == "a.zip: 1,202 events, 13 faults\n"


def test_a_bus_that_is_not_ready_refuses_no_extract(
    calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> dict[str, int]:
        raise Stop("schemas are not registered: run bus schemas apply")

    monkeypatch.setattr(bus.registry.subjects, "lookup", refuse)
    drop(tmp_path, "a.zip")
    assert run(str(tmp_path), "--watch").exit_code == 1
    assert (tmp_path / "a.zip").exists()


# A polled source has the same options, except the path.


def _ask(_: object, staging: Staging) -> None:
    """Report nothing new."""


POLLED = Source("oursis", "Ask our SIS.", Polled(_ask, every=300))


def test_a_polled_source_asks_once(calls: list[dict[str, Any]]) -> None:
    result = run("--json", source=POLLED)
    assert json.loads(result.stdout) == report().as_json()
    assert calls == [
        {
            "source": "oursis",
            "mass_withdrawal_share": None,
            "allow_mass_withdrawal": False,
            "polled": True,
            "rules": "1",
        }
    ]


def test_a_polled_source_has_no_path(calls: list[dict[str, Any]]) -> None:
    assert run("x.zip", source=POLLED).exit_code == 2
    assert calls == []


def test_watch_asks_again_and_again_until_it_must_end(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused poll is logged, and the next one is made."""
    taken = bus.ingest.pipeline.produce

    def produce(*arguments: Any, **options: Any) -> Report:
        if not calls:
            calls.append({})
            raise Stop("would withdraw half the district")
        os.kill(os.getpid(), signal.SIGTERM)
        return taken(*arguments, **options)

    monkeypatch.setattr(bus.ingest.pipeline, "produce", produce)
    result = run("--watch", "--every", "0", "--json", source=POLLED)
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)["polls"]
    assert first.pop("at") < second.pop("at")
    assert first == {"error": "would withdraw half the district"}
    assert second == report().as_json()


def test_a_poll_is_tried_again_until_the_system_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def take() -> None:
        tries.append(len(tries))
        if len(tries) < 3:
            raise RetryLater("the SIS does not answer")

    monkeypatch.setattr(polling, "_wait", lambda *_: None)
    polling.poll(take, 300, lambda: len(tries) >= 3)
    assert tries == [0, 1, 2]


def test_settings_of_a_source_that_it_does_not_have_are_wrong(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUS_PRODUCERS__OURSIS__TOKEN", "secret-token")
    result = run("--json", source=POLLED)
    assert result.exit_code == 1
    message = json.loads(result.stdout)["error"]
    assert "[producers.oursis]" in message and "token" in message.lower()
    assert "secret-token" not in message


def test_a_path_that_is_not_there_is_said_before_kafka_is_asked(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUS_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    result = run("gone.zip", "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)["error"]
    assert said.startswith(f"gone.zip does not exist (in {Path.cwd()}); PATH is: ")
    assert calls == []


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault("users.csv", 1, "sourcedId", "", "has no header"), 1),
        (Fault("users.csv", 0, "", "", "is not there"), 1),
        (Fault("users.csv", 0, "role", "", "7 more rows like those told"), 0),
        (Fault("users.csv", 0, "", "", "7 more rows", code="too-few-values", count=7), 0),
        (Fault("users.csv", 0, "", "", "is not UTF-8", fatal=False), 0),
        (Fault("users.csv", 2, "", "", "a short row"), 0),
    ],
)
def test_a_file_that_could_not_be_read_is_status_1(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, fault: Fault, status: int
) -> None:
    found = Report("west", {"student": COUNTS}, [fault])
    monkeypatch.setattr(bus.ingest.pipeline, "produce", lambda *_, **__: found)
    result = run("x.zip", "--json")
    assert result.exit_code == status
    assert json.loads(result.stdout) == found.as_json()


# A dry run


@pytest.fixture
def rehearsed(calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace `dry_run` with a fake that is called as `produce` is and finds `report()`."""
    changed = RecordDifference("student", "s1", "updated", {"grades": ("['08']", "['09']")})

    def dry_run(settings: object, source: str, read: object, **options: Any) -> ExtractDryRun:
        options.pop("progress")("reading")
        calls.append({"source": source, **options})
        return ExtractDryRun(report(), "this extract would withdraw", [changed])

    monkeypatch.setattr(bus.ingest.pipeline, "dry_run", dry_run)


@pytest.mark.usefixtures("rehearsed")
def test_a_dry_run_is_asked_with_the_options_of_the_run(calls: list[dict[str, Any]]) -> None:
    result = run("x.zip", "--json", "--source", "west", "--dry-run", "--differences", "3")
    reported = json.loads(result.stdout)
    assert (reported["dryRun"], reported["guard"]) == (True, "this extract would withdraw")
    assert reported["differences"] == [
        {
            **{"kind": "student", "id": "s1", "change": "updated"},
            "fields": {"grades": {"before": "['08']", "after": "['09']"}},
        }
    ]
    assert [group["count"] for group in reported["groups"]] == [12, 1]
    assert reported["records"] == report().as_json()["records"]
    (asked,) = calls
    assert (asked["source"], asked["most"], asked["polled"]) == ("west", 3, False)
    assert asked["mass_withdrawal_share"] is None, "so the setting counts"
    assert run("--dry-run", "--json", source=POLLED).exit_code == 0
    assert calls[-1]["polled"]


@pytest.mark.usefixtures("rehearsed")
def test_a_person_sees_what_would_be() -> None:
    lines = run("x.zip", "--dry-run", "--differences", "3").stdout.splitlines()
    assert lines[0] == "dry run: nothing was published; this is what would be"
    assert "updated student s1: grades ['08'] → ['09']" in lines
    assert "✗ users.csv role: 12 × other (text of 6 characters)" in lines
    assert lines[-2:] == [
        "13 faults would be in quarantine",
        "the guard would stop it: this extract would withdraw",
    ]


@pytest.mark.parametrize("wrong", [("--dry-run", "--watch"), ("--differences", "3")])
def test_a_dry_run_is_of_one_extract(calls: list[dict[str, Any]], wrong: tuple[str, ...]) -> None:
    assert run("x.zip", *wrong).exit_code == 1
    assert calls == []
