"""`bus vendors`: what it prints for a person and for a program, and its exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from typer.testing import CliRunner

from bus.cli import app
from bus.errors import RetryLater
from bus.vendors import applied
from bus.vendors.district_counts import CohortCounts
from tests.agreements import DAY
from tests.fakes.harness import Bus
from tests.fakes.registry import FakeRegistry
from tests.unit.test_disclosures import Log, Topics, writer

FILE = """\
vendor = "Example [Math]"
purpose = "instruction"
basis = "school-official"
from = 2026-08-01
until = 2027-07-31
[document]
title = "Data privacy agreement"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
[contacts]
vendor = "privacy@vendor.example"
district = "privacy@district.example"
[share]
categories = ["Enrollment", "Schedule"]
"""

Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one agreement; the day is fixed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bus.vendors.applied.today", lambda: DAY)
    (tmp_path / "agreements").mkdir()
    (tmp_path / "agreements" / "math-app.toml").write_text(FILE)
    return tmp_path / "agreements"


@pytest.fixture
def bus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bus:
    """A fake bus, whose registry accepts every schema, with 5 students in each cohort."""
    found = Bus(monkeypatch, home=folder.parent / "home")
    for module in ("vendors", "agreement_end"):
        monkeypatch.setattr(f"bus.cli.{module}.settings_of_reached", lambda: found.settings)
    monkeypatch.setattr("bus.vendors.vendor_schema.register", lambda *_: {})
    monkeypatch.setattr("bus.vendors.vendor_schema.lookup", lambda *_: {})
    monkeypatch.setattr("bus.kafka.overview.reading_groups", lambda _: {})
    monkeypatch.setattr("bus.vendors.disclosures.DisclosureWriter", MagicMock())
    monkeypatch.setattr("bus.vendors.disclosures.keep_head", MagicMock())
    monkeypatch.setattr(
        "bus.vendors.district_counts.count",
        lambda _, changes, day: dict.fromkeys(changes, CohortCounts(after=5, enter=5)),
    )
    return found


@pytest.fixture
def no_bus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached() -> None:
        raise RetryLater("Kafka does not answer")

    monkeypatch.setattr("bus.cli.vendors.settings_of_reached", reached)


def run(*arguments: str, status: int = 0, given: str = "") -> str:
    done = CliRunner().invoke(app, ["vendors", *arguments], input=given)
    assert done.exit_code == status, done.output
    return done.output


def as_json(*arguments: str, status: int = 0) -> Any:
    done = CliRunner().invoke(app, ["vendors", *arguments, "--json"])
    assert done.exit_code == status, done.output
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def test_check_needs_no_bus(no_bus: None) -> None:
    assert "1 agreement, 0 errors, 1 warning" in run("check")
    (problem,) = as_json("check")["problems"]
    assert problem["level"] == "warning" and "could not be asked" in problem["text"]


def test_check_says_what_is_wrong_and_ends_with_1(folder: Path, bus: Bus) -> None:
    (folder / "library.toml").write_text(FILE.replace('"Schedule"', '"Schedules"'))
    text = run("check", status=1)
    assert 'error library.toml, share.categories: "Schedules" is not a category' in text
    assert "2 agreements, 1 error, 0 warnings" in text
    assert as_json("check", status=1)["problems"][0]["key"] == "share.categories"
    assert as_json("check", "math-app") == {"agreements": 1, "problems": []}
    assert "no agreement pupils" in as_json("check", "pupils", status=1)["error"]


def test_check_takes_another_folder(folder: Path, bus: Bus) -> None:
    folder.rename(folder.parent / "other")
    assert as_json("check", "--agreements", "other")["agreements"] == 1
    assert "--agreements DIR" in as_json("check", status=1)["error"]


def test_a_plan_shows_the_difference_in_numbers(bus: Bus) -> None:
    text = run("plan")
    assert "+ math-app  new" in text
    assert "    + vendor: Example [Math]" in text
    assert (
        "more and 0 fields fewer; 5 students more and 0 students fewer (0 before, 5 after)" in text
    )
    assert "warning it selects only 5 students" in text
    assert text.endswith("1 new\n")
    found = as_json("plan")
    assert found["changes"][0]["students"]["after"] == 5
    assert applied.read(bus.settings) == {}


def test_a_plan_of_what_cannot_be_applied_ends_with_1(folder: Path, bus: Bus) -> None:
    (folder / "library.toml").write_text(FILE.replace('"Schedule"', '"Schedules"'))
    assert "apply would stop" in run("plan", status=1)
    error = as_json("apply", status=1)["error"]
    assert "nothing was applied" in error and "library.toml, share.categories" in error
    assert applied.read(bus.settings) == {}


def test_apply_prints_what_a_script_needs(bus: Bus) -> None:
    found = as_json("apply")
    assert found.keys() == {"vendors"}
    assert found["vendors"]["math-app"].keys() == {
        *("topics", "group", "bootstrap", "registry", "username", "credentials", "ca")
    }
    assert as_json("apply") == found
    text = run("apply")
    assert "everybody who reaches this bus can read" in " ".join(text.split())
    assert "1 unchanged\nhead of the record of disclosures: " in text


def test_a_missing_file_is_named_and_does_not_end_the_agreement(folder: Path, bus: Bus) -> None:
    run("apply")
    (folder / "math-app.toml").unlink()
    text = run("plan")
    assert "! math-app  its file is missing, but the agreement stays active" in text
    assert as_json("apply")["vendors"].keys() == {"math-app"}


def test_list(bus: Bus) -> None:
    assert "no agreement was applied" in run("list")
    run("apply")
    assert "Example [Math]" in run("list")
    assert "never read" in run("list")
    applied.write(bus.settings, replace(applied.read(bus.settings)["math-app"], narrowed=True))
    assert as_json("list")["agreements"][0]["note"] == "topics are written again, never read"
    (one,) = as_json("list")["agreements"]
    assert (one["name"], one["state"], one["daysLeft"]) == ("math-app", "active", 245)


def test_list_shows_the_name_of_a_group_as_it_is(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    run("apply")
    late = {"schoolbus.vendor.math-app.[red]": ["schoolbus.vendor.math-app.student"]}
    monkeypatch.setattr("bus.kafka.overview.reading_groups", lambda _: late)
    assert "reads late: [red]" in " ".join(run("list").split())
    assert as_json("list")["agreements"][0]["lateGroups"] == list(late)


def test_show_prints_what_was_applied_or_the_file(folder: Path, bus: Bus) -> None:
    assert "not applied" in run("show", "math-app")
    run("apply")
    (folder / "math-app.toml").unlink()
    assert "  Vendor: Example [Math]" in run("show", "math-app")
    assert run("show", "math-app", "--markdown").startswith(
        r"# Data that Example \[Math\] receives"
    )
    found = as_json("show", "math-app")
    assert found["applied"] and found["agreement"]["vendor"] == "Example [Math]"
    assert "cannot be read" in as_json("show", "pupils", status=1)["error"]


def test_show_needs_no_bus(no_bus: None) -> None:
    text = run("show", "math-app")
    assert "the bus does not answer" in text and "not applied" in text


def test_revoke_asks_for_confirmation_unless_yes_is_given(bus: Bus) -> None:
    run("apply")
    run("revoke", "math-app", "--why", "a breach", given="n\n", status=1)
    assert applied.read(bus.settings)["math-app"].state == "active"
    assert "give a reason" in as_json("revoke", "math-app", "--why", " ", status=1)["error"]
    assert "math-app is revoked" in run("revoke", "math-app", "--why", "a breach", given="y\n")
    assert applied.read(bus.settings)["math-app"].why == "a breach"
    found = as_json("revoke", "math-app", "--why", "again")
    assert (found["state"], found["why"], found["renewals"]) == ("revoked", "a breach", [])


def test_revoke_names_a_renewal_that_stays_active(folder: Path, bus: Bus) -> None:
    renewal = FILE.replace("2027-07-31", "2028-07-31").replace("2026-08-01", "2027-08-01")
    (folder / "math-2.toml").write_text(f'renews = "math-app"\n{renewal}')
    run("apply")
    found = as_json("revoke", "math-app", "--why", "a breach", "--yes")
    assert found["renewals"] == ["math-2"]


def over(bus: Bus, monkeypatch: pytest.MonkeyPatch, day: date) -> None:
    """Let an applied agreement be over on a day, with the record of disclosures in memory."""
    topics = Topics()
    monkeypatch.setattr("bus.vendors.disclosures.DisclosureWriter", lambda *_: writer(Log(topics)))
    monkeypatch.setattr("bus.registry.subjects.client", FakeRegistry().client)
    run("apply")
    monkeypatch.setattr("bus.vendors.applied.today", lambda: day)


def test_delete_asks_for_the_end_the_days_and_a_confirmation(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    over(bus, monkeypatch, DAY)
    assert "revoke math-app --why TEXT" in as_json("delete", "math-app", status=1)["error"]
    monkeypatch.setattr("bus.vendors.applied.today", lambda: date(2027, 8, 1))
    error = as_json("delete", "math-app", status=1)["error"]
    assert "the agreed 30 days end on 2027-08-30" in error and "--early --why TEXT" in error
    assert "give a reason" in as_json("delete", "math-app", "--early", status=1)["error"]
    error = as_json("certificate", "math-app", status=1)["error"]
    assert "nothing is deleted yet under math-app; that is due on 2027-08-30" in error
    early = ("delete", "math-app", "--early", "--why", "a [breach]")
    run(*early, given="n\n", status=1)
    assert not applied.read(bus.settings)["math-app"].deleted
    text = run(*early, given="y\n")
    assert "math-app is deleted" in text and "Before the agreed days: a [breach]" in text
    assert "math-app was deleted before" in run("delete", "math-app")
    found = as_json("certificate", "math-app")
    assert found == as_json("delete", "math-app")
    assert found["keyDeleted"] and found["deletion"]["early"] == "a [breach]"
    assert run("certificate", "math-app", "--markdown").startswith("# Certificate of deletion: ")
    assert as_json("list")["agreements"][0]["deletedOn"]


def test_apply_deletes_what_is_due(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    over(bus, monkeypatch, date(2027, 8, 30))
    assert "- topics, groups, users, schemas and key" in run("plan")
    assert "math-app: topics, groups, users, schemas and key are deleted" in run("apply")
    assert applied.read(bus.settings)["math-app"].deleted
    assert as_json("apply") == {"vendors": {}}
    assert "- topics" not in run("plan")


def test_apply_names_only_what_it_deleted_now(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    over(bus, monkeypatch, date(2027, 8, 1))
    text = run("apply")
    assert "- math-app  ended" in text and "are deleted" not in text
    assert applied.read(bus.settings)["math-app"].closed == "ended"
    monkeypatch.setattr("bus.vendors.applied.today", lambda: date(2027, 8, 30))
    assert "math-app: topics, groups, users, schemas and key are deleted" in run("apply")
    assert "are deleted" not in run("apply")


def test_apply_ends_what_is_over_although_another_agreement_cannot_be_applied(
    folder: Path, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    over(bus, monkeypatch, date(2027, 8, 1))
    renewal = FILE.replace("2027-07-31", "2028-07-31").replace("2026-08-01", "2027-08-01")
    (folder / "math-2.toml").write_text(f'renews = "math-app"\n{renewal}')

    def refused(*_: object) -> None:
        raise RetryLater("the registry does not answer")

    monkeypatch.setattr("bus.vendors.vendor_schema.register", refused)
    assert as_json("apply", status=1) == {"error": "the registry does not answer"}
    stored = applied.read(bus.settings)
    assert stored.keys() == {"math-app"} and stored["math-app"].closed == "ended"


def test_apply_continues_and_ends_with_1_when_a_deletion_fails(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    over(bus, monkeypatch, date(2027, 8, 30))

    def refused(*_: object) -> None:
        raise RetryLater("a program still reads")

    monkeypatch.setattr("bus.kafka.removal.delete_groups", refused)
    assert "error: a program still reads" in run("apply", status=1)
    assert as_json("apply", status=1) == {"vendors": {}}
    assert not applied.read(bus.settings)["math-app"].deleted


def test_attest(folder: Path, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    over(bus, monkeypatch, date(2027, 8, 1))
    (folder / "signed.pdf").write_bytes(b"signed")
    said = ("attest", "math-app", "--by", "Ann", "--on", "2027-08-01")
    said += ("--document", str(folder / "signed.pdf"))
    found = as_json(*said)
    assert (found["new"], found["on"], found["by"]) == (True, "2027-08-01", "Ann")
    assert found["document"] == sha256(b"signed").hexdigest()
    assert as_json(*said)["new"] is False
    assert "was recorded before" in run(*said)
    other = ("attest", "math-app", "--by", "Bob", "--on", "2027-08-01")
    assert "was attested before" in as_json(*other, status=1)["error"]
    run("attest", "math-app", "--by", "Bob", "--on", "yesterday", status=2)
    (one,) = as_json("list")["agreements"]
    assert (one["note"], one["attestedOn"]) == ("attested on 2027-08-01", "2027-08-01")


def test_contracts_describe_the_applied_agreement_or_its_file(folder: Path, bus: Bus) -> None:
    files = as_json("contracts", "math-app", "--out", "new", "--bootstrap", "k:1")["files"]
    assert files["enrollment"] == "new/schoolbus.vendor.math-app.enrollment.odcs.yaml"
    assert "host: k:1" in Path(files["enrollment"]).read_text()
    run("apply")
    (folder / "math-app.toml").unlink()
    assert f"{len(files)} files in new" in run("contracts", "math-app", "--out", "new")
    assert "cannot be read" in as_json("contracts", "none", "--out", "new", status=1)["error"]


def test_the_gate_says_its_url_and_warns_without_tls(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(_: object, ready: Callable[[str], None], **options: Any) -> None:
        assert options["port"] == 8443
        ready("http://0.0.0.0:8443")

    monkeypatch.setattr("bus.vendors.gate_server.serve", serve)
    text = run("gate", "--host", "0.0.0.0", "--port", "8443")
    assert "schemas for vendors at http://0.0.0.0:8443" in text
    assert "tokens are sent unencrypted" in text
    assert as_json("gate", "--port", "8443") == {"url": "http://0.0.0.0:8443"}


def test_allow_confirms_once_more(bus: Bus) -> None:
    assert "no agreement math-app was applied" in as_json("allow", "math-app", status=1)["error"]
    run("apply")
    assert as_json("allow", "math-app")["confirmed"] == 1
    assert as_json("allow", "math-app")["confirmed"] == 2
    assert as_json("apply")["vendors"].keys() == {"math-app"}
    assert applied.read(bus.settings)["math-app"].confirmed == 2
