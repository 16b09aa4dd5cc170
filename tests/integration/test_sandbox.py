"""A vendor's sandbox, and the certification of a vendor's subscriber."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bus import subscribe
from bus.sandbox.certification_run import certified_on
from bus.settings import KafkaSettings, RegistrySettings, Settings
from bus.vendors.agreement import load
from bus.vendors.applied import fingerprint
from tests.integration.commands import Commands
from tests.integration.test_public_surface import DATA, check
from tests.shapes import Shape

AGREEMENTS = Path(__file__).parents[2] / "deploy" / "agreements"
ROOT = Path(__file__).parents[2]


def processes_in(folder: Path) -> list[list[str]]:
    """Return the command lines of processes that name a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if any(str(folder) in word for word in line):
            found.append(line)
    return found


@pytest.mark.longest
@pytest.mark.embedded
def test_a_vendor_reads_a_sandbox_and_ctrl_c_ends_everything(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
    agreement = tmp_path / "math-app.toml"
    agreement.write_text(
        (AGREEMENTS / "math-app.toml")
        .read_text("utf-8")
        .replace("2026-08-01", "2020-08-01")
        .replace("2027-07-31", "2021-07-31")
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "bus", "sandbox", str(agreement), "--every", "0.5", "--json"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        found = json.loads(line)
        shape = Shape(DATA["bus sandbox"])
        shape.add(found)
        check("json-sandbox", [f"json-sandbox bus sandbox {line}" for line in shape.lines()])
        assert "moves its dates" in found["notes"][0]
        _reads(found)
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert (tmp_path / "sandbox-math-app" / "kafka").is_dir()
    assert processes_in(tmp_path) == []


def _reads(found: dict[str, object]) -> None:
    """Read as a vendor until each sort of event of a living district has come."""
    settings = Settings(
        topic_prefix="schoolbus",
        kafka=KafkaSettings(bootstrap=str(found["bootstrap"])),
        registry=RegistrySettings(url=str(found["registry"])),
    )
    events = subscribe("student", agreement="math-app", group="reader", settings=settings)
    seen, wanted = set(), {"active", "tobedeleted", "deleted"}
    late = time.monotonic() + 60
    for event in events:  # they come all the time
        seen.add("deleted" if event.record is None else event.record["status"])
        if seen == wanted or time.monotonic() > late:
            break
    events.close()
    assert seen == wanted


@pytest.mark.longest
@pytest.mark.embedded
def test_a_good_subscriber_is_certified(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
    options = ["--kind", "student", "--kind", "enrollment", "--patience", "60", "--json"]
    program = [sys.executable, "-m", "tests.subscribers.good"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bus", "vendors", "certify"),
            *("--agreement", str(AGREEMENTS / "math-app.toml")),
            *options,
            "--",
            *program,
        ],
        cwd=ROOT,
        env=env | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert [one["problems"] for one in report["steps"]] == [[]] * 8
    assert [one["notRun"] for one in report["steps"]] == [""] * 8
    assert all(one["records"] for one in report["steps"])
    assert report["fingerprint"] == fingerprint(load(AGREEMENTS / "math-app.toml"))
    assert processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_careless_subscriber_is_not(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("takes a minute; only with --long. The unit tests have such subscribers too")
    monkeypatch.chdir(ROOT)
    report, _ = certified_on(
        commands.settings,
        load(AGREEMENTS / "math-app.toml"),
        [sys.executable, "-m", "tests.subscribers.careless"],
        ["student", "enrollment"],
        10,
        commands.cwd,
        lambda _: None,
    )
    failed = {one.step: " ".join(one.problems) for one in report.steps if not one.passed}
    assert set(failed) >= {"A crash, and messages that come again", "Students are deleted"}
    assert " missing" in failed["A crash, and messages that come again"]
    assert "must not be there" not in failed["A crash, and messages that come again"]
    assert "student: 3 records are there that must not be there" in failed["Students are deleted"]
    assert report.steps[0].passed
