"""The program of docs/operations.md that erases a person, and what the products do with it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import duckdb

from bus import Undecodable, subscribe
from bus.demo.sample import District
from bus.local import reach
from tests.integration.commands import Commands

REPOSITORY = Path(__file__).parents[2]
PERSON = "student-0000003"


def erase(commands: Commands) -> subprocess.CompletedProcess[str]:
    """Run the program as the page shows it."""
    page = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n([^`]*?tombstone[^`]*?)^```$", page, re.M | re.S)
    (commands.cwd / "erase.py").write_text(code, "utf-8")
    settings = commands.settings
    embedded = reach(settings.home).bootstrap if settings.embedded else ""
    return subprocess.run(
        [sys.executable, "erase.py", settings.kafka.bootstrap or embedded, PERSON],
        env=commands.env,
        cwd=commands.cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def without_person(extract: Path, path: Path) -> Path:
    """Write an extract again, without the rows of the person."""
    with ZipFile(extract) as old, ZipFile(path, "w") as new:
        for name in old.namelist():
            lines = old.read(name).decode().splitlines(keepends=True)
            # What remains names the person at the end of a list: a guardian's students
            kept = [one for one in lines if f"{PERSON}," not in one]
            new.writestr(name, "".join(kept).replace(f",{PERSON}", ""))
    return path


def test_a_person_is_erased(commands: Commands) -> None:
    whole = District(students=20).write(commands.cwd / "1.zip")
    commands.run("produce", "oneroster-csv", str(whole))
    refused = erase(commands)
    assert refused.returncode == 1
    assert "still active: demographics, enrollment, student" in refused.stderr

    later = without_person(whole, commands.cwd / "2.zip")
    published = commands.run("produce", "oneroster-csv", str(later))
    number = sum(kind["withdrawn"] for kind in published["records"].values())
    for product in ("canvas", "microsoft-sds"):
        commands.run("consume", product, "--out", product, "--until-caught-up")
    erased = erase(commands)
    assert erased.stdout == f"wrote {number} tombstones\n", erased.stderr

    # Each product has the withdrawal, and gets nothing more.
    for product in ("canvas", "microsoft-sds"):
        before = files(commands.cwd / product)
        commands.run("consume", product, "--out", product, "--until-caught-up", status=1)
        assert files(commands.cwd / product) == before
        dead_letters = commands.run("deadletters", "list", product)["deadLetters"]
        assert {one["code"] for one in dead_letters} == {"undecodable"}
        assert PERSON in {one["id"] for one in dead_letters}
        place = dead_letters[0]["place"]
        commands.run("deadletters", "discard", product, place, "--why", "erased")
        left = commands.run("deadletters", "list", product)["deadLetters"]
        assert len(left) == len(dead_letters) - 1
    users = (commands.cwd / "microsoft-sds" / "users.csv").read_text("utf-8")
    assert "student-0000002," in users
    assert PERSON not in users

    lost: list[Undecodable] = []
    events = subscribe(
        "student",
        group="vendor",
        settings=commands.settings,
        until_caught_up=True,
        undecodable=lost.append,
    )
    list(events)
    assert [(one.key, one.value) for one in lost] == [(PERSON, None)]

    again = ("replay", "canvas", "--student", PERSON, "--only-current", "--into", "new")
    assert sum(commands.run(*again)["delivered"].values()) == 0

    # The source forgets the record, and publishes it as new if it comes back.
    commands.run("produce", "oneroster-csv", str(later))
    (cache,) = (commands.settings.home / "published" / commands.settings.topic_prefix).glob(
        "oneroster-csv.duckdb"
    )
    with duckdb.connect(str(cache), read_only=True) as con:
        ids = {id_ for (id_,) in con.execute("SELECT sourcedId FROM student").fetchall()}
    assert "student-0000002" in ids
    assert PERSON not in ids
    back = commands.run("produce", "oneroster-csv", str(whole))["records"]
    assert (back["student"]["created"], back["demographics"]["created"]) == (1, 1)


def files(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}
