"""A small model of School Data Sync's checks for a folder of SDS v2.1 CSV, for tests.

`load(folder)` reads a set as SDS would and returns its state: for each file, rows by the columns
that identify them. Where SDS would refuse a row or warn of it, the model raises `Refused`.

Sources, at learn.microsoft.com/schooldatasync: "SDS V2.1 CSV file format", "Default list of
values", "Validation rules and descriptions"; the samples in OfficeDev/O365-EDU-Tools, "CSV
Samples/SDS v2.1". Independent of `consumers.microsoft_sds` on purpose.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from datetime import date
from hashlib import sha256
from pathlib import Path

Row = dict[str, str]
State = dict[str, dict[tuple[str, ...], Row]]

FILES = {
    "orgs.csv": "sourcedId name type parentSourcedId",
    "users.csv": "sourcedId username givenName familyName password activeDirectoryMatchId email "
    "phone sms",
    "roles.csv": "userSourcedId orgSourcedId role sessionSourcedId grade isPrimary roleStartDate "
    "roleEndDate",
    "classes.csv": "sourcedId orgSourcedId title sessionSourcedIds courseSourcedId",
    "enrollments.csv": "classSourcedId userSourcedId role",
    "academicSessions.csv": "sourcedId title type schoolYear startDate endDate",
    "courses.csv": "sourcedId orgSourcedId title code schoolYearSourcedId subject grade",
    "relationships.csv": "userSourcedId relationshipUserSourcedId relationshipRole",
    "userFlags.csv": "userSourcedId flag",
    "demographics.csv": "userSourcedId sex birthDate birthCity birthState birthCountry "
    "ethnicityCodes raceCodes",
}
"""The files and all columns that the samples have."""
REQUIRED = {
    "orgs.csv": "sourcedId name type",
    "users.csv": "sourcedId username givenName familyName",
    "roles.csv": "userSourcedId orgSourcedId role",
    "classes.csv": "sourcedId orgSourcedId title",
    "enrollments.csv": "classSourcedId userSourcedId role",
    "academicSessions.csv": "sourcedId title type schoolYear startDate endDate",
    "courses.csv": "sourcedId orgSourcedId title",
    "relationships.csv": "userSourcedId relationshipUserSourcedId relationshipRole",
    "userFlags.csv": "userSourcedId flag",
    "demographics.csv": "userSourcedId",
}
KEYS = {
    "orgs.csv": "sourcedId",
    "users.csv": "sourcedId",
    "roles.csv": "userSourcedId orgSourcedId role sessionSourcedId grade",
    "classes.csv": "sourcedId",
    "enrollments.csv": "classSourcedId userSourcedId role",
    "academicSessions.csv": "sourcedId",
    "courses.csv": "sourcedId",
    "relationships.csv": "userSourcedId relationshipUserSourcedId",
    "userFlags.csv": "userSourcedId flag",
    "demographics.csv": "userSourcedId",
}
REFERENCES = {
    ("orgs.csv", "parentSourcedId"): "orgs.csv",
    ("roles.csv", "userSourcedId"): "users.csv",
    ("roles.csv", "orgSourcedId"): "orgs.csv",
    ("roles.csv", "sessionSourcedId"): "academicSessions.csv",
    ("classes.csv", "orgSourcedId"): "orgs.csv",
    ("classes.csv", "sessionSourcedIds"): "academicSessions.csv",
    ("classes.csv", "courseSourcedId"): "courses.csv",
    ("enrollments.csv", "classSourcedId"): "classes.csv",
    ("enrollments.csv", "userSourcedId"): "users.csv",
    ("courses.csv", "orgSourcedId"): "orgs.csv",
    ("courses.csv", "schoolYearSourcedId"): "academicSessions.csv",
    ("relationships.csv", "userSourcedId"): "users.csv",
    ("relationships.csv", "relationshipUserSourcedId"): "users.csv",
    ("userFlags.csv", "userSourcedId"): "users.csv",
    ("demographics.csv", "userSourcedId"): "users.csv",
}
ROLES = (
    "principal chair professor researcher adjunct affiliate occupationalTherapist "
    "physicalTherapist speechTherapist visionTherapist paraprofessional specialServices advisor "
    "proctor nurse officeStaff lecturer itAdmin administrator teacher faculty staff "
    "teacherAssistant assistant instructor substitute coach alumni student other"
)
GRADES = (
    "it pr pk tk kg 01 02 03 04 05 06 07 08 09 10 11 12 13 14 ps ug other ps1 ps2 ps3 ps4 "
    "undergraduate graduate adultEducation"
)
VALUES = {
    ("orgs.csv", "type"): "school ministryOfEducation localAuthority department university region "
    "district college division local campus province state adultEducation researchCenter national "
    "municipality program departmentOfEducation academicTrust",
    ("roles.csv", "role"): ROLES,
    ("roles.csv", "grade"): GRADES,
    ("roles.csv", "isPrimary"): "true false",
    ("courses.csv", "grade"): GRADES,
    ("enrollments.csv", "role"): ROLES,
    ("academicSessions.csv", "type"): "schoolYear semester term gradingPeriod quarter",
    ("relationships.csv", "relationshipRole"): "parent guardian relative other doctor aide",
}
"""The default list of values, as far as the files here use it."""
EMAIL = re.compile(r"[\w!#$%&'*+/=?^`{|}~.-]+@[\w-]+(\.[\w-]+)+", re.ASCII)


class Refused(AssertionError):  # noqa: N818 - the word of SDS
    """Something that SDS would stop at, leave out, or warn of."""


def taken(folder: Path, to: Path) -> bool:
    """Copy the files of a set to another folder; return whether they match the set's own account.

    A script may copy the set like this while the files are being renamed.
    """
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    try:
        for path in folder.glob("*.csv"):
            shutil.copyfile(path, to / path.name)
        account = json.loads((folder / ".schoolbus" / "set.json").read_bytes())["files"]
    except FileNotFoundError:
        return False
    sums = {path.name: sha256(path.read_bytes()).hexdigest() for path in to.iterdir()}
    return sums == {name: file["sha256"] for name, file in account.items()}


def load(folder: Path) -> State:
    """Return the state after a sync of this folder's set; raise `Refused` if SDS would."""
    state: State = {}
    for name in FILES:
        path = folder / name
        if path.exists():
            state[name] = _read(name, path.read_bytes())
        elif name in ("orgs.csv", "users.csv", "roles.csv"):
            raise Refused(f"unable to find {name}")
    for name in ("orgs.csv", "users.csv", "roles.csv"):
        _check(bool(state[name]), f"{name} has no records")
    strange = {path.name for path in folder.glob("*")} - FILES.keys() - {".schoolbus"}
    _check(not strange, f"files that are not SDS's: {sorted(strange)}")
    for (name, column), target in REFERENCES.items():
        for row in state.get(name, {}).values():
            for one in filter(None, row.get(column, "").split(",")):
                _check((one,) in state.get(target, {}), f"{name}, {column}: {one} not in {target}")
    for row in state.get("relationships.csv", {}).values():
        person = state["users.csv"][row["relationshipUserSourcedId"],]
        _check(bool(person["email"]), "relationships.csv: a contact without an email address")
    return state


def rosters(state: State) -> set[tuple[str, str, str]]:
    """Return the rosters: (class, user, role)."""
    return {(klass, user, role) for klass, user, role in state.get("enrollments.csv", {})}


def _read(name: str, data: bytes) -> dict[tuple[str, ...], Row]:
    text = data.decode("utf-8")
    _check(not text.startswith("\N{BYTE ORDER MARK}"), f"{name}: begins with a byte order mark")
    lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    _check(bool(lines), f"{name}: no header")
    header = lines[0]
    _check(len(set(header)) == len(header), f"{name}: a column twice")
    _check(set(header) <= set(FILES[name].split()), f"{name}: columns that are not SDS's: {header}")
    missing = set(REQUIRED[name].split()) - set(header)
    _check(not missing, f"{name}: no column {sorted(missing)}")
    rows: dict[tuple[str, ...], Row] = {}
    for number, cells in enumerate(lines[1:], start=2):
        where = f"{name}, row {number}"
        _check(len(cells) == len(header), f"{where}: wrong length")
        row = dict(zip(header, cells, strict=True))
        _check_row(name, where, row)
        key = tuple(row.get(column, "") for column in KEYS[name].split())
        _check(key not in rows, f"{where}: more than one record of {key}")
        rows[key] = row
    return rows


def _check_row(name: str, where: str, row: Row) -> None:
    for column in REQUIRED[name].split():
        _check(bool(row[column].strip()), f"{where}: no {column}")
    for column, value in row.items():
        _check(len(value.splitlines()) <= 1, f"{where}: a line break in {column}")
        allowed = VALUES.get((name, column), "").lower().split()
        known = not (allowed and value) or value.lower() in allowed
        _check(known, f"{where}: {column} is {value}")
        if column.endswith("Date") and value:
            date.fromisoformat(value)
    if row.get("email"):
        _check(bool(EMAIL.fullmatch(row["email"])), f"{where}: not an email address")
    if row.get("schoolYear"):
        _check(bool(re.fullmatch(r"\d{4}", row["schoolYear"])), f"{where}: not a school year")


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Refused(otherwise)
