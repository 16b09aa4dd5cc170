"""A vendor's CSV set has what its agreement shares. It is deleted after a revocation."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.integration import commands as running
from tests.integration.commands import Commands
from tests.integration.test_vendors import SAMPLE, received, write_agreement

CONSUME = ("consume", "oneroster-csv", "--agreement", "app")
Rows = Mapping[str, Sequence[Mapping[str, str]]]
until = partial(running.until, seconds=120.0)


def rows_of(path: Path) -> Rows:
    """Return the rows of each file in a zip; nothing if it does not exist yet."""
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as zip_file:
        return {
            name: list(csv.DictReader(io.TextIOWrapper(zip_file.open(name), "utf-8")))
            for name in zip_file.namelist()
        }


def test_a_vendor_gets_its_set_until_it_is_revoked(commands: Commands, tmp_path: Path) -> None:
    settings, folder = commands.settings, tmp_path / "agreements"
    path = SAMPLE.write(tmp_path / "day-1.zip", day=1)
    commands.run("produce", "oneroster-csv", str(path))
    write_agreement(folder, "app")
    agreement = folder / "app.toml"
    text = agreement.read_text()
    out = tmp_path / "vendor"
    agreement.write_text(f'ways = []\n{text}\n[csv]\nfolder = "{out}"\n')
    commands.run("vendors", "apply")
    commands.run("vendors", "run", "--until-caught-up")
    delivered = commands.run(*CONSUME, "--until-caught-up")["delivered"]

    shared = received(settings, "app")
    students = {id_: one for (kind, id_), one in shared.items() if kind == "student"}
    found = rows_of(out / "oneroster.zip")
    rows = {one["sourcedId"]: one for one in found["users.csv"] if one["role"] == "student"}
    assert rows.keys() == students.keys() and len(rows) == delivered["student"] > 20
    assert {one["givenName"] for one in rows.values()} == {
        one["givenName"] for one in students.values()
    }
    assert "demographics.csv" not in found

    # A field that is not shared any more leaves the set.
    agreement.write_text(
        agreement.read_text().replace("[share]", '[share]\nwithout = ["student.givenName"]')
    )
    commands.run("vendors", "apply")
    commands.run("vendors", "run", "--until-caught-up")
    commands.run(*CONSUME, "--until-caught-up")
    people = rows_of(out / "oneroster.zip")["users.csv"]
    assert {one["givenName"] for one in people if one["role"] == "student"} == {""}

    consumer = commands.start(*CONSUME)
    try:
        before = (out / "oneroster.zip").read_bytes()
        path = SAMPLE.write(tmp_path / "day-2.zip", day=2)
        commands.run("produce", "oneroster-csv", str(path))
        commands.run("vendors", "run", "--until-caught-up")
        until(lambda: (out / "oneroster.zip").read_bytes() != before, "the second day's set")
        commands.run("vendors", "revoke", "app", "--why", "a test", "--yes")
        said, _ = consumer.communicate(timeout=60)
    finally:
        consumer.kill()
    assert consumer.returncode == 1 and "revoked" in json.loads(said)["error"]
    assert not (out / "oneroster.zip").exists()

    # Without a consumer at that moment, the zip stays until its next start.
    (out / "oneroster.zip").write_bytes(before)
    assert "revoked" in commands.run(*CONSUME, status=1)["error"]
    assert not (out / "oneroster.zip").exists()
