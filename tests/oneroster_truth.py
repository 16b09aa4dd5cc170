"""The active records of a OneRoster extract, which products must have in the end."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import NamedTuple

Row = dict[str, str]


class Truth(NamedTuple):
    """The active records.

    rosters: (class, person, role).
    people:  (given name, family name) by id.
    agents:  the ids that students name as their agents.
    """

    rosters: set[tuple[str, str, str]]
    people: dict[str, tuple[str, str]]
    classes: dict[str, str]
    agents: set[str]


def truth(extract: Path) -> Truth:
    """Return the active records of one bulk extract, a zip."""
    users = {row["sourcedId"]: row for row in _active(extract, "users.csv")}
    classes = {row["sourcedId"]: row for row in _active(extract, "classes.csv")}
    return Truth(
        rosters={
            (row["classSourcedId"], row["userSourcedId"], row["role"])
            for row in _active(extract, "enrollments.csv")
            if row["classSourcedId"] in classes and row["userSourcedId"] in users
        },
        people={id_: (row["givenName"], row["familyName"]) for id_, row in users.items()},
        classes={id_: row["title"] for id_, row in classes.items()},
        agents={id_ for row in users.values() for id_ in row.get("agentSourcedIds", "").split(",")},
    )


def _active(extract: Path, name: str) -> list[Row]:
    with zipfile.ZipFile(extract) as archive:
        text = archive.read(name).decode("utf-8-sig")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [row for row in rows if row["status"] != "tobedeleted"]
