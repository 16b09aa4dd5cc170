"""Canvas LMS: records of the standard as rows of Canvas's SIS import CSV.

Sources: Canvas LMS API documentation, "SIS CSV Format" (doc/api/sis_csv.md). Where it is silent,
the importer itself: instructure/canvas-lms, lib/sis. They require:

* Order. Accounts come before terms and courses, and courses before sections. All of these and users
  come before enrollments (lib/sis/csv/import_refactored.rb, IMPORTERS). A parent account comes
  before its children ("accounts.csv").
* Ids are text of at most 255 characters (`maximum_string_length` of the models) and never change.
  The translation cuts names at 255 characters. A record with a longer id can never be delivered.
* Dates are ISO 8601. Canvas reads a date without an offset as UTC. The translation writes a day of
  the district as its first or last second in local time. The delivery adds the offset of the
  setting `time_zone`.
* Two enrollments are the same to Canvas when section, user and role are equal
  (lib/sis/enrollment_importer.rb, the look-up of `all_enrollments`). Several enrollments of a
  student in one class are delivered as one, by the rule of `bus.product.Equivalent`: from the
  earliest first day to the latest last day. A student may have one enrollment for each term. The
  first day of the latest one alone would lock that student out: "values in SIS enrollment CSV files
  override term, course and section dates" (Canvas Resource Documents, "Terms, Courses, and Section
  Enrollments").

The mapping:

    academicSession -> terms.csv       org   -> accounts.csv
    class -> courses.csv, sections.csv        (one course with one section, both with the class's
                                               id; Instructure's own OneRoster integration lets
                                               a district choose this, 1:1, or 1:many)
    student, staff -> users.csv        enrollment -> enrollments.csv

Guardians and demographics are not delivered. A district is an account below the root account, so
that one Canvas can serve several districts. An enrollment is delivered only if Canvas has its role
without granting more than the SIS says. For example, a proctor as a `ta` would see grades.

Withdrawals. Canvas undoes a deletion only for the deleted thing itself. A deleted user, course or
section takes its enrollments along ("users.csv"; lib/sis/user_importer.rb,
`remove_enrollments_if_last_login`). When it comes back, its enrollments do not. The bus delivers
only changes, so it would not deliver those enrollments again. Therefore a withdrawal uses the
mildest status that ends access:

    user                `suspended`: cannot sign in, enrollments and grades stay
    student in a class  `inactive`: sees nothing, stays in the gradebook for the teacher
    others in a class   `deleted`
    class               course `completed`: read only, grades stay; its section does not change
    org, academicSession  `deleted`: Canvas's only status; refused while it has something active

An enrollment that ends on a day is delivered with its dates, and Canvas ends it by its own clock.
Canvas uses the dates only as a pair ("enrollments.csv", start_date), so a single date is left out.
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
"""Canvas's name for each role of an enrollment. Enrollments with other roles are not delivered."""


def account(record: Org) -> Row:
    """Return the account of an org: a school, a department or the district."""
    return {
        "account_id": _id(record["sourcedId"]),
        "parent_account_id": record["parentSourcedId"] or "",
        "name": record["name"][:LONGEST],
        "status": "active" if record["status"] == "active" else "deleted",
    }


def term(record: AcademicSession) -> Row:
    """Return the term of a session of any type.

    A class may refer to a session of any type, and Canvas ignores a reference to an unknown term.
    """
    return {
        "term_id": _id(record["sourcedId"]),
        "name": record["title"][:LONGEST],
        "status": "active" if record["status"] == "active" else "deleted",
        "start_date": f"{record['startDate']}{DAY_BEGINS}",
        "end_date": f"{record['endDate']}{DAY_ENDS}",
    }


def course(record: Class) -> Row:
    """Return the course of a class.

    A course has one term, whose dates open and close it. A class with several terms would close
    after the first term or open only with the last. So its course names no term, and Canvas
    uses the default term.
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
    """Return the only section of a class's course; it stays active when the course is completed."""
    return {
        "section_id": _id(record["sourcedId"]),
        "course_id": record["sourcedId"],
        "name": record["title"][:LONGEST] or record["sourcedId"],
        "status": "active",
    }


def user(record: Student | Staff) -> Row:
    """Return the user of a person, with the preferred names.

    login_id is required and unique. Without a username it is the sourcedId, not the email address.
    Siblings often share a parent's email address. Canvas gives an existing login of that name to
    the user who asks for it (lib/sis/user_importer.rb, `pseudo_by_login`), and it would be the
    parent's. A withdrawn person's login_id is the sourcedId too, so that another person can have
    the username.

    Canvas infers short_name only once, and would show the old name after a change. Therefore the
    row has the short_name that Canvas would infer.
    """
    first = record["preferredFirstName"] or record["givenName"]
    last = record["preferredLastName"] or record["familyName"]
    is_active = record["status"] == "active"
    login = (record["username"] if is_active else None) or record["sourcedId"]
    if len(login) > LONGEST:
        raise Never(f"the username has more than {LONGEST} characters; shorten it in the SIS")
    return {
        "user_id": _id(record["sourcedId"]),
        "login_id": login,
        "first_name": first[:LONGEST],
        "last_name": last[:LONGEST],
        "short_name": f"{first} {last}"[:LONGEST],
        "email": record["email"] or "",
        "status": "active" if is_active and record["enabledUser"] else "suspended",
    }


def enrollment(record: Enrollment) -> Row | None:
    """Return the enrollment of a person in the section of the class."""
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
        raise Never(
            f"the sourcedId has more than {LONGEST} characters, the most that Canvas accepts; "
            "shorten it in the SIS"
        )
    return sourced_id


class Settings(BaseModel):
    """Where the rows go: either a folder (`out`) or Canvas itself (`url` and `token`).

    out:          a folder that gets a zip for each batch; created if it does not exist.
    url:          Canvas's address, such as https://district.instructure.com.
    token:        an access token of a user with the permissions to manage and import SIS data.
    account:      the root account's id in Canvas; "self" is the account of the address.
    time_zone:    the district's IANA time zone, such as America/Chicago, for first and last days.
    override_sis_stickiness: whether an import overwrites changes made by hand in Canvas.
    poll_seconds: how many seconds one call of `deliver` watches an import. After that, the consumer
                  checks the import again later. In between, the consumer can keep its membership of
                  the consumer group.
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
    """Return a function that adds the time zone's offset to a local time.

    For example, "2026-08-15T00:00:00" becomes "2026-08-15T00:00:00-05:00". UTC is written as "Z".
    An empty text stays empty.
    """
    zone = ZoneInfo(time_zone)

    @cache
    def cell(text: str) -> str:
        if not text:
            return ""
        moment = datetime.fromisoformat(text).replace(tzinfo=zone).isoformat()
        return moment.replace("+00:00", "Z")

    return cell


def open_delivery(settings: Settings) -> Redelivery:
    """Open the delivery to the folder or to the API; raise `Stop` if the settings are not usable.

    Exactly one of `out` and `url` must be set. The URL must be https, except to this machine, and
    it needs a token.
    """
    when = local_time(settings.time_zone)
    layout = Layout(
        cells={"start_date": when, "end_date": when},
        parents={"accounts.csv": "parent_account_id"},
    )
    if settings.out is not None and settings.url is not None:
        raise Stop(
            "canvas has both a folder and a url to deliver to; remove one of the two settings"
        )
    if settings.out is not None:
        return ZipFolder(settings.out, "canvas", layout)
    if settings.url is None:
        raise Stop(
            "canvas does not know where to deliver: name a folder (--out DIR), or the address of "
            "Canvas (--url https://…) and its token (BUS_PRODUCTS__CANVAS__TOKEN)"
        )
    address = urlsplit(settings.url)
    loopback = address.hostname in ("127.0.0.1", "::1", "localhost")
    if not address.hostname or not (
        address.scheme == "https" or (address.scheme == "http" and loopback)
    ):
        raise Stop("the url of canvas must begin with https://, because requests carry the token")
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
    """Download what Canvas has; raise `Stop` if the settings lack the URL or the token."""
    if settings.url is None or settings.token is None:
        raise Stop(
            "the bus does not know what Canvas has: name an export or the folder of its zips "
            "(--export PATH), or set url and token in [products.canvas]"
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
