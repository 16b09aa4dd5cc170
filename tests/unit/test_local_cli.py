"""`bus up`, `down`, `status`, `doctor` as they print, with nothing running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bus.cli import app
from bus.local import machine
from bus.local.download import Programs
from bus.observe import doctor


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose path holds what a terminal's markup or a shell could stumble over."""
    folder = tmp_path / "a [bold] home & $x"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUS_HOME", str(folder))
    monkeypatch.delenv("BUS_CONFIG", raising=False)
    monkeypatch.delenv("BUS_KAFKA__BOOTSTRAP", raising=False)
    programs = Programs(tmp_path, "4.3.0", tmp_path, "3.3.3")
    monkeypatch.setattr(doctor, "fetched", lambda: (programs, 0))
    return folder


def one_object(*arguments: str, status: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == status, done.output
    assert done.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_nothing_runs_and_nothing_was_made(home: Path) -> None:
    assert one_object("status") == {
        "bootstrap": None,
        "registry": None,
        "groups": {},
        "topics": {},
        "running": {},
        "dead": [],
    }
    assert one_object("down") == {"home": str(home), "stopped": []}
    assert one_object("doctor")["ok"] is True
    assert not home.exists()


def test_a_person_is_told_what_to_run(home: Path) -> None:
    said = CliRunner().invoke(app, ["status"]).stdout
    assert said == f"the bus in {home} is not up: run `bus up`\n"
    said = CliRunner().invoke(app, ["doctor"]).stdout
    assert f"ok    home: {home} will be made by `bus up`\n" in said
    assert "ok    Kafka: not up; start it with `bus up`\n" in said


def test_the_doctor_goes_on_after_what_is_wrong_and_ends_with_1(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory_left_mb", lambda: 10)
    found = one_object("doctor", status=1)
    assert [check["name"] for check in found["checks"] if not check["ok"]] == ["memory"]
    assert found["checks"][-1]["name"] == "registry"
    assert "wrong memory: Kafka and its registry need" in CliRunner().invoke(app, ["doctor"]).stdout


def test_the_doctor_names_damaged_data_and_the_mend(home: Path) -> None:
    (home / "kafka" / "schoolbus.org-0").mkdir(parents=True)
    found = one_object("doctor", status=1)
    wrong = {check["name"]: check["says"] for check in found["checks"] if not check["ok"]}
    assert "kafka/meta.properties, registry/registry.mv.db" in wrong["data"]


def test_the_doctor_names_a_program_that_is_not_what_was_fetched(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "damaged", lambda _: [tmp_path / "kafka.jar"])
    wrong = [c["says"] for c in one_object("doctor", status=1)["checks"] if not c["ok"]]
    assert len(wrong) == 1
    assert "kafka.jar is not what was fetched" in wrong[0]


def test_an_error_is_one_object_too(home: Path) -> None:
    home.write_text("a file where the home should be")
    said = one_object("up", status=1)["error"]
    assert str(home) in said
    assert "BUS_HOME" in said


def test_up_does_not_start_a_cluster_that_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUS_KAFKA__BOOTSTRAP", "kafka.district.example:9092")
    assert "[kafka] bootstrap" in one_object("up", status=1)["error"]


def test_a_named_cluster_that_is_not_there_is_said_by_status_and_doctor(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bus.kafka import overview

    monkeypatch.setattr(overview, "SECONDS", 0.3)
    monkeypatch.setattr(doctor, "SECONDS", 0.3)
    monkeypatch.setenv("BUS_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("BUS_REGISTRY__URL", "http://127.0.0.1:1")
    assert one_object("status", status=1)["error"].startswith("Kafka does not answer")
    checks = one_object("doctor", status=1)["checks"]
    assert [check["name"] for check in checks] == ["Kafka", "registry"]
    assert all("does not answer" in check["says"] for check in checks)


def test_a_client_setting_that_kafka_does_not_know_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUS_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("BUS_KAFKA__CLIENT", '{"no.such.setting": 1}')
    for command in ("status", "doctor"):
        said = json.dumps(one_object(command, status=1))
        assert "no.such.setting" in said
        assert "[kafka] client" in said
