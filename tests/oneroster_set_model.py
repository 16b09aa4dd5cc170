"""A small model of an importer of OneRoster CSV 1.1 and 1.2 that checks a zip strictly, for tests.

`load(path)` returns for each file its rows by `sourcedId`. Where a strict importer would refuse the
zip, it raises `Refused`.

Sources: 1EdTech "OneRoster: CSV Tables" 1.1.1 and "OneRoster: CSV Binding" 1.2.1, whose tables are
repeated here: independent of `consumers.oneroster_csv` on purpose.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from pathlib import Path

Row = dict[str, str]
State = dict[str, dict[str, Row]]

BEGIN = "sourcedId status dateLastModified "
SAME = {
    "academicSessions": "title! type! startDate! endDate! parentSourcedId schoolYear!",
    "orgs": "name! type! identifier parentSourcedId",
    "courses": "schoolYearSourcedId title! courseCode grades orgSourcedId! subjects subjectCodes",
    "classes": "title! grades courseSourcedId! classCode classType! location schoolSourcedId! "
    "termSourcedIds! subjects subjectCodes periods",
    "enrollments": "classSourcedId! schoolSourcedId! userSourcedId! role! primary beginDate "
    "endDate",
    "demographics": "birthDate sex americanIndianOrAlaskaNative asian blackOrAfricanAmerican "
    "nativeHawaiianOrOtherPacificIslander white demographicRaceTwoOrMoreRaces "
    "hispanicOrLatinoEthnicity countryOfBirthCode stateOfBirthAbbreviation cityOfBirth "
    "publicSchoolResidenceStatus",
}
COLUMNS = {
    "1.1": SAME
    | {
        "users": "enabledUser! orgSourcedIds! role! username! userIds givenName! familyName! "
        "middleName identifier email sms phone agentSourcedIds grades password",
        "lineItems": "title! description assignDate! dueDate! classSourcedId! categorySourcedId! "
        "gradingPeriodSourcedId! resultValueMin! resultValueMax!",
        "results": "lineItemSourcedId! studentSourcedId! scoreStatus! score! scoreDate! comment",
    },
    "1.2": SAME
    | {
        "users": "enabledUser! username! userIds givenName! familyName! middleName identifier "
        "email sms phone agentSourcedIds grades password userMasterIdentifier preferredGivenName "
        "preferredMiddleName preferredFamilyName primaryOrgSourcedId pronouns",
        "roles": "userSourcedId! roleType! role! beginDate endDate orgSourcedId! "
        "userProfileSourcedId",
        "lineItems": "title! description assignDate! dueDate! classSourcedId! categorySourcedId! "
        "academicSessionSourcedId resultValueMin resultValueMax schoolSourcedId!",
        "results": "lineItemSourcedId! studentSourcedId! scoreStatus! score scoreDate! comment "
        "textScore classSourcedId inProgress incomplete late missing",
    },
}
"""The columns of each file after the first three; ! marks a required one."""
MANIFEST = {
    "1.1": "academicSessions categories classes classResources courses courseResources "
    "demographics enrollments lineItems orgs resources results users",
    "1.2": "academicSessions categories classes classResources courses courseResources "
    "demographics enrollments lineItemLearningObjectiveIds lineItems lineItemScoreScales orgs "
    "resources resultLearningObjectiveIds results resultScoreScales roles scoreScales "
    "userProfiles userResources users",
}
VALUES = {
    "academicSessions.type": "gradingPeriod semester schoolYear term",
    "orgs.type": "department school district local state national",
    "classes.classType": "homeroom scheduled",
    "enrollments.role": "administrator aide proctor student teacher",
    "roles.roleType": "primary secondary",
    "roles.role": "aide counselor districtAdministrator guardian parent principal proctor relative "
    "siteAdministrator student systemAdministrator teacher",
    "users.role": "administrator aide guardian parent proctor relative student teacher",
    "demographics.sex": "male female other unspecified",
    "results.scoreStatus": "exempt|fully graded|not submitted|partially graded|submitted|late",
}
REFERENCES = {
    "academicSessions.parentSourcedId": "academicSessions",
    "orgs.parentSourcedId": "orgs",
    "courses.schoolYearSourcedId": "academicSessions",
    "courses.orgSourcedId": "orgs",
    "classes.courseSourcedId": "courses",
    "classes.schoolSourcedId": "orgs",
    "classes.termSourcedIds": "academicSessions",
    "users.orgSourcedIds": "orgs",
    "users.agentSourcedIds": "users",
    "users.primaryOrgSourcedId": "orgs",
    "roles.userSourcedId": "users",
    "roles.orgSourcedId": "orgs",
    "demographics.sourcedId": "users",
    "enrollments.classSourcedId": "classes",
    "enrollments.schoolSourcedId": "orgs",
    "enrollments.userSourcedId": "users",
    "lineItems.classSourcedId": "classes",
    "lineItems.gradingPeriodSourcedId": "academicSessions",
    "lineItems.academicSessionSourcedId": "academicSessions",
    "lineItems.schoolSourcedId": "orgs",
    "results.lineItemSourcedId": "lineItems",
    "results.studentSourcedId": "users",
    "results.classSourcedId": "classes",
}


class Refused(AssertionError):  # noqa: N818 - as an importer says it
    """Something for which an importer refuses the zip."""


def load(path: Path, *, required: bool = False) -> State:
    """Return the rows of a zip by file and `sourcedId`; raise `Refused` if it is not valid.

    required: also refuse an empty cell in a required column.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        _check(names[:1] == ["manifest.csv"] and len(set(names)) == len(names), f"files: {names}")
        data = {name.removesuffix(".csv"): archive.read(name) for name in names}
    version, modes = _manifest(data.pop("manifest"))
    filled = {name for name, mode in modes.items() if mode == "bulk"}
    _check(filled == data.keys(), f"bulk are {sorted(filled)}, in the zip are {sorted(data)}")
    _check([n for n in modes if n in data] == list(data), f"order of the files: {list(data)}")
    state = {name: _rows(version, name, content, required) for name, content in data.items()}
    for place, target in REFERENCES.items():
        name, _, column = place.partition(".")
        for row in state.get(name, {}).values():
            for one in filter(None, row.get(column, "").split(",")):
                if target in state:
                    _check(one in state[target], f"{place}: an id that is not in {target}")
    return state


def _manifest(content: bytes) -> tuple[str, dict[str, str]]:
    lines = list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))
    _check(lines[0] == ["propertyName", "value"], f"manifest.csv begins with {lines[0]}")
    properties = dict(lines[1:])  # type: ignore[arg-type]
    _check(len(properties) == len(lines) - 1, "manifest.csv has a property twice")
    _check(properties["manifest.version"] == "1.0", "manifest.version")
    version = properties["oneroster.version"]
    modes = {n[5:]: value for n, value in properties.items() if n.startswith("file.")}
    _check(list(modes) == MANIFEST[version].split(), f"manifest.csv names {list(modes)}")
    return version, modes


def _rows(version: str, name: str, content: bytes, required: bool) -> dict[str, Row]:
    text = content.decode("utf-8")
    _check(not text.startswith("\N{BYTE ORDER MARK}"), f"{name}: a byte order mark")
    _check(text.count("\n") == text.count("\r\n") == text.count("\r"), f"{name}: line ends")
    header, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    described = (BEGIN + COLUMNS[version][name]).split()
    _check(header == [column.rstrip("!") for column in described], f"{name}: {header}")
    _check(bool(lines), f"{name}: no rows")
    _check(len(lines) == text.count("\r\n") - 1, f"{name}: a line break in a value")
    found = {}
    for number, cells in enumerate(lines, 2):
        _check(len(cells) == len(header), f"{name} line {number}: {len(cells)} cells")
        row = dict(zip(header, cells, strict=True))
        _check(row["sourcedId"] not in found, f"{name} line {number}: sourcedId twice")
        found[row["sourcedId"]] = row
        _check(bool(row["sourcedId"]), f"{name} line {number}: no sourcedId")
        _check(not row["status"] + row["dateLastModified"], f"{name} line {number}: not blank")
        for column, value in row.items():
            _check_value(f"{name}.{column}", value, version)
            if required and f"{column}!" in described:
                _check(bool(value), f"{name}.{column} line {number}: empty")
    return found


def _check_value(place: str, value: str, version: str) -> None:
    column = place.partition(".")[2]
    if not value:
        return
    if place in VALUES:
        listed = VALUES[place].split("|" if "|" in VALUES[place] else None)
        other = "ext:other" if version == "1.2" else "other"
        _check(value in [*listed, other], f"{place}: {value}")
    if column.endswith("Date"):
        _check(bool(re.fullmatch(r"\d{4}-\d\d-\d\d", value)), f"{place}: not a date")
    if column in ("enabledUser", "primary", "white"):
        _check(value in ("true", "false"), f"{place}: not a boolean")
    if column == "schoolYear":
        _check(bool(re.fullmatch(r"\d{4}", value)), f"{place}: not a year")


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Refused(otherwise)
