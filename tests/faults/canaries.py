"""A made-up district in which every sensitive value is a unique string: a canary.

`MadeUp.canaries` says to which record, version of the record and field a canary belongs. Ids are
canaries too. Each change of a record gives all its texts new canaries, so a check can distinguish an
older version of the record from the present one.
"""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from bus.standard.kinds import KINDS
from tests.oneroster_files import extract
from tests.unit.test_vendor_canaries import text_fields

CANARY = re.compile(rb"q[0-9a-f]{14}z")
FILES = {
    "org": "orgs",
    "academicSession": "academicSessions",
    "course": "courses",
    "class": "classes",
    "student": "users",
    "staff": "users",
    "guardian": "users",
    "demographics": "demographics",
    "enrollment": "enrollments",
    "lineItem": "lineItems",
    "result": "results",
    "attendance": "attendance",
}
LISTS = {"student": ("userIds",), "staff": ("userIds",), "guardian": ("userIds",)}
"""Fields with a list of texts. Each list gets one canary."""
GRADES = ("06", "07")
OLDER, NEWER = "2000-07-01", ""
"""The day of a record that is older than any agreement; "" for a day within it."""
FIRST, BEGIN = date(2026, 1, 1), datetime(2026, 1, 1)

Key = tuple[str, str]
Row = dict[str, str]


class Canary(NamedTuple):
    """Where a canary belongs; the field of an id is `sourcedId`."""

    kind: str
    id: str
    field: str
    version: int


class MadeUp:
    """The district as its SIS has it. The values of a row are texts, as in OneRoster CSV.

    schools, classes: ids by the names that the strategies of agreements use (`s1`, `c1`).
    """

    def __init__(self, rng: random.Random, students: int, today: date) -> None:
        self.rng = rng
        self.rows: dict[Key, Row] = {}
        self.canaries: dict[str, Canary] = {}
        self.schools: dict[str, str] = {}
        self.classes: dict[str, str] = {}
        self._today = today
        self._versions: dict[Key, int] = {}
        self._clock = 0
        self._base()
        for _ in range(students):
            self.add_student()

    # ---- making -------------------------------------------------------------------------------

    def _mint(self, kind: str, id_: str, field: str, version: int) -> str:
        text = f"q{self.rng.getrandbits(56):014x}z"
        self.canaries[text] = Canary(kind, id_ or text, field, version)
        return text

    def _add(self, kind: str, id_: str = "", **values: str) -> str:
        """Add a record, and return its id. Demographics have the id of their student."""
        id_ = id_ or self._mint(kind, "", "sourcedId", 0)
        self.rows[kind, id_] = {"sourcedId": id_, "status": "active", **values}
        self.renew((kind, id_))
        return id_

    def renew(self, key: Key, **values: str) -> None:
        """Change a record: these values, and a new canary for each of its texts."""
        kind, id_ = key
        version = self._versions[key] = self._versions.get(key, 0) + 1
        row = self.rows[key]
        row |= values
        for name in (*text_fields(kind), *LISTS.get(kind, ())):
            row[name] = self._mint(kind, id_, name, version)
        if kind == "enrollment":  # it has no text, so its version is in a date
            row["beginDate"] = (FIRST + timedelta(days=version)).isoformat()
        if kind == "result":
            row["score"] = str(version)
        self._clock += 1
        row["dateLastModified"] = f"{(BEGIN + timedelta(seconds=self._clock)).isoformat()}.000Z"

    def _base(self) -> None:
        district = self._add("org", type="district", parentSourcedId="")
        year = self._add(
            "academicSession",
            type="schoolYear",
            startDate="2026-08-01",
            endDate="2027-07-31",
            schoolYear="2027",
        )
        self._teachers: dict[str, str] = {}
        for name in ("s1", "s2"):
            self.schools[name] = self._add("org", type="school", parentSourcedId=district)
        for name, school in (("c1", "s1"), ("c2", "s1"), ("c3", "s2"), ("c4", "s2")):
            at = self.schools[school]
            course = self._add("course", orgSourcedId=district, schoolYearSourcedId=year)
            class_ = self.classes[name] = self._add(
                "class",
                classType="scheduled",
                courseSourcedId=course,
                schoolSourcedId=at,
                termSourcedIds=year,
            )
            teacher = self._add(
                "staff", role="teacher", orgSourcedIds=",".join(self.schools.values())
            )
            self._enroll(class_, at, teacher, "teacher")
            self._add(
                "lineItem",
                classSourcedId=class_,
                schoolSourcedId=at,
                gradingPeriodSourcedId=year,
                assignDate="2026-09-01",
                dueDate="2026-09-08",
                resultValueMin="0",
                resultValueMax="100000",
            )

    def _enroll(self, class_: str, school: str, person: str, role: str) -> str:
        return self._add(
            "enrollment",
            classSourcedId=class_,
            schoolSourcedId=school,
            userSourcedId=person,
            role=role,
            endDate="",
        )

    def add_student(self) -> str:
        """Add a student with records of every kind that refers to a student; return the id."""
        rng, school = self.rng, self.rng.choice(("s1", "s2"))
        student = self._add(
            "student",
            orgSourcedIds=self.schools[school],
            grades=rng.choice(GRADES),
            agentSourcedIds="",
            role="student",
        )
        guardian = self._add(
            "guardian",
            role="guardian",
            orgSourcedIds=self.schools[school],
            agentSourcedIds=student,
        )
        self.rows["student", student]["agentSourcedIds"] = guardian
        self._add("demographics", student, birthDate="2012-01-01", sex="female")
        self._take_classes(student, school)
        for day in (OLDER, NEWER):
            class_ = rng.choice([name for name in self.classes if self._school_of(name) == school])
            when = day or (self._today - timedelta(days=5)).isoformat()
            item = next(
                id_
                for (kind, id_), row in self.rows.items()
                if kind == "lineItem" and row["classSourcedId"] == self.classes[class_]
            )
            self._add(
                "result",
                lineItemSourcedId=item,
                studentSourcedId=student,
                classSourcedId=self.classes[class_],
                scoreStatus="fullyGraded",
                scoreDate=when,
            )
            self._add(
                "attendance",
                studentSourcedId=student,
                schoolSourcedId=self.schools[school],
                classSourcedId=self.classes[class_],
                eventDate=when,
                attendanceEventCategory="tardy",
            )
        return student

    def _school_of(self, class_: str) -> str:
        at = self.rows["class", self.classes[class_]]["schoolSourcedId"]
        return next(name for name, id_ in self.schools.items() if id_ == at)

    def _take_classes(self, student: str, school: str) -> None:
        mine = [name for name in self.classes if self._school_of(name) == school]
        for class_ in self.rng.sample(mine, self.rng.randint(1, len(mine))):
            self._enroll(self.classes[class_], self.schools[school], student, "student")

    # ---- changes ------------------------------------------------------------------------------

    def students(self) -> list[str]:
        """Return the ids of the active students."""
        return [
            id_
            for (kind, id_), row in self.rows.items()
            if kind == "student" and row["status"] == "active"
        ]

    def touch(self, number: int) -> None:
        """Change this many records, of any kind."""
        for key in self.rng.sample(sorted(self.rows), min(number, len(self.rows))):
            self.renew(key)

    def move(self, student: str) -> None:
        """Move a student to the other school, with new enrollments."""
        row = self.rows["student", student]
        name = "s2" if row["orgSourcedIds"] == self.schools["s1"] else "s1"
        self.renew(("student", student), orgSourcedIds=self.schools[name])
        for key, one in list(self.rows.items()):
            if key[0] == "enrollment" and one["userSourcedId"] == student:
                self.renew(key, status="tobedeleted")
        self._take_classes(student, name)

    def regrade(self, student: str) -> None:
        """Move a student to the other grade."""
        grade = self.rows["student", student]["grades"]
        self.renew(("student", student), grades=GRADES[grade == GRADES[0]])

    def withdraw(self, student: str) -> None:
        """Withdraw a student."""
        self.renew(("student", student), status="tobedeleted")

    def some_changes(self, number: int) -> None:
        """Change records, move, promote and withdraw a few students, and add one."""
        self.touch(number)
        for change in (self.move, self.regrade, self.withdraw):
            change(self.rng.choice(self.students()))
        self.add_student()

    # ---- the extract --------------------------------------------------------------------------

    def write(self, folder: Path) -> Path:
        """Write the current extract, a folder."""
        files: dict[str, str] = {}
        for file in dict.fromkeys(FILES.values()):
            rows = [row for (kind, _), row in self.rows.items() if FILES[kind] == file]
            names = list(dict.fromkeys(name for row in rows for name in row))
            out = io.StringIO()
            writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            files[file] = out.getvalue()
        return extract(folder, **files)


def found_in(data: bytes) -> set[str]:
    """Return the canaries in some bytes, in lower or upper case."""
    return {one.decode() for one in CANARY.findall(data.lower())}


PERSONAL = {kind for kind, about in KINDS.items() if about.student} | {"staff", "guardian"}


def personal(canaries: dict[str, Canary], found: Iterable[str]) -> list[Canary]:
    """Return those of some canaries that are about persons. Unknown ones are left out."""
    return [canaries[one] for one in found if one in canaries and canaries[one].kind in PERSONAL]
