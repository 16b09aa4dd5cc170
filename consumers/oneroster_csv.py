"""OneRoster CSV: records of the standard as a complete OneRoster 1.1 or 1.2 set in a zip.

Sources: 1EdTech "OneRoster: CSV Tables" 1.1.1 (2023) and "OneRoster: CSV Binding" 1.2.1 (2023),
both at imsglobal.org. They require:

* One zip with all files at its top. manifest.csv names every file of the version as `bulk`, `delta`
  or `absent`. A file without rows is not permitted, so the file of a kind without records is
  `absent`.
* UTF-8, RFC 4180, no line breaks in values. Names and values are case-sensitive. Each file has all
  columns of its table, in the order of the table.
* In a bulk file, `status` and `dateLastModified` are empty: a row is an active record. A record
  that has no row is no longer active.
* A list is one value, its items separated by commas. Dates are `YYYY-MM-DD`, booleans `true` and
  `false`.

The mapping, for both versions unless one is named:

    org -> orgs.csv                            demographics -> demographics.csv
    academicSession -> academicSessions.csv    enrollment -> enrollments.csv
    course -> courses.csv                      lineItem -> lineItems.csv
    class -> classes.csv                       result -> results.csv
    student, staff, guardian -> users.csv; in 1.2 also roles.csv, a row for each organization

Attendance and opt-outs have no file in OneRoster. They are not delivered. Passwords are not in the
standard. Nor are resources, categories, score scales and user profiles: their files are `absent`,
and a line item keeps the id of its category.

A reference to a record that is not in the set is removed: an optional one becomes empty, and a
required one leaves out its row. An id stays if its whole file is absent, because the extract of the
district did not have that file either. A value that a record does not have becomes an empty cell,
even in a required column, because an agreement may share fewer fields than OneRoster requires.

Roles and the values of other lists are written as the version spells them. A role that the version
does not have becomes the nearest role that it has. Another value that is not in its list is written
as it is, except that 1.2 has the extension `ext:other` for `other`.

When the source `oneroster-csv` reads a set, it gets the records that were written, with the same
values in all columns of the version. The exceptions: `dateLastModified`; line breaks and other
control characters, which become spaces; the references and roles named above; and, in 1.2, the
order of a person's organizations, of which the first is read as the primary one if the record names
none. tests/unit/test_oneroster_round_trip.py holds this.
"""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from bus.delivery import (
    AgreementOver,
    Batch,
    Part,
    Position,
    Redelivery,
    Refusal,
    Row,
    Table,
    Terms,
)
from bus.errors import BusError, Stop
from bus.product import Product
from bus.standard import Record
from consumers.delivery.full_set import Archive, FullSet
from consumers.delivery.set_file import Reference

REVISION = "1"
"""The version of the translation. Increase it when the same record gives other rows than before."""
ZIP = "oneroster.zip"
Version = Literal["1.1", "1.2"]

SYSTEM = "Schoolbus"
"""`source.systemName` in manifest.csv."""
FILES: Mapping[Version, Sequence[str]] = {
    "1.1": (
        "academicSessions categories classes classResources courses courseResources demographics "
        "enrollments lineItems orgs resources results users"
    ).split(),
    "1.2": (
        "academicSessions categories classes classResources courses courseResources demographics "
        "enrollments lineItemLearningObjectiveIds lineItems lineItemScoreScales orgs resources "
        "resultLearningObjectiveIds results resultScoreScales roles scoreScales userProfiles "
        "userResources users"
    ).split(),
}
"""The files of each version without .csv, in the order of manifest.csv."""

COMMON = ("sourcedId", "status", "dateLastModified")
ORGS = (*COMMON, "name", "type", "identifier", "parentSourcedId")
SESSIONS = (
    *COMMON,
    *("title", "type", "startDate", "endDate", "parentSourcedId", "schoolYear"),
)
COURSES = (
    *COMMON,
    *("schoolYearSourcedId", "title", "courseCode", "grades", "orgSourcedId", "subjects"),
    "subjectCodes",
)
CLASSES = (
    *COMMON,
    *("title", "grades", "courseSourcedId", "classCode", "classType", "location"),
    *("schoolSourcedId", "termSourcedIds", "subjects", "subjectCodes", "periods"),
)
PERSON = ("userIds", "givenName", "familyName", "middleName", "identifier", "email", "sms", "phone")
USERS_11 = (
    *COMMON,
    *("enabledUser", "orgSourcedIds", "role", "username", *PERSON),
    *("agentSourcedIds", "grades", "password"),
)
USERS_12 = (
    *COMMON,
    *("enabledUser", "username", *PERSON, "agentSourcedIds", "grades", "password"),
    *("userMasterIdentifier", "preferredGivenName", "preferredMiddleName", "preferredFamilyName"),
    *("primaryOrgSourcedId", "pronouns"),
)
ROLES = (
    *COMMON,
    *("userSourcedId", "roleType", "role", "beginDate", "endDate", "orgSourcedId"),
    "userProfileSourcedId",
)
DEMOGRAPHICS = (
    *COMMON,
    *("birthDate", "sex", "americanIndianOrAlaskaNative", "asian", "blackOrAfricanAmerican"),
    *("nativeHawaiianOrOtherPacificIslander", "white", "demographicRaceTwoOrMoreRaces"),
    *("hispanicOrLatinoEthnicity", "countryOfBirthCode", "stateOfBirthAbbreviation"),
    *("cityOfBirth", "publicSchoolResidenceStatus"),
)
ENROLLMENTS = (
    *COMMON,
    *("classSourcedId", "schoolSourcedId", "userSourcedId", "role", "primary", "beginDate"),
    "endDate",
)
LINE_ITEM = ("title", "description", "assignDate", "dueDate", "classSourcedId", "categorySourcedId")
LINE_ITEMS_11 = (*COMMON, *LINE_ITEM, "gradingPeriodSourcedId", "resultValueMin", "resultValueMax")
LINE_ITEMS_12 = (
    *COMMON,
    *LINE_ITEM,
    *("academicSessionSourcedId", "resultValueMin", "resultValueMax", "schoolSourcedId"),
)
RESULTS_11 = (
    *COMMON,
    *("lineItemSourcedId", "studentSourcedId", "scoreStatus", "score", "scoreDate", "comment"),
)
RESULTS_12 = (
    *RESULTS_11,
    *("textScore", "classSourcedId", "inProgress", "incomplete", "late", "missing"),
)
COLUMNS: Mapping[Version, Mapping[str, Sequence[str]]] = {
    "1.1": {
        "orgs.csv": ORGS,
        "academicSessions.csv": SESSIONS,
        "courses.csv": COURSES,
        "classes.csv": CLASSES,
        "users.csv": USERS_11,
        "demographics.csv": DEMOGRAPHICS,
        "enrollments.csv": ENROLLMENTS,
        "lineItems.csv": LINE_ITEMS_11,
        "results.csv": RESULTS_11,
    },
    "1.2": {
        "orgs.csv": ORGS,
        "academicSessions.csv": SESSIONS,
        "courses.csv": COURSES,
        "classes.csv": CLASSES,
        "users.csv": USERS_12,
        "roles.csv": ROLES,
        "demographics.csv": DEMOGRAPHICS,
        "enrollments.csv": ENROLLMENTS,
        "lineItems.csv": LINE_ITEMS_12,
        "results.csv": RESULTS_12,
    },
}
"""The columns of each file, in the order of the version's tables."""

FIELDS: Mapping[str, str] = {
    "academicSessionSourcedId": "gradingPeriodSourcedId",
    "preferredGivenName": "preferredFirstName",
    "preferredFamilyName": "preferredLastName",
}
"""The field of the standard for a column that has another name."""
EMPTY = frozenset("status dateLastModified password inProgress incomplete late missing".split())
"""Columns that are always empty: the standard has no value for them, or only a delta uses them."""

ROLES_11: Mapping[str, str] = {
    "counselor": "aide",
    "districtAdministrator": "administrator",
    "principal": "administrator",
    "siteAdministrator": "administrator",
    "systemAdministrator": "administrator",
}
"""The nearest role in OneRoster 1.1 for a role that only 1.2 has. An aide is a person who helps and
has none of the other roles."""
ROLES_12: Mapping[str, str] = {"administrator": "siteAdministrator"}
"""The nearest role in OneRoster 1.2 for a role that only 1.1 has."""
OTHER_ROLES: Mapping[str, str] = {"staff": "aide", "guardian": "relative"}
"""The role of a person whose role is in neither version: the role with the fewest rights."""
SCORE_STATUSES: Mapping[str, str] = {
    "fullyGraded": "fully graded",
    "notSubmitted": "not submitted",
    "partiallyGraded": "partially graded",
}
LISTED = frozenset(
    {
        ("orgs.csv", "type"),
        ("academicSessions.csv", "type"),
        ("classes.csv", "classType"),
        ("enrollments.csv", "role"),
        ("results.csv", "scoreStatus"),
    }
)
"""Columns in which `other` is an extension of OneRoster 1.2."""
ROLE_IDS = uuid.UUID("5bd4b8f2-6a4f-4f0c-9a0e-0a51c5a2b9d7")
"""The namespace of the ids of roles."""


def text(value: Any) -> str:
    """Return a value of the standard as the text of a cell; "" for None.

    A comma within an item of a list becomes a space, because it would make two items.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(item.replace(",", " ") for item in value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _row(columns: Sequence[str]) -> Callable[[Any], list[Row]]:
    """Return a function that makes the row of an active record."""
    fields = [(name, "" if name in EMPTY else FIELDS.get(name, name)) for name in columns]

    def row(record: Record) -> list[Row]:
        if record["status"] != "active":
            return []
        get = record.get
        return [{name: text(get(field)) if field else "" for name, field in fields}]

    return row


def result(record: Any) -> list[Row]:
    """Return the row of a result. OneRoster spells the status with spaces."""
    rows = _RESULT(record)
    for row in rows:
        row["scoreStatus"] = SCORE_STATUSES.get(row["scoreStatus"], row["scoreStatus"])
    return rows


def _user(kind: str) -> Callable[[Any], list[Row]]:
    def user(record: Any) -> list[Row]:
        rows = _USER(record)
        for row in rows:
            role = _role(kind, record)
            row["role"] = ROLES_11.get(role, role)
        return rows

    return user


def _user_roles(kind: str) -> Callable[[Any], list[Row]]:
    def roles(record: Any) -> list[Row]:
        """Return a row for each organization; without an organization, one row with the role."""
        if record["status"] != "active":
            return []
        id_ = record["sourcedId"]
        role = _role(kind, record)
        blank = dict.fromkeys(ROLES, "")
        return [
            blank
            | {
                "sourcedId": str(uuid.uuid5(ROLE_IDS, f"{id_}\n{org}")),
                "userSourcedId": id_,
                "roleType": "primary",
                "role": ROLES_12.get(role, role),
                "orgSourcedId": org,
            }
            for org in dict.fromkeys(record.get("orgSourcedIds") or [""])
        ]

    return roles


def _role(kind: str, record: Record) -> str:
    """Return a person's role; "" if the record does not have it."""
    if kind == "student":
        return "student"
    role = record.get("role") or ""
    return OTHER_ROLES[kind] if role == "other" else role


def _union(name: str) -> tuple[str, ...]:
    """Return the columns that a file has in one of the versions."""
    return tuple(dict.fromkeys(column for one in COLUMNS.values() for column in one.get(name, ())))


_USER = _row(_union("users.csv"))
_RESULT = _row(_union("results.csv"))
PEOPLE = ("student", "staff", "guardian")
TRANSLATIONS: Mapping[str, Mapping[str, Callable[[Any], list[Row]]]] = {
    "orgs.csv": {"org": _row(ORGS)},
    "academicSessions.csv": {"academicSession": _row(SESSIONS)},
    "courses.csv": {"course": _row(COURSES)},
    "classes.csv": {"class": _row(CLASSES)},
    "users.csv": {kind: _user(kind) for kind in PEOPLE},
    "roles.csv": {kind: _user_roles(kind) for kind in PEOPLE},
    "demographics.csv": {"demographics": _row(DEMOGRAPHICS)},
    "enrollments.csv": {"enrollment": _row(ENROLLMENTS)},
    "lineItems.csv": {"lineItem": _row(_union("lineItems.csv"))},
    "results.csv": {"result": result},
}
TABLES = tuple(
    Table(
        name,
        _union(name),
        rows,
        ("userSourcedId", "orgSourcedId") if name == "roles.csv" else ("sourcedId",),
    )
    for name, rows in TRANSLATIONS.items()
)
"""The tables with the columns of both versions. A set has the columns of one version."""


def _references(version: Version) -> dict[str, Sequence[Reference]]:
    def optional(column: str, to: str, *, many: bool = False) -> Reference:
        return Reference(column, to, required=False, many=many, lenient=True)

    def required(column: str, to: str, kind: str = "") -> Reference:
        return Reference(column, to, kind=kind, lenient=True)

    users = [optional("agentSourcedIds", "users.csv", many=True)]
    line_items = [required("classSourcedId", "classes.csv")]
    results = [
        required("lineItemSourcedId", "lineItems.csv"),
        required("studentSourcedId", "users.csv", "student"),
    ]
    found: dict[str, Sequence[Reference]] = {
        "orgs.csv": [optional("parentSourcedId", "orgs.csv")],
        "academicSessions.csv": [optional("parentSourcedId", "academicSessions.csv")],
        "courses.csv": [
            optional("schoolYearSourcedId", "academicSessions.csv"),
            optional("orgSourcedId", "orgs.csv"),
        ],
        "classes.csv": [
            required("courseSourcedId", "courses.csv"),
            required("schoolSourcedId", "orgs.csv"),
            optional("termSourcedIds", "academicSessions.csv", many=True),
        ],
        "users.csv": users,
        "demographics.csv": [required("sourcedId", "users.csv", "student")],
        "enrollments.csv": [
            required("classSourcedId", "classes.csv"),
            required("schoolSourcedId", "orgs.csv"),
            required("userSourcedId", "users.csv"),
        ],
        "lineItems.csv": line_items,
        "results.csv": results,
    }
    if version == "1.1":
        users.append(optional("orgSourcedIds", "orgs.csv", many=True))
        line_items.append(optional("gradingPeriodSourcedId", "academicSessions.csv"))
    else:
        users.append(optional("primaryOrgSourcedId", "orgs.csv"))
        found["roles.csv"] = [
            required("userSourcedId", "users.csv"),
            required("orgSourcedId", "orgs.csv"),
        ]
        line_items += [
            optional("academicSessionSourcedId", "academicSessions.csv"),
            optional("schoolSourcedId", "orgs.csv"),
        ]
        results.append(optional("classSourcedId", "classes.csv"))
    return found


def manifest(version: Version, files: Collection[str]) -> tuple[str, bytes]:
    """Return the name and the content of manifest.csv.

    files: the names of the files in the set; all others are absent.
    """
    modes = {name: "bulk" if f"{name}.csv" in files else "absent" for name in FILES[version]}
    lines = [
        ("propertyName", "value"),
        ("manifest.version", "1.0"),
        ("oneroster.version", version),
        *((f"file.{name}", mode) for name, mode in modes.items()),
        ("source.systemName", SYSTEM),
    ]
    file = io.StringIO()
    csv.writer(file).writerows(lines)  # RFC 4180: CRLF
    return "manifest.csv", file.getvalue().encode()


class OneRosterSet:
    """The delivery of a set of one version: a `FullSet` with that version's columns and values.

    terms: what may be delivered to a vendor; None without an agreement.
    """

    def __init__(self, out: Path, version: Version, terms: Terms | None = None) -> None:
        columns = COLUMNS[version]
        self._terms = terms
        self._tables = {
            table.name: Table(table.name, tuple(columns[table.name]), table.rows, table.key)
            for table in TABLES
            if table.name in columns
        }
        # In 1.2, these columns need a prefix for values that the standard does not list.
        self._extended = dict(LISTED) if version == "1.2" else {}
        # The zip must not keep what an agreement no longer shares, so the set is rebuilt.
        under = f"/{terms.agreement}/{terms.edition}" if terms else ""
        self._set = FullSet(
            out,
            list(self._tables.values()),
            _references(version),
            ends={},
            today=lambda: datetime.now(UTC).date(),
            revision=f"{REVISION}/{version}{under}",
            by_partition=terms is not None,
            archive=Archive(
                ZIP,
                [f"{name}.csv" for name in FILES[version] if f"{name}.csv" in columns],
                lambda files: manifest(version, files),
            ),
        )

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Take the partitions, as `FullSet` does."""
        return self._set.resume(cluster, partitions)

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Keep the batch's rows, as `FullSet` does."""
        return self._set.deliver(self._of_version(batch))

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]:
        """Replace the rows of the batch's records, as `FullSet` does."""
        return self._set.redeliver(self._of_version(batch), replay, seen)

    def settle(self) -> None:
        """Write the zip if something has changed, as `FullSet` does."""
        self._set.settle()

    def release(self, partitions: Iterable[Position]) -> None:
        """Give the partitions up."""
        self._set.release(partitions)

    def close(self) -> None:
        """Close the state. Delete the zip if the agreement is over or was changed."""
        if self._terms:
            try:
                self._terms.permission.check()
            except AgreementOver:
                self._set.withdraw()
            except BusError:  # the state is unknown; the next start finds out
                pass
        self._set.close()

    def _of_version(self, batch: Batch) -> Batch:
        """Return the batch with the tables, columns and values of this version."""
        return Batch(
            [self._part(part) for part in batch.parts if part.table.name in self._tables],
            batch.offsets,
        )

    def _part(self, part: Part) -> Part:
        """Return the part with the columns and values of this version."""
        table = self._tables[part.table.name]
        columns = table.columns
        lists = cast("list[list[Row]]", part.rows)
        extended = self._extended.get(table.name, "")
        others = extended and any(row[extended] == "other" for rows in lists for row in rows)
        if columns == part.table.columns and not others:
            return part
        made = [[{column: row[column] for column in columns} for row in rows] for rows in lists]
        if others:
            for row in (row for rows in made for row in rows):
                if row[extended] == "other":
                    row[extended] = "ext:other"
        return Part(table, part.kind, made, part.records, part.messages)  # type: ignore[arg-type]


class Settings(BaseModel):
    """The settings of the delivery.

    out:     a folder for the zip; created if it does not exist.
    version: the version of OneRoster.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path | None = None
    version: Version = "1.1"
    _terms: Terms | None = None

    @model_validator(mode="after")
    def _under_an_agreement(self, info: ValidationInfo) -> Self:
        self._terms = (info.context or {}).get("terms")
        return self

    @property
    def terms(self) -> Terms | None:
        """What may be delivered to a vendor; None without an agreement."""
        return self._terms


def open_delivery(settings: Settings) -> Redelivery:
    """Open the delivery to the folder; raise `Stop` if no folder is set."""
    if settings.out is None:
        raise Stop("oneroster-csv does not know where to deliver: name a folder (--out DIR)")
    return OneRosterSet(settings.out, settings.version, settings.terms)


PRODUCT = Product(
    name="oneroster-csv",
    tables=TABLES,
    settings=Settings,
    open=open_delivery,
    batch_records=50_000,
    batch_seconds=5.0,
)
