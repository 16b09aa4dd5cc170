"""What `bus up`, `down`, `status` and `doctor` print when nothing is running."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bus.cli import app
from bus.local import certificates, machine
from bus.local.download import Programs
from bus.observe import doctor


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home whose path has characters that are special to terminal markup and shells."""
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
    assert one_object("status", status=1) == {
        "bootstrap": None,
        "registry": None,
        "groups": {},
        "topics": {},
        "running": {},
        "dead": [],
    }
    assert one_object("down") == {"home": str(home), "stopped": []}
    found = one_object("doctor", status=1)
    wrong = [check["name"] for check in found["checks"] if not check["ok"]]
    assert wrong == ["Kafka", "registry"]  # neither is up
    assert not home.exists()


def test_the_error_says_what_to_run(home: Path) -> None:
    said = CliRunner().invoke(app, ["status"]).stdout
    assert said == f"the bus in {home} is not up: run `bus up`\n"
    said = CliRunner().invoke(app, ["doctor"]).stdout
    assert f"ok    home: {home} does not exist yet; `bus up` creates it\n" in said
    assert "wrong Kafka: not running; start it with `bus up`\n" in said


def test_the_doctor_goes_on_after_what_is_wrong_and_ends_with_1(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory_left_mb", lambda: 10)
    found = one_object("doctor", status=1)
    wrong = [check["name"] for check in found["checks"] if not check["ok"]]
    assert wrong == ["memory", "Kafka", "registry"]
    assert found["checks"][-1]["name"] == "registry"
    assert "wrong memory: Kafka and its registry need" in CliRunner().invoke(app, ["doctor"]).stdout


def test_the_doctor_names_damaged_data_and_the_mend(home: Path) -> None:
    (home / "kafka" / "schoolbus.org-0").mkdir(parents=True)
    found = one_object("doctor", status=1)
    wrong = {check["name"]: check["says"] for check in found["checks"] if not check["ok"]}
    assert "kafka/meta.properties, registry/registry.mv.db" in wrong["data"]


def test_the_doctor_names_certificates_that_end(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates.ensure(home / "tls", [])
    assert diagnosis("certificates") == {
        "name": "certificates",
        "ok": True,
        "says": f"valid for {certificates.DAYS - 1} more days",
    }
    monkeypatch.setattr(certificates, "RENEW_DAYS", certificates.DAYS + 1)
    assert "run `bus down`, then `bus up`" in diagnosis("certificates")["says"]
    (home / "tls" / "node.pem").unlink()
    assert not diagnosis("certificates")["ok"]


def diagnosis(name: str) -> dict[str, Any]:
    checks = one_object("doctor", status=1)["checks"]
    found: dict[str, Any] = next(check for check in checks if check["name"] == name)
    return found


def test_a_plain_bus_is_not_advertised(home: Path) -> None:
    found = one_object("up", "--advertise", "kafka.example", status=1)
    assert "give --secure, too" in found["error"]
    found = one_object("up", "--secure", "--advertise", "kafka.example:9092", status=1)
    assert "not a host name" in found["error"]
    assert not (home / "tls").exists()


def test_the_doctor_names_a_program_that_is_not_what_was_fetched(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "damaged", lambda _: [tmp_path / "kafka.jar"])
    wrong = [c["says"] for c in one_object("doctor", status=1)["checks"] if not c["ok"]]
    assert len(wrong) == 3  # also Kafka and the registry, which are not up
    assert "kafka.jar differs from the download" in wrong[0]


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
    monkeypatch.setattr(doctor, "SECONDS", 0.3)
    monkeypatch.setenv("BUS_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("BUS_REGISTRY__URL", "http://127.0.0.1:1")
    began = time.monotonic()
    said = one_object("status", status=1)["error"]
    assert time.monotonic() - began < 8  # librdkafka takes 5 s of that
    for words in (
        "cannot connect to Kafka at 127.0.0.1:1",
        "Connection refused",
        "[kafka] bootstrap",
    ):
        assert words in said
    checks = one_object("doctor", status=1)["checks"]
    assert [check["name"] for check in checks] == ["settings", "Kafka", "registry"]
    assert all("does not answer" in check["says"] for check in checks[1:])


def test_a_client_setting_that_kafka_does_not_know_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUS_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("BUS_KAFKA__CLIENT", '{"no.such.setting": 1}')
    for command in ("status", "doctor"):
        said = json.dumps(one_object(command, status=1))
        assert "no.such.setting" in said
        assert "[kafka] client" in said


def settings_check(status: int = 1) -> dict[str, Any]:
    """Return what the doctor reports about the settings."""
    found: dict[str, Any] = one_object("doctor", status=status)["checks"][0]
    assert found["name"] == "settings"
    return found


def test_the_doctor_looks_at_all_tables_and_says_what_was_probably_meant(
    home: Path, tmp_path: Path
) -> None:
    assert settings_check()["ok"] is True
    (tmp_path / "bus.toml").write_text(
        "[products.canvsa]\nout = 'x'\n"
        "[products.canvas]\ntimezone = 'UTC'\n"
        "[products.webhook]\nkinds = ['secret-value']\n"
        "[producers.oneroster_csv]\n"
        "[producers.http.oauth]\nissuer = 'https://i.example'\naudeince = 'bus'\n"
    )
    found = settings_check()
    assert found["ok"] is False
    for said in (
        "[products.canvsa]: no product of this name is installed; did you mean canvas?",
        "timezone: this setting does not exist; did you mean time_zone?",
        "[products.webhook]",
        "[producers.oneroster_csv]: no source of this name is installed; did you mean oneroster-csv?",
        "oauth.audeince: this setting does not exist; did you mean audience?",
    ):
        assert said in found["says"]


def test_the_doctor_reports_a_wrong_setting_beside_a_wrong_table(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "bus.toml").write_text("[kafka]\nbootstrp = 'x'\n[products.canvsa]\n")
    says = settings_check()["says"]
    assert "kafka.bootstrp: this setting does not exist; did you mean bootstrap?" in says
    assert "[products.canvsa]" in says


def test_a_setting_that_only_an_option_brings_is_not_wrong(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook's secret comes from the environment of the webhook's process."""
    (tmp_path / "bus.toml").write_text("[products.webhook]\nurl = 'https://vendor.example'\n")
    assert settings_check()["ok"] is True


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BUS_KAFKA_BOOTSTRAP", "BUS_KAFKA__BOOTSTRAP"),
        ("BUS_HOEM", "BUS_HOME"),
        ("BUS_PRODUCTS_CANVAS__OUT", "BUS_PRODUCTS__CANVAS__OUT"),
    ],
)
def test_the_doctor_names_a_variable_that_does_not_count(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("BUS_ROUTE_TABLE", "of another program")
    says = settings_check()["says"]
    assert f"{name} is not a setting; did you mean {meant}" in says
    assert "secret" not in says and "ROUTE" not in says


@pytest.mark.parametrize(
    "wrong", ["[kafka]\nbootstrp = 1\n", "[kafka\n", "topic_prefix = 3\n", "partitions ="]
)
def test_the_bus_goes_down_whatever_else_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    for name in ("BUS_HOME", "BUS_CONFIG", "BUS_SECRETS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bus.toml").write_text(f"home = 'mine'\n{wrong}")
    assert one_object("down")["home"] == str(tmp_path / "mine")
    monkeypatch.setenv("BUS_KAFKA__PARTITIONS", "many")
    monkeypatch.setenv("BUS_HOME", str(tmp_path / "named"))
    assert one_object("down")["home"] == str(tmp_path / "named")


def test_the_bus_does_not_go_down_elsewhere_when_its_home_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BUS_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bus.toml").write_text("home = 3\n")
    assert "home" in one_object("down", status=1)["error"]
    monkeypatch.setenv("BUS_CONFIG", str(tmp_path / "gone.toml"))
    assert "BUS_CONFIG" in one_object("down", status=1)["error"]


def test_records_that_were_not_counted_are_marked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bus.kafka import overview, reachability

    found = {
        "schoolbus.org": overview.TopicState(4, 9, exact=True),
        "schoolbus.student": overview.TopicState(4, 50_000, exact=False),
    }
    monkeypatch.setenv("BUS_KAFKA__BOOTSTRAP", "kafka.district.example:9092")
    monkeypatch.setattr(reachability, "check_reachable", lambda _: 1)
    monkeypatch.setattr(overview, "overview", lambda _: overview.Overview(found, {}))
    said = CliRunner().invoke(app, ["status"]).stdout
    assert " 9\n" in said and "≤ 9" not in said
    assert "≤ 50,000" in said
    assert "the offsets of a long topic" in said
