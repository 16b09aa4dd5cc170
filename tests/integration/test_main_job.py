"""The first extract reaches the products; the next day's extract brings exactly its changes."""

from __future__ import annotations

import json
import shutil
import signal
import zipfile
from pathlib import Path
from typing import Any

from bus.demo.sample import District
from tests import canvas_model, sds_model
from tests.integration.commands import Commands, until
from tests.oneroster_truth import truth

SAMPLES = Path(__file__).parents[1] / "samples"
DAY_1 = SAMPLES / "district-oneroster-1.1-2026-11-24.zip"
DAY_2 = SAMPLES / "district-oneroster-1.1-2026-11-25.zip"

FIRST = {
    "org": 5,
    "academicSession": 3,
    "course": 40,
    "class": 80,
    "student": 1200,
    "staff": 40,
    "demographics": 1200,
    "enrollment": 5435,
}
SECOND = {  # created, updated, withdrawn, unchanged
    "student": (10, 14, 12, 1174),
    "enrollment": (58, 0, 55, 5380),
    "demographics": (0, 0, 6, 1194),
    "class": (0, 1, 0, 79),
    "org": (0, 0, 0, 5),
    "academicSession": (0, 0, 0, 3),
    "course": (0, 0, 0, 40),
    "staff": (0, 0, 0, 40),
}


def take(commands: Commands, extract: Path) -> dict[str, dict[str, int]]:
    """Run `bus produce oneroster-csv EXTRACT --json`; return its counts."""
    found = commands.run("produce", "oneroster-csv", str(extract))
    assert found["source"] == "oneroster-csv"
    records: dict[str, dict[str, int]] = found["records"]
    return records


def consume(commands: Commands, product: str) -> dict[str, Any]:
    """Run `bus consume PRODUCT --out … --until-caught-up --json`."""
    out = str(commands.cwd / product)
    found = commands.run("consume", product, "--out", out, "--until-caught-up")
    assert (found["product"], found["out"], found["deadLettered"]) == (product, out, 0)
    return found


def test_two_days(commands: Commands) -> None:
    canvas, sds = commands.cwd / "canvas", commands.cwd / "microsoft-sds"

    for kind, counts in take(commands, DAY_1).items():
        assert counts == _counts(FIRST.get(kind, 0)), kind
    reported = consume(commands, "canvas")["delivered"]
    assert reported["enrollment"] == FIRST["enrollment"]
    consume(commands, "microsoft-sds")
    (first,) = sorted(canvas.glob("*.zip"))
    state = canvas_model.apply([first])
    assert canvas_model.rosters(state) == truth(DAY_1).rosters
    assert sds_model.rosters(sds_model.load(sds)) == truth(DAY_1).rosters

    records = take(commands, DAY_2)
    for kind, expected in SECOND.items():
        assert records[kind] == _counts(*expected), kind
    reported = consume(commands, "canvas")["delivered"]
    assert reported["enrollment"] == 58 + 55 - 1  # two are the same student in the same class
    assert reported["student"] == 10 + 14 + 12
    consume(commands, "microsoft-sds")
    (again, second) = sorted(canvas.glob("*.zip"))
    assert again == first
    canvas_model.apply([second], state)
    after = truth(DAY_2)
    assert canvas_model.rosters(state) == after.rosters
    active = {
        user: (row["first_name"], row["last_name"])
        for (user,), row in state["users.csv"].items()
        if row["status"] == "active"
    }
    assert active == after.people
    assert {s: row["name"] for (s,), row in state["sections.csv"].items()} == after.classes
    assert sds_model.rosters(sds_model.load(sds)) == after.rosters

    for kind, counts in take(commands, DAY_2).items():
        assert counts == _counts(unchanged=counts["unchanged"]), kind
    assert not any(consume(commands, "canvas")["delivered"].values())
    assert len(list(canvas.glob("*.zip"))) == 2
    groups = commands.run("status")["groups"]
    for product in ("canvas", "microsoft-sds"):
        assert groups[f"{commands.settings.topic_prefix}.{product}"] == {"lag": 0}


def test_an_extract_cut_short_stops_before_anything_is_published(commands: Commands) -> None:
    take(commands, DAY_1)
    half = commands.cwd / "half"
    half.mkdir()
    with zipfile.ZipFile(DAY_1) as archive:
        archive.extractall(half)
    users = (half / "users.csv").read_text("utf-8").splitlines(keepends=True)
    (half / "users.csv").write_text("".join(users[: len(users) // 2]), "utf-8")
    refused = commands.run("produce", "oneroster-csv", str(half), status=1)
    assert "--allow-mass-withdrawal" in refused["error"]
    assert "student" in refused["error"]
    assert take(commands, DAY_1)["student"]["unchanged"] == 1200
    went = commands.run("produce", "oneroster-csv", str(half), "--allow-mass-withdrawal")
    assert went["records"]["student"]["withdrawn"] > 500


def test_a_careless_extract_goes_in_with_each_fault_named(commands: Commands) -> None:
    """Each fault of a real OneRoster client's test data is reported, and the rest is published.

    The extract is a fixture of a client for Moodle. A course and a school are missing, statuses are
    left out, values are capitalized, and a date is missing.
    """
    records = take(commands, SAMPLES / "moodle-plugin-oneroster-1.1.zip")
    assert sum(counts["created"] for counts in records.values()) > 0
    faults = commands.run("quarantine", "list")["faults"]
    assert faults
    for fault in faults:
        assert fault["file"].endswith(".csv")
        assert fault["reason"]
    consume(commands, "canvas")
    consume(commands, "microsoft-sds")


def test_a_drop_folder_takes_each_extract_once(commands: Commands) -> None:
    drop = commands.cwd / "drop"
    drop.mkdir()
    watching = commands.start("produce", "oneroster-csv", str(drop), "--watch")
    try:
        shutil.copy(DAY_1, drop / "day-1.zip")
        until(lambda: (drop / "taken" / "day-1.zip").exists(), "the first day taken")
        (drop / "broken.zip").write_bytes(DAY_2.read_bytes()[:100_000])
        until(lambda: (drop / "refused" / "broken.zip").exists(), "the broken one refused")
        shutil.copy(DAY_2, drop / "day-2.zip")
        until(lambda: (drop / "taken" / "day-2.zip").exists(), "the second day taken")
    finally:
        watching.send_signal(signal.SIGTERM)
        printed, log = watching.communicate(timeout=60)
    assert watching.returncode == 0, log
    first, broken, second = json.loads(printed)["extracts"]
    assert first["records"]["student"]["created"] == 1200
    assert "error" in broken
    assert "zip" in (drop / "refused" / "broken.zip.reason.txt").read_text()
    assert second["records"]["student"] == _counts(10, 14, 12, 1174)


def test_a_source_leaves_alone_what_is_another_sources(commands: Commands) -> None:
    """Of two systems with the same ids, the first one owns the records until it withdraws them."""
    extract = District(students=60).write(commands.cwd / "extract")

    def by(source: str) -> dict[str, dict[str, int]]:
        found = commands.run("produce", "oneroster-csv", str(extract), "--source", source)
        assert found["source"] == source
        records: dict[str, dict[str, int]] = found["records"]
        return records

    assert by("west")["student"]["created"] == 60
    assert by("east")["student"] == _counts() | {"quarantined": 60}
    users = extract / "users.csv"
    lines = users.read_text("utf-8").splitlines(keepends=True)
    users.write_text("".join(line for line in lines if "student-0000003" not in line), "utf-8")
    assert by("east")["student"]["withdrawn"] == 0
    west = by("west")["student"]
    assert (west["withdrawn"], west["unchanged"]) == (1, 59)
    users.write_text("".join(lines), "utf-8")
    assert by("east")["student"]["created"] == 1  # west no longer has the record
    faults = commands.run("quarantine", "list")["faults"]
    assert any("another source" in fault["reason"] for fault in faults)


def test_a_withdrawn_record_takes_nothing_away_that_another_still_gives(
    commands: Commands,
) -> None:
    """Two enrollments of one student in one class are equivalent records for Canvas."""
    folder = District(students=60).write(commands.cwd / "extract")
    enrollments = folder / "enrollments.csv"
    once = enrollments.read_text("utf-8")
    row = once.splitlines()[-1].split(",")
    enrollments.write_text(once + ",".join(["twice", *row[1:]]) + "\r\n", "utf-8")
    take(commands, folder)
    consume(commands, "canvas")
    enrollments.write_text(once, "utf-8")
    assert take(commands, folder)["enrollment"]["withdrawn"] == 1
    reported = consume(commands, "canvas")["delivered"]
    assert reported["enrollment"] == 0
    state = canvas_model.apply(sorted((commands.cwd / "canvas").glob("*.zip")))
    assert (row[3], row[5], "student") in canvas_model.rosters(state)


def _counts(
    created: int = 0, updated: int = 0, withdrawn: int = 0, unchanged: int = 0
) -> dict[str, int]:
    return {
        "created": created,
        "updated": updated,
        "withdrawn": withdrawn,
        "unchanged": unchanged,
        "quarantined": 0,
    }
