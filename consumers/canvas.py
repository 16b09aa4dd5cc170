"""Canvas LMS: the standard's records as rows of Canvas SIS import CSV.

Sources: Canvas LMS API documentation, "SIS CSV Format" (doc/api/sis_csv.md); where it is silent,
the importer itself, instructure/canvas-lms, lib/sis. What they ask for:

* Order. Accounts before terms and courses, courses before sections, all of these and users before
  enrollments (lib/sis/csv/import_refactored.rb, IMPORTERS). A parent account stands before its
  children ("accounts.csv").
* Ids are text of at most 255 characters (`maximum_string_length` of the models), and never change.
  Names are cut at 255; a record with a longer id can never be told.
* Dates are ISO 8601; without an offset they are taken as UTC. A day of the district is told as its
  first or last second in local time; the delivery adds the offset of the setting `time_zone`.
* An enrollment is the same one to Canvas when section, user and role agree
  (lib/sis/enrollment_importer.rb, the look-up of `all_enrollments`). Several of a student in one
  class are told as one, by the rule of `bus.product.Equivalent`: until the latest last day, from
  the earliest first day. The first day of the latest alone would lock out a student who has one
  enrollment for each term: "values in SIS enrollment CSV files override term, course and section
  dates" (Canvas Resource Documents, "Terms, Courses, and Section Enrollments").

What is what:

    academicSession -> terms.csv       org   -> accounts.csv
    class -> courses.csv, sections.csv        (one course with one section, both with the class's
                                               id; Instructure's own OneRoster integration lets
                                               a district choose this, 1:1, or 1:many)
    student, staff -> users.csv        enrollment -> enrollments.csv

Guardians and demographics are not told. A district is an account below the root account, so that
one Canvas may serve several districts. Of an enrollment's roles only those are told that Canvas
has without giving more than the SIS says: a proctor made `ta` would see grades.

Withdrawals. Canvas undoes a deletion of one thing only for that thing: a deleted user, course or
section takes its enrollments along ("users.csv"; lib/sis/user_importer.rb,
`remove_enrollments_if_last_login`), and when it comes back they do not; the bus, which tells only
what changed, would not tell them again. So the gentlest word that ends access is used:

    user                `suspended`: cannot sign in, enrollments and grades stay
    student in a class  `inactive`: sees nothing, stays in the gradebook for the teacher
    others in a class   `deleted`
    class               course `completed`: read only, grades stay; its section stays as it is
    org, academicSession  `deleted`: Canvas's only word; refused while something active is in it

An enrollment that ends on a day is told with its dates, and Canvas ends it by its own clock. It
heeds them only as a pair ("enrollments.csv", start_date), so one alone is left out.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from bus.delivery import Redelivery, Row, Table
from bus.errors import Never, Stop
from bus.product import Equivalent, Product
from bus.settings import TimeZone
from bus.standard.records import AcademicSession, Class, Enrollment, Org, Staff, Student
from consumers.delivery.canvas_api import export
from consumers.delivery.canvas_imports import CanvasImports
from consumers.delivery.csv_zip import Cell, Layout
from consumers.delivery.zip_folder import ZipFolder

LONGEST = 255
DAY_BEGINS, DAY_ENDS = "T00:00:00", "T23:59:59"
ROLES = {"student": "student", "teacher": "teacher", "aide": "ta"}
"""Canvas's name of an enrollment's role; a role that is not here is not told."""


def account(record: Org) -> Row:
    """A school, a department, the district: a (sub-)account."""
    return {
        "account_id": _id(record["sourcedId"]),
        "parent_account_id": record["parentSourcedId"] or "",
        "name": record["name"][:LONGEST],
        "status": "active" if record["status"] == "active" else "deleted",
    }


def term(record: AcademicSession) -> Row:
    """A session of any type: a class may name any, and one that Canvas does not know is ignored."""
    return {
        "term_id": _id(record["sourcedId"]),
        "name": record["title"][:LONGEST],
        "status": "active" if record["status"] == "active" else "deleted",
        "start_date": f"{record['startDate']}{DAY_BEGINS}",
        "end_date": f"{record['endDate']}{DAY_ENDS}",
    }


def course(record: Class) -> Row:
    """A class as a course.

    A course has one term, whose dates open and close it. A class of several terms would be closed
    after the first or before the last of them, so it names none: it is in the default term.
    """
    title = record["title"][:LONGEST] or record["sourcedId"]
    terms = record["termSourcedIds"]
    return {
        "course_id": _id(record["sourcedId"]),
        "short_name": (record["classCode"] or title)[:LONGEST],
        "long_name": title,
        "account_id": record["schoolSourcedId"],
        "term_id": terms[0] if len(terms) == 1 else "",
        "status": "active" if record["status"] == "active" else "completed",
    }


def section(record: Class) -> Row:
    """A class as the one section of its course; it stays when the course is completed."""
    return {
        "section_id": _id(record["sourcedId"]),
        "course_id": record["sourcedId"],
        "name": record["title"][:LONGEST] or record["sourcedId"],
        "status": "active",
    }


def user(record: Student | Staff) -> Row:
    """A person, by the names by which they want to be called.

    login_id is required and unique. Without a username it is the sourcedId, not the email address:
    siblings often share a parent's, and Canvas gives a login that it finds by its name to the user
    who asks for it (lib/sis/user_importer.rb, `pseudo_by_login`), which would be the parent's. It
    is the sourcedId as well of who has left, so that the username is free for somebody else.
    short_name is sent as Canvas infers it only once, and would show the old name after a change.
    """
    first = record["preferredFirstName"] or record["givenName"]
    last = record["preferredLastName"] or record["familyName"]
    stands = record["status"] == "active"
    login = (record["username"] if stands else None) or record["sourcedId"]
    if len(login) > LONGEST:
        raise Never(f"the username has more than {LONGEST} characters; shorten it in the SIS")
    return {
        "user_id": _id(record["sourcedId"]),
        "login_id": login,
        "first_name": first[:LONGEST],
        "last_name": last[:LONGEST],
        "short_name": f"{first} {last}"[:LONGEST],
        "email": record["email"] or "",
        "status": "active" if stands and record["enabledUser"] else "suspended",
    }


def enrollment(record: Enrollment) -> Row | None:
    """A person's place in the section that is the class."""
    role = ROLES.get(record["role"])
    if role is None:
        return None
    begin, end = record["beginDate"], record["endDate"]
    if begin and end:
        start_date, end_date = begin.isoformat() + DAY_BEGINS, end.isoformat() + DAY_ENDS
    else:
        start_date = end_date = ""
    if record["status"] == "active":
        status = "active"
    else:
        status = "inactive" if role == "student" else "deleted"
    return {
        "course_id": record["classSourcedId"],
        "section_id": record["classSourcedId"],
        "user_id": record["userSourcedId"],
        "role": role,
        "status": status,
        "start_date": start_date,
        "end_date": end_date,
    }


def _id(sourced_id: str) -> str:
    if len(sourced_id) > LONGEST:
        raise Never(f"the sourcedId has more than {LONGEST} characters, the most that Canvas takes")
    return sourced_id


class Settings(BaseModel):
    """Where the rows go: either a folder (`out`) or Canvas itself (`url` and `token`).

    out:          a folder that gets a zip for each batch; made if it is not there.
    url:          Canvas's address, such as https://district.instructure.com.
    token:        an access token of a user with the permissions to manage and import SIS data.
    account:      the root account's id in Canvas; "self" is the one of the address.
    time_zone:    the district's IANA time zone, such as America/Chicago, for first and last days.
    override_sis_stickiness: whether what was changed by hand in Canvas is overwritten.
    poll_seconds: how long one delivery watches an import; one that goes on longer is looked at
                  again later, with the bus free in between to keep its place in the group.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path | None = None
    url: str | None = None
    token: SecretStr | None = None
    account: str = Field(default="self", pattern=r"^[A-Za-z0-9_:~-]+$")
    time_zone: TimeZone = "UTC"
    override_sis_stickiness: bool = False
    poll_seconds: float = Field(default=60.0, ge=0, le=240)


def local_time(time_zone: str) -> Cell:
    """From a local time without offset ("2026-08-15T00:00:00") to one with it ("…-05:00", "…Z")."""
    zone = ZoneInfo(time_zone)

    @cache
    def cell(text: str) -> str:
        if not text:
            return ""
        moment = datetime.fromisoformat(text).replace(tzinfo=zone).isoformat()
        return moment.replace("+00:00", "Z")

    return cell


def open_delivery(settings: Settings) -> Redelivery:
    """The folder or the API, as the settings say; `Stop` when they say neither or both."""
    when = local_time(settings.time_zone)
    layout = Layout(
        cells={"start_date": when, "end_date": when},
        parents={"accounts.csv": "parent_account_id"},
    )
    if settings.out is not None and settings.url is not None:
        raise Stop("canvas has both a folder and a url to deliver to; leave one of them out")
    if settings.out is not None:
        return ZipFolder(settings.out, "canvas", layout)
    if settings.url is None:
        raise Stop(
            "canvas does not know where to deliver: name a folder (--out DIR), or Canvas itself "
            "(--url https://… and its token in BUS_PRODUCTS__CANVAS__TOKEN)"
        )
    address = urlsplit(settings.url)
    loopback = address.hostname in ("127.0.0.1", "::1", "localhost")
    if not address.hostname or not (
        address.scheme == "https" or (address.scheme == "http" and loopback)
    ):
        raise Stop("the url of canvas must begin with https://, as the token goes along with it")
    if settings.token is None:
        raise Stop("canvas needs an access token: set BUS_PRODUCTS__CANVAS__TOKEN")
    return CanvasImports(
        settings.url,
        settings.token,
        layout,
        account=settings.account,
        override_sis_stickiness=settings.override_sis_stickiness,
        poll_seconds=settings.poll_seconds,
    )


def export_from_canvas(settings: Settings, folder: Path) -> Path:
    """What Canvas itself says it has; `Stop` when the settings do not lead to it."""
    if settings.url is None or settings.token is None:
        raise Stop(
            "what Canvas has is not known here: name an export, or the folder of its zips "
            "(--export PATH), or Canvas itself in [products.canvas] (url and token)"
        )
    return export(settings.url, settings.token, settings.account, folder)


ACCOUNTS = Table(
    "accounts.csv",
    ("account_id", "parent_account_id", "name", "status"),
    {"org": account},
    ("account_id",),
    {"status": ("deleted",)},
)
TERMS = Table(
    "terms.csv",
    ("term_id", "name", "status", "start_date", "end_date"),
    {"academicSession": term},
    ("term_id",),
    {"status": ("deleted",)},
)
COURSES = Table(
    "courses.csv",
    ("course_id", "short_name", "long_name", "account_id", "term_id", "status"),
    {"class": course},
    ("course_id",),
    {"status": ("completed", "deleted")},
)
SECTIONS = Table(
    "sections.csv",
    ("section_id", "course_id", "name", "status"),
    {"class": section},
    ("section_id",),
    {"status": ("deleted",)},
)
USERS = Table(
    "users.csv",
    ("user_id", "login_id", "first_name", "last_name", "short_name", "email", "status"),
    {"student": user, "staff": user},
    ("user_id",),
    {"status": ("suspended", "deleted")},
)
ENROLLMENTS = Table(
    "enrollments.csv",
    ("course_id", "section_id", "user_id", "role", "status", "start_date", "end_date"),
    {"enrollment": enrollment},
    ("section_id", "user_id", "role"),
    {"status": ("inactive", "deleted")},
)

PRODUCT = Product(
    name="canvas",
    tables=(ACCOUNTS, TERMS, COURSES, SECTIONS, USERS, ENROLLMENTS),
    settings=Settings,
    open=open_delivery,
    batch_records=100_000,
    batch_seconds=5.0,
    export=export_from_canvas,
    siblings={
        "enrollment": Equivalent(
            ("classSourcedId", "userSourcedId", "role"), last="endDate", first="beginDate"
        )
    },
    unique={"student": "username", "staff": "username"},
)
