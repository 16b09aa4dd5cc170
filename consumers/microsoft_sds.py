"""Microsoft School Data Sync: records of the standard as the SDS v2.1 CSV set.

Sources, all at learn.microsoft.com/schooldatasync: "SDS V2.1 CSV file format"
(sds-v2.1-csv-file-format), "Default list of values" (default-list-of-values), "Validation rules and
descriptions" (validation-rules-and-descriptions). Samples and Microsoft's own flow from OneRoster
to this format are in OfficeDev/O365-EDU-Tools, "CSV Samples/SDS v2.1" and
"CustomSolutions/SDS_ADF_ETL_Integrations/OneRoster". They require:

* orgs, users and roles are required; classes and enrollments are too where classes are managed.
  Each set must have the same files, changed or not, because a missing record counts as no longer
  active ("SDS V2.1 CSV file format", Important). So the delivery writes whole sets, and a withdrawn
  record has no row.
* UTF-8, RFC 4180, no line breaks in values. The names of files and columns are case-sensitive. A
  column that is neither required nor used may be missing.
* Ids are case-sensitive and unique in their file. A referenced id must be in the set.
* Types, roles and grades are those of the default list. Case does not matter, nor does the missing
  zero in "7". SDS leaves out a record with a wrong required value and empties a wrong optional
  value ("Validation rules and descriptions"). The translation sends neither.
* Dates are ISO 8601. Email addresses follow RFC 5322, 3.4.1.
* A contact (in relationships.csv) must have both names and an email address.

The mapping:

    org -> orgs.csv                          class -> classes.csv
    academicSession -> academicSessions.csv  course -> courses.csv
    student, staff -> users.csv and, for each of their organizations, roles.csv
    guardian -> users.csv, relationships.csv; not at all without an email address
    enrollment -> enrollments.csv

SDS works without demographics and flags, passwords, phone numbers, and the subject of a course (for
which SDS has its own codes). They are not delivered.

A person without a role and without a relationship is not in the set, such as a guardian whose last
student has left. Several enrollments of one person in one class with one role are written as one
row, as long as one of them is active and has not ended. The result is that of the rule of
`bus.product.Equivalent`, because SDS has no first day.

Only one person may have a username. If the SIS gives it to two, such as parents who share an
address, the first by sourcedId keeps it and the other gets the sourcedId. The same holds for an
email address that two students or staff share; the other's cell is empty. Guardians keep a shared
email address, because it is used to write to them.

A person who may not sign in (enabledUser false) is not in the set, because SDS has no status for
this. This does not apply to guardians, who do not sign in. An enrollment is in the set until its
last day in the district's time zone. It is in the set as soon as it is known, because classes are
prepared before they begin.
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
"""The version of the translation. Increase it with every change of the rows that a record gives."""
ORG_TYPES = {
    "department": "department",
    "school": "school",
    "district": "district",
    "local": "local",
    "state": "state",
    "national": "national",
    "other": "division",
}
"""SDS's type of an org. SDS's list has no type for "other", but without its org a class could
not be delivered."""
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
"""SDS's name of an enrollment's role. Enrollments with other roles are not delivered. CEDS
treats aides and paraprofessionals as one role (K12 Staff Classification)."""
GRADES = {
    code: code
    for code in ["it", "pr", "pk", "tk", "kg", "ps", "ug", "other"]
    + [f"{number:02}" for number in range(1, 14)]
} | {"ae": "adultEducation"}
"""SDS's code of a CEDS grade level (Entry Grade Level), whose code is in lowercase here."""
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
ADDRESS = re.compile(rf"{ATOM}(\.{ATOM})*@{ATOM}(\.{ATOM})+")


def org(record: Org) -> list[Row]:
    """Return the row of a school, a department or the district."""
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
    """Return the row of a session; none if its school year, which SDS requires, is not known.

    A session of type `schoolYear` without a school year gets the year of its last day.
    """
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
    """Return the row of a student or a member of the staff, with the preferred names."""
    if record["status"] != "active" or not record["enabledUser"]:
        return []
    return [_person(record, _address(record["email"]))]


def student(record: Student) -> list[Row]:
    """Return the row of a student.

    Without a username it is the sourcedId, not the email address. The email address is often a
    parent's, and SDS would match the student to the account of a parent who is a member of the
    staff. A district that identifies students by their email addresses configures SDS to match
    accounts by `email`.
    """
    rows = user(record)
    for row in rows:
        row["username"] = row["username"] or record["sourcedId"]
    return rows


def staff(record: Staff) -> list[Row]:
    """Return the row of a member of the staff.

    Without a username it is the email address, or the sourcedId if that is missing too.
    """
    rows = user(record)
    for row in rows:
        row["username"] = row["username"] or row["email"] or record["sourcedId"]
    return rows


def contact(record: Guardian) -> list[Row]:
    """Return the row of a guardian; none without both names and an email address.

    SDS requires them of a contact.
    """
    row = _person(record, _address(record["email"]))
    is_complete = row["email"] and row["givenName"] and row["familyName"]
    if record["status"] != "active" or not is_complete:
        return []
    return [row | {"username": row["username"] or row["email"]}]


def student_roles(record: Student) -> list[Row]:
    """Return a student's role, with the grade level, at each of the student's organizations."""
    return _roles(record, "student", _grade(record["grades"]))


def staff_roles(record: Staff) -> list[Row]:
    """Return the role of a member of the staff, the same at each of the person's organizations.

    SDS's grade is the grade of a student, not a grade that a person teaches, so it stays empty.
    """
    return _roles(record, STAFF_ROLES[record["role"]], "")


def course(record: Course) -> list[Row]:
    """Return the row of a course; none without an organization, which SDS requires."""
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
    """Return the row of a class, with its sessions separated by commas."""
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
    """Return the row of an active enrollment; the delivery leaves it out after its last day."""
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


def guardian_relationships(record: Guardian) -> list[Row]:
    """Return a guardian's relationships to students; the standard's roles are those of SDS."""
    if record["status"] != "active":
        return []
    return [
        _relationship(child, record["sourcedId"], record["role"])
        for child in record["agentSourcedIds"]
    ]


def student_relationships(record: Student) -> list[Row]:
    """Return the relationships in a student's record, which does not say their role.

    They are for guardians whose own record does not name the student. If both records name each
    other, only the guardian's row is written: rows with the same key are sorted by `kind`, and the
    first one counts.
    """
    if record["status"] != "active":
        return []
    return [_relationship(record["sourcedId"], one, "other") for one in record["agentSourcedIds"]]


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
    """Return the email address if SDS accepts it, else ""."""
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
    """Return SDS's code of the first grade level that SDS knows; "" if there is none."""
    for level in levels:
        code = level.strip().lower()
        found = GRADES.get(code.zfill(2) if code.isdecimal() else code)
        if found:
            return found
    return ""


def _relationship(student_id: str, contact_id: str, role: str) -> Row:
    return {
        "userSourcedId": student_id,
        "relationshipUserSourcedId": contact_id,
        "relationshipRole": role,
    }


class Settings(BaseModel):
    """The settings of the delivery.

    out:       a folder that always holds one whole set; created if it does not exist.
    time_zone: the district's IANA time zone, such as America/Chicago, for last days.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path | None = None
    time_zone: TimeZone = "UTC"


def day(time_zone: str, now: Callable[[], datetime]) -> Callable[[], date]:
    """Return a function that returns the current day in a time zone."""
    zone = ZoneInfo(time_zone)
    return lambda: now().astimezone(zone).date()


def open_delivery(
    settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Redelivery:
    """Open the delivery to the folder; raise `Stop` if no folder is set."""
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
    {"guardian": guardian_relationships, "student": student_relationships},
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
