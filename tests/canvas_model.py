"""A small model of Canvas's importer for zips of SIS CSV, for tests.

`apply(zips)` takes zips in their order (paths, or their bytes) and returns the state of Canvas: for
each file, rows by the columns that identify them to Canvas. A row that Canvas would refuse is an
AssertionError. If a list `refused` is given, such a row is added to it instead, and the state does
not change.

Sources: Canvas LMS API documentation, "SIS CSV Format"; instructure/canvas-lms, lib/sis:
import_refactored.rb (order of files, recognized by their columns), account_importer.rb,
term_importer.rb, course_importer.rb, user_importer.rb, enrollment_importer.rb (deletions come last,
wherever they are in the file). Independent of `consumers.canvas` on purpose.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

Row = dict[str, str]
State = dict[str, dict[tuple[str, ...], Row]]

KEYS = {
    "accounts.csv": ("account_id",),
    "terms.csv": ("term_id",),
    "courses.csv": ("course_id",),
    "sections.csv": ("section_id",),
    "users.csv": ("user_id",),
    "enrollments.csv": ("section_id", "user_id", "role"),
}
"""The files in the order in which Canvas imports them, and the columns that identify a row."""
REQUIRED = {
    "accounts.csv": ("account_id", "name", "status"),
    "terms.csv": ("term_id", "name", "status"),
    "courses.csv": ("course_id", "short_name", "long_name", "status"),
    "sections.csv": ("section_id", "course_id", "name", "status"),
    "users.csv": ("user_id", "login_id", "status"),
    "enrollments.csv": ("section_id", "user_id", "role", "status"),
}
STATUSES = {
    "accounts.csv": ("active", "deleted"),
    "terms.csv": ("active", "deleted"),
    "courses.csv": ("active", "deleted", "completed", "published"),
    "sections.csv": ("active", "deleted"),
    "users.csv": ("active", "suspended", "deleted"),
    "enrollments.csv": ("active", "deleted", "completed", "inactive", "deleted_last_completed"),
}


class Refused(NamedTuple):
    """A row that Canvas did not take; row 1 is the header."""

    file: str
    row: int
    message: str


def apply(
    zips: Iterable[Path | bytes], state: State | None = None, refused: list[Refused] | None = None
) -> State:
    """Return the state after these zips, starting with an empty Canvas or from `state`.

    `state` is changed in place.
    """
    now: State = state if state is not None else {}
    for name in KEYS:
        now.setdefault(name, {})
    for one in zips:
        with zipfile.ZipFile(io.BytesIO(one) if isinstance(one, bytes) else one) as archive:
            assert archive.testzip() is None
            names = archive.namelist()
            assert set(names) <= set(KEYS), f"files that are not Canvas's: {names}"
            assert len(set(names)) == len(names), f"a file twice: {names}"
            for name in sorted(names, key=list(KEYS).index):
                _import(now, name, archive.read(name).decode("utf-8"), refused)
    return now


def rosters(state: State) -> set[tuple[str, str, str]]:
    """Return (section, user, role) of each enrollment that is active at every level."""
    return {
        (section, user, role)
        # A list, because a server that takes zips at the same time may add to it.
        for (section, user, role), row in list(state["enrollments.csv"].items())
        if row["status"] == "active"
        and state["users.csv"][user,]["status"] == "active"
        and state["courses.csv"][state["sections.csv"][section,]["course_id"],]["status"]
        == "active"
    }


def _import(state: State, name: str, text: str, refused: list[Refused] | None) -> None:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    missing = set(REQUIRED[name]) - set(reader.fieldnames or ())
    assert not missing, f"{name} lacks {missing}"
    assert name != "accounts.csv" or "parent_account_id" in (reader.fieldnames or ())
    table = state[name]
    deletions: list[tuple[tuple[str, ...], Row]] = []
    for number, raw in enumerate(reader, start=2):
        assert None not in raw and None not in raw.values(), f"{name}, row {number}: wrong length"
        row = {column: value.strip() for column, value in raw.items()}
        key = tuple(row[column] for column in KEYS[name])
        if wrong := _wrong(state, name, row):
            assert refused is not None, f"{name}, row {number}: {wrong}"
            refused.append(Refused(name, number, wrong))
        elif name == "enrollments.csv" and row["status"].startswith("deleted") and key in table:
            deletions.append((key, row))
        else:
            table[key] = row
    for key, row in deletions:
        table[key] = row


def _wrong(state: State, name: str, row: Row) -> str | None:
    """Return why Canvas does not take a row, in words like its own; None if it takes it."""
    for column in REQUIRED[name]:
        if not row[column]:
            return f"No {column} given"
    for column in KEYS[name]:
        if len(row[column]) > 255:
            return f"{column} is too long (maximum is 255 characters)"
    if row["status"] not in STATUSES[name]:
        return f'Improper status "{row["status"]}"'
    for column in ("start_date", "end_date"):
        if row.get(column) and datetime.fromisoformat(row[column]).tzinfo is None:
            return f"{column} without offset: would be taken as UTC"
    return CHECKS[name](state, row)


def _account(state: State, row: Row) -> str | None:
    own, parent = row["account_id"], row["parent_account_id"]
    if parent and (parent,) not in state["accounts.csv"]:
        return f"Parent account didn't exist for {own}"
    if row["status"] == "deleted" and _any_active(state, "courses.csv", "account_id", own):
        return f"Cannot delete the sub_account with ID: {own} because it has active courses."
    if row["status"] == "deleted" and _any_active(state, "accounts.csv", "parent_account_id", own):
        return f"Cannot delete the sub_account with ID: {own} because it has active sub accounts."
    return None


def _term(state: State, row: Row) -> str | None:
    if row["status"] == "deleted" and _any_active(state, "courses.csv", "term_id", row["term_id"]):
        return "Cannot delete a term with active courses"
    return None


def _course(state: State, row: Row) -> str | None:
    if row["account_id"] and (row["account_id"],) not in state["accounts.csv"]:
        return f'Account not found "{row["account_id"]}" for course {row["course_id"]}'
    return None


def _section(state: State, row: Row) -> str | None:
    if (row["course_id"],) not in state["courses.csv"]:
        return (
            f"Section {row['section_id']} references course {row['course_id']} which doesn't exist"
        )
    return None


def _user(state: State, row: Row) -> str | None:
    for (other,), known in state["users.csv"].items():
        if other != row["user_id"] and known["login_id"].lower() == row["login_id"].lower():
            return (
                f"An existing Canvas user with the SIS ID {other} has already claimed "
                f"{row['user_id']}'s user_id requested login information, skipping"
            )
    return None


def _enrollment(state: State, row: Row) -> str | None:
    user, section, course = row["user_id"], row["section_id"], row.get("course_id") or ""
    if (user,) not in state["users.csv"]:
        return (
            "User not found for enrollment "
            f"(User ID: {user}, Course ID: {course}, Section ID: {section})"
        )
    if (section,) not in state["sections.csv"]:
        return f"An enrollment referenced a non-existent section {section}"
    if course and state["sections.csv"][section,]["course_id"] != course:
        return (
            f"An enrollment listed a section ({section}) and a course ({course}) that are unrelated"
        )
    if row["role"] not in ("student", "teacher", "ta", "observer", "designer"):
        return f'Improper role "{row["role"]}" for an enrollment'
    if row["status"] == "active" and state["users.csv"][user,]["status"] == "deleted":
        return f"Attempted enrolling of deleted user {user} in course {course}"
    return None


def _any_active(state: State, name: str, column: str, value: str) -> bool:
    return any(row[column] == value and row["status"] != "deleted" for row in state[name].values())


CHECKS = {
    "accounts.csv": _account,
    "terms.csv": _term,
    "courses.csv": _course,
    "sections.csv": _section,
    "users.csv": _user,
    "enrollments.csv": _enrollment,
}
