"""Microsoft School Data Sync: the standard's records as the SDS v2.1 CSV set.

Sources, all at learn.microsoft.com/schooldatasync: "SDS V2.1 CSV file format" (sds-v2.1-csv-file-
format), "Default list of values" (default-list-of-values), "Validation rules and descriptions"
(validation-rules-and-descriptions); samples and Microsoft's own flow from OneRoster to this format
in OfficeDev/O365-EDU-Tools, "CSV Samples/SDS v2.1" and "CustomSolutions/SDS_ADF_ETL_Integrations/
OneRoster". What they ask for:

* orgs, users and roles are required, classes and enrollments too where classes are managed. The
  same files must come each time, changed or not: what is missing counts as no longer active ("SDS
  V2.1 CSV file format", Important). So a whole set is written, and a withdrawn record has no row.
* UTF-8, RFC 4180, no line breaks in values; names of files and columns are case-sensitive. A column
  that is not required and not used need not be there.
* Ids are case-sensitive and unique in their file. An id that is referred to must be in the set.
* Types, roles and grades are those of the default list; case does not matter, and a missing zero
  in "7" does not either. A record with a wrong required value is left out by SDS, a wrong optional
  one is emptied ("Validation rules and descriptions"); neither is sent in the first place.
* Dates are ISO 8601; an email address is that of RFC 5322, 3.4.1.
* A contact (in relationships.csv) must have both names and an email address.

What is what:

    org -> orgs.csv                          class -> classes.csv
    academicSession -> academicSessions.csv  course -> courses.csv
    student, staff -> users.csv and, for each of their organisations, roles.csv
    guardian -> users.csv, relationships.csv; without an email address not at all
    enrollment -> enrollments.csv

Not told, because SDS does its work without: demographics and flags, passwords, phone numbers; the
subject of a course, for which SDS has codes of its own.

Who has no role and no relationship is not in the set: a guardian whose last student has left, say.
Several enrollments of one person in one class with one role are one row, as long as one of them
stands: that is the rule of `bus.product.Equivalent`, of which SDS takes the last day alone.

A username is one person's. Where the system gives it to two, as parents who share an address, the
first by sourcedId keeps it and the other's is the sourcedId. An email address of two students or
staff is the first one's too; guardians keep theirs, as they are written to.

Who may not sign in (enabledUser false) is not in the set; SDS has no other word for it. That does
not go for guardians, who do not sign in but are written to. An enrollment is in the set until its
last day in the district's time zone, and from the moment when it is known, as classes are made
ready before they begin.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict

from bus.delivery import Redelivery, Row, Table
from bus.errors import Stop
from bus.product import Product
from bus.settings import TimeZone
from bus.standard.records import (
    AcademicSession,
    Class,
    Course,
    Enrollment,
    Guardian,
    Org,
    Staff,
    Student,
)
from consumers.delivery.full_set import FullSet
from consumers.delivery.set_file import Reference, Unique

REVISION = "1"
"""To be raised with every change of what rows a record gives."""
ORG_TYPES = {
    "department": "department",
    "school": "school",
    "district": "district",
    "local": "local",
    "state": "state",
    "national": "national",
    "other": "division",
}
"""The list has no word for any other, and without its organisation a class could not be told."""
SESSION_TYPES = {
    "gradingPeriod": "gradingPeriod",
    "semester": "semester",
    "schoolYear": "schoolYear",
    "term": "term",
    "other": "term",
}
STAFF_ROLES = {
    "administrator": "administrator",
    "aide": "paraprofessional",
    "counselor": "advisor",
    "districtAdministrator": "administrator",
    "principal": "principal",
    "proctor": "proctor",
    "siteAdministrator": "administrator",
    "systemAdministrator": "itAdmin",
    "teacher": "teacher",
    "other": "staff",
}
CLASS_ROLES = {
    "administrator": "administrator",
    "aide": "paraprofessional",
    "proctor": "proctor",
    "student": "student",
    "teacher": "teacher",
}
"""SDS's name of an enrollment's role; a role that is not here is not told. CEDS has aides and
paraprofessionals as one (K12 Staff Classification)."""
GRADES = {
    code: code
    for code in ["it", "pr", "pk", "tk", "kg", "ps", "ug", "other"]
    + [f"{number:02}" for number in range(1, 14)]
} | {"ae": "adultEducation"}
"""SDS's code of a CEDS grade level (Entry Grade Level), in small letters."""
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
ADDRESS = re.compile(rf"{ATOM}(\.{ATOM})*@{ATOM}(\.{ATOM})+")


def org(record: Org) -> list[Row]:
    """A school, a department, the district."""
    if record["status"] != "active":
        return []
    return [
        {
            "sourcedId": record["sourcedId"],
            "name": record["name"].strip() or record["sourcedId"],
            "type": ORG_TYPES[record["type"]],
            "parentSourcedId": record["parentSourcedId"] or "",
        }
    ]


def session(record: AcademicSession) -> list[Row]:
    """A session; one whose school year is not known is left out, as SDS asks for it."""
    year = record["schoolYear"]
    if year is None and record["type"] == "schoolYear":
        year = record["endDate"].year
    if record["status"] != "active" or year is None:
        return []
    return [
        {
            "sourcedId": record["sourcedId"],
            "title": record["title"].strip() or record["sourcedId"],
            "type": SESSION_TYPES[record["type"]],
            "schoolYear": str(year),
            "startDate": record["startDate"].isoformat(),
            "endDate": record["endDate"].isoformat(),
        }
    ]


def user(record: Student | Staff) -> list[Row]:
    """A student or someone of the staff, by the names by which they want to be called."""
    if record["status"] != "active" or not record["enabledUser"]:
        return []
    return [_person(record, _address(record["email"]))]


def student(record: Student) -> list[Row]:
    """A student.

    Without a username it is the sourcedId, not the email address: that is often a parent's, and SDS
    would match the student to the account of a parent who is of the staff. A district whose
    students are known by their addresses says in SDS that `email` is what accounts are matched by.
    """
    rows = user(record)
    for row in rows:
        row["username"] = row["username"] or record["sourcedId"]
    return rows


def staff(record: Staff) -> list[Row]:
    """Someone of the staff; without a username known by the email address."""
    rows = user(record)
    for row in rows:
        row["username"] = row["username"] or row["email"] or record["sourcedId"]
    return rows


def contact(record: Guardian) -> list[Row]:
    """A guardian; without both names and an email address SDS cannot take a contact."""
    row = _person(record, _address(record["email"]))
    told = row["email"] and row["givenName"] and row["familyName"]
    if record["status"] != "active" or not told:
        return []
    return [row | {"username": row["username"] or row["email"]}]


def student_roles(record: Student) -> list[Row]:
    """A student's place in each of the organisations, with the grade level."""
    return _roles(record, "student", _grade(record["grades"]))


def staff_roles(record: Staff) -> list[Row]:
    """What someone of the staff does, the same in each of the organisations.

    SDS's grade is the one that a person is in, not those that are taught, so it stays empty.
    """
    return _roles(record, STAFF_ROLES[record["role"]], "")


def course(record: Course) -> list[Row]:
    """A course of the catalogue; one that no organisation offers cannot be told."""
    if record["status"] != "active" or not record["orgSourcedId"]:
        return []
    return [
        {
            "sourcedId": record["sourcedId"],
            "orgSourcedId": record["orgSourcedId"],
            "title": record["title"].strip() or record["sourcedId"],
            "code": record["courseCode"] or "",
            "schoolYearSourcedId": record["schoolYearSourcedId"] or "",
            "grade": _grade(record["grades"]) if len(record["grades"]) == 1 else "",
        }
    ]


def class_(record: Class) -> list[Row]:
    """A class with its sessions, separated by commas."""
    if record["status"] != "active":
        return []
    return [
        {
            "sourcedId": record["sourcedId"],
            "orgSourcedId": record["schoolSourcedId"],
            "title": record["title"].strip() or record["sourcedId"],
            "sessionSourcedIds": ",".join(record["termSourcedIds"]),
            "courseSourcedId": record["courseSourcedId"] or "",
        }
    ]


def enrollment(record: Enrollment) -> list[Row]:
    """A person's place in a class; that it has ended is for the delivery to see."""
    role = CLASS_ROLES.get(record["role"])
    if record["status"] != "active" or role is None:
        return []
    return [
        {
            "classSourcedId": record["classSourcedId"],
            "userSourcedId": record["userSourcedId"],
            "role": role,
        }
    ]


def guardian_ties(record: Guardian) -> list[Row]:
    """A guardian's ties to students; SDS's words for them are those of the standard."""
    if record["status"] != "active":
        return []
    return [_tie(child, record["sourcedId"], record["role"]) for child in record["agentSourcedIds"]]


def student_ties(record: Student) -> list[Row]:
    """A student's ties as the student's record has them, which does not say of what sort they are.

    Only for guardians whose own record does not name the student: where both do, there is one row,
    and it is the guardian's (`kind` comes first in the order of the same key).
    """
    if record["status"] != "active":
        return []
    return [_tie(record["sourcedId"], one, "other") for one in record["agentSourcedIds"]]


def _person(record: Student | Staff | Guardian, address: str) -> Row:
    first = (record["preferredFirstName"] or "").strip() or record["givenName"].strip()
    last = (record["preferredLastName"] or "").strip() or record["familyName"].strip()
    return {
        "sourcedId": record["sourcedId"],
        "username": (record["username"] or "").strip(),
        "givenName": first,
        "familyName": last,
        "email": address,
    }


def _address(email: str | None) -> str:
    """An email address that SDS takes, or ""."""
    address = (email or "").strip()
    return address if ADDRESS.fullmatch(address) else ""


def _roles(record: Student | Staff, role: str, grade: str) -> list[Row]:
    if record["status"] != "active":
        return []
    places = list(dict.fromkeys(record["orgSourcedIds"]))
    first = record["primaryOrgSourcedId"]
    if first and first not in places:
        places.insert(0, first)
    if not first and len(places) == 1:
        first = places[0]
    return [
        {
            "userSourcedId": record["sourcedId"],
            "orgSourcedId": place,
            "role": role,
            "grade": grade,
            "isPrimary": str(place == first).lower() if first else "",
        }
        for place in places
    ]


def _grade(levels: list[str]) -> str:
    """The first of some grade levels that SDS knows, in its words; "" for none."""
    for level in levels:
        code = level.strip().lower()
        found = GRADES.get(code.zfill(2) if code.isdecimal() else code)
        if found:
            return found
    return ""


def _tie(student_id: str, contact_id: str, role: str) -> Row:
    return {
        "userSourcedId": student_id,
        "relationshipUserSourcedId": contact_id,
        "relationshipRole": role,
    }


class Settings(BaseModel):
    """Where the set goes.

    out:       a folder that always holds one whole set; made if it is not there.
    time_zone: the district's IANA time zone, such as America/Chicago, for last days.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path | None = None
    time_zone: TimeZone = "UTC"


def day(time_zone: str, now: Callable[[], datetime]) -> Callable[[], date]:
    """The day that it is in a time zone."""
    zone = ZoneInfo(time_zone)
    return lambda: now().astimezone(zone).date()


def open_delivery(
    settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Redelivery:
    """The folder; `Stop` when none is named."""
    if settings.out is None:
        raise Stop("microsoft-sds does not know where to deliver: name a folder (--out DIR)")
    return FullSet(
        settings.out,
        TABLES,
        REFERENCES,
        ends={"enrollments.csv": "endDate"},
        today=day(settings.time_zone, now),
        required=("orgs.csv", "users.csv", "roles.csv"),
        revision=REVISION,
        named_by={"users.csv": (ROLES, RELATIONSHIPS)},
        unique={
            "users.csv": (
                Unique("username", instead="sourcedId"),
                Unique("email", kinds=("student", "staff")),
            )
        },
    )


ORGS = Table(
    "orgs.csv",
    ("sourcedId", "name", "type", "parentSourcedId"),
    {"org": org},
    ("sourcedId",),
)
SESSIONS = Table(
    "academicSessions.csv",
    ("sourcedId", "title", "type", "schoolYear", "startDate", "endDate"),
    {"academicSession": session},
    ("sourcedId",),
)
USERS = Table(
    "users.csv",
    ("sourcedId", "username", "givenName", "familyName", "email"),
    {"student": student, "staff": staff, "guardian": contact},
    ("sourcedId",),
)
ROLES = Table(
    "roles.csv",
    ("userSourcedId", "orgSourcedId", "role", "grade", "isPrimary"),
    {"student": student_roles, "staff": staff_roles},
    ("userSourcedId", "orgSourcedId", "role"),
)
COURSES = Table(
    "courses.csv",
    ("sourcedId", "orgSourcedId", "title", "code", "schoolYearSourcedId", "grade"),
    {"course": course},
    ("sourcedId",),
)
CLASSES = Table(
    "classes.csv",
    ("sourcedId", "orgSourcedId", "title", "sessionSourcedIds", "courseSourcedId"),
    {"class": class_},
    ("sourcedId",),
)
ENROLLMENTS = Table(
    "enrollments.csv",
    ("classSourcedId", "userSourcedId", "role"),
    {"enrollment": enrollment},
    ("classSourcedId", "userSourcedId", "role"),
)
RELATIONSHIPS = Table(
    "relationships.csv",
    ("userSourcedId", "relationshipUserSourcedId", "relationshipRole"),
    {"guardian": guardian_ties, "student": student_ties},
    ("userSourcedId", "relationshipUserSourcedId"),
)
TABLES = (ORGS, SESSIONS, USERS, ROLES, COURSES, CLASSES, ENROLLMENTS, RELATIONSHIPS)
REFERENCES = {
    "orgs.csv": [Reference("parentSourcedId", "orgs.csv", required=False)],
    "roles.csv": [Reference("userSourcedId", "users.csv"), Reference("orgSourcedId", "orgs.csv")],
    "courses.csv": [
        Reference("orgSourcedId", "orgs.csv"),
        Reference("schoolYearSourcedId", "academicSessions.csv", required=False),
    ],
    "classes.csv": [
        Reference("orgSourcedId", "orgs.csv"),
        Reference("sessionSourcedIds", "academicSessions.csv", many=True),
        Reference("courseSourcedId", "courses.csv", required=False),
    ],
    "enrollments.csv": [
        Reference("classSourcedId", "classes.csv"),
        Reference("userSourcedId", "users.csv"),
    ],
    "relationships.csv": [
        Reference("userSourcedId", "users.csv", kind="student"),
        Reference("relationshipUserSourcedId", "users.csv", kind="guardian"),
    ],
}

PRODUCT = Product(
    name="microsoft-sds",
    tables=TABLES,
    settings=Settings,
    open=open_delivery,
    batch_records=50_000,
    batch_seconds=5.0,
)
