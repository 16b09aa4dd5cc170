"""A made-up district that has the schools, grades and classes of an agreement.

Its records are those of the sample district (`bus.demo.sample`), with the agreement's ids in place
of the sample's ids. If the agreement selects schools, grades or classes, it does not select half of
the students. In addition to the sample, the district has attendance, line items and results.

The district is a dict of records of the standard, so that a sandbox can change single records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from bus.demo.sample import GRADES, District
from bus.standard.json import from_json
from bus.standard.kinds import KINDS, Record
from bus.vendors.agreement import Agreement, Basis
from bus.vendors.district_view import student_of
from bus.vendors.scope import OPT_OUT, Scope, compile_scope

Key = tuple[str, str]
"""The kind and the id of a record."""

CLASSES_EACH = 6
"""How many classes a student takes."""
CLASS_SIZE = 25
"""As in the sample district."""
OPT_OUTS = 0.03
"""The share of students with an opt-out. A projection does not start without opt-outs."""
KIND_OF_FILE = {
    "orgs.csv": "org",
    "academicSessions.csv": "academicSession",
    "courses.csv": "course",
    "classes.csv": "class",
    "demographics.csv": "demographics",
    "enrollments.csv": "enrollment",
    "optOuts.csv": OPT_OUT,
}
KIND_OF_ROLE = {"student": "student", "teacher": "staff", "guardian": "guardian"}
ABSENCES = ("unexcusedAbsence", "tardy", "excusedAbsence")


@dataclass(frozen=True, slots=True)
class _Sample(District):
    """The sample district, but the number of schools does not depend on the number of students."""

    school_count: int = 2

    @property
    def schools(self) -> int:
        """How many schools there are."""
        return self.school_count


class MadeUpDistrict:
    """The records of a district.

    records: the current state of each record, including withdrawn records.
    """

    def __init__(self, records: dict[Key, Record]) -> None:
        self.records = records

    def of(self, kind: str) -> list[Record]:
        """Return the active records of a kind, ordered by id."""
        return [
            record
            for (name, _), record in sorted(self.records.items())
            if name == kind and record["status"] == "active"
        ]

    def about(self, student: str) -> list[Key]:
        """Return the keys of the active records about a student, other than opt-outs."""
        return [
            (kind, id_)
            for (kind, id_), record in sorted(self.records.items())
            if kind != OPT_OUT
            and record["status"] == "active"
            and student_of(kind, record) == student
        ]

    def set(self, key: Key, **values: Any) -> Key:
        """Change fields of a record; return its key."""
        now = datetime.now(UTC).replace(microsecond=0)
        self.records[key] = {**self.records[key], "dateLastModified": now, **values}
        return key

    def roster(self, scope: Scope) -> list[str]:
        """Return the students whom the roster puts into an agreement, ordered by id."""
        classes: dict[str, set[str]] = {}
        for one in self.of("enrollment") if scope.needs_classes else ():
            if one["role"] == "student":
                classes.setdefault(one["userSourcedId"], set()).add(one["classSourcedId"])
        return [
            one["sourcedId"]
            for one in self.of("student")
            if scope.selects(one, classes.get(one["sourcedId"], ()))
        ]

    def without_opt_outs(self, students: Iterable[str]) -> list[str]:
        """Return those of some students who have no active opt-out. Consents do not count."""
        having = {one["studentSourcedId"] for one in self.of(OPT_OUT) if one["decision"] == "deny"}
        return [one for one in students if one not in having]

    def lacks(self, agreement: Agreement) -> list[str]:
        """Return the schools and classes of an agreement that the district does not have."""
        students = agreement.students
        return [
            id_
            for kind, ids in (("org", students.schools), ("class", students.classes))
            for id_ in ids
            if (kind, id_) not in self.records
        ]


def made_for(agreement: Agreement, day: date, sections: int = 4) -> MadeUpDistrict:
    """Return a district in which an agreement selects some students.

    day:      today. Attendance and results are from the days before it.
    sections: how many classes of one subject a school has, at least.
    """
    selected = agreement.students
    schools = max(2, len(selected.schools) + 1)
    inside = len(selected.schools) or schools
    sections = max(sections, -(-len(selected.classes) // (CLASSES_EACH * inside)))
    sample = _Sample(
        students=schools * sections * CLASS_SIZE,
        classes_each=CLASSES_EACH,
        opt_outs=OPT_OUTS,
        school_count=schools,
    )
    ids = _ids(agreement, sample)
    district = MadeUpDistrict({})
    for kind, row in _rows(sample):
        record = {
            field: _renamed(value, ids) if field.endswith(("ourcedId", "ourcedIds")) else value
            for field, value in from_json(kind, _values(kind, row)).items()
        }
        district.records[kind, record["sourcedId"]] = record
    _set_grades(district, agreement)
    since = agreement.history or agreement.from_
    _add_results(district, max(since, day - timedelta(days=7)))
    _add_attendance(district, max(since, day - timedelta(days=1)))
    if agreement.basis is Basis.CONSENT:
        for student in district.roster(compile_scope(agreement)):
            add_consent(district, student, agreement.vendor)
    return district


# ---- from the sample's rows ----------------------------------------------------------------------


def _rows(sample: District) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the kind and the values of each row of the sample's first day."""
    for name, rows in sample.files(1):
        header, *lines = rows
        for line in lines:
            row = dict(zip(header, line, strict=True))
            if name == "users.csv":
                yield KIND_OF_ROLE[row["role"]], row
            elif name in KIND_OF_FILE:
                yield KIND_OF_FILE[name], row


def _values(kind: str, row: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON document of a row."""
    return {
        field["name"]: _value(field["type"], row[field["name"]])
        for field in KINDS[kind].schema["fields"]
        if field["name"] in row
    }


def _value(avro: Any, text: str) -> Any:
    if isinstance(avro, list):
        return _value(next(one for one in avro if one != "null"), text) if text else None
    if isinstance(avro, dict) and avro["type"] == "array":
        return [one for one in text.split(",") if one]
    if avro == "boolean":
        return text == "true"
    return int(text) if avro == "int" else text


def _renamed(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [ids.get(one, one) for one in value]
    return ids.get(value, value)


# ---- what the agreement selects ------------------------------------------------------------------


def _ids(agreement: Agreement, sample: _Sample) -> dict[str, str]:
    """Return the agreement's ids of schools and classes for ids of the sample."""
    schools, classes = agreement.students.schools, agreement.students.classes
    found = {f"school-{number:04d}": id_ for number, id_ in enumerate(schools)}
    inside = range(len(schools) or sample.schools)
    there = (
        f"class-{school:04d}-{subject}-{section:03d}"
        for section in range(sample.sections)
        for subject in range(CLASSES_EACH)
        for school in inside
    )
    return found | dict(zip(there, classes, strict=False))


def _set_grades(district: MadeUpDistrict, agreement: Agreement) -> None:
    """Put half of the students, and all students of the agreement's classes, into its grades."""
    named = agreement.students.grades
    if not named:
        return
    others = [grade for grade in GRADES if grade not in named] or list(named)
    members = {
        one["userSourcedId"]
        for one in district.of("enrollment")
        if one["classSourcedId"] in agreement.students.classes
    }
    at_school: Counter[str] = Counter()
    for student in district.of("student"):
        school = student["orgSourcedIds"][0]
        number = at_school[school]
        at_school[school] += 1
        # Sections take turns, so each class has students of both halves.
        inside = number // CLASS_SIZE % 2 == 0 or student["sourcedId"] in members
        among = named if inside else others
        student["grades"] = [among[number % len(among)]]
    for course in district.of("course"):
        course["grades"] = sorted({*GRADES, *named})


# ---- what the sample lacks -----------------------------------------------------------------------


def a_record(kind: str, id_: str, **values: Any) -> Record:
    """Return a new active record of a kind. All other fields that may be empty are empty."""
    record: Record = {field["name"]: field.get("default") for field in KINDS[kind].schema["fields"]}
    now = datetime.now(UTC).replace(microsecond=0)
    return record | {"sourcedId": id_, "status": "active", "dateLastModified": now} | values


def _add_results(district: MadeUpDistrict, day: date) -> None:
    """Add a quiz for each class, and a result for each student in two of the student's classes."""
    for one in district.of("class"):
        id_ = one["sourcedId"]
        add(
            district,
            "lineItem",
            f"quiz-{id_}",
            title="Quiz 1",
            assignDate=day,
            dueDate=day,
            classSourcedId=id_,
            schoolSourcedId=one["schoolSourcedId"],
            gradingPeriodSourcedId=None,
            resultValueMin=0.0,
            resultValueMax=20.0,
        )
    taken: Counter[str] = Counter()
    for number, one in enumerate(district.of("enrollment")):
        student = one["userSourcedId"]
        if one["role"] != "student" or taken[student] == 2:
            continue
        taken[student] += 1
        add_result(district, student, one["classSourcedId"], day, float(number % 21))


def _add_attendance(district: MadeUpDistrict, day: date) -> None:
    """Add an attendance record for each fifth student."""
    for number, student in enumerate(district.of("student")):
        if number % 5 == 0:
            add_absence(district, student, day, number)


def add(district: MadeUpDistrict, kind: str, id_: str, **values: Any) -> Key:
    """Add a record to a district, and return its key."""
    district.records[kind, id_] = a_record(kind, id_, **values)
    return kind, id_


def add_result(district: MadeUpDistrict, student: str, class_: str, day: date, score: float) -> Key:
    """Give a student a score in the quiz of a class; return the key of the result."""
    return add(
        district,
        "result",
        f"result-{student}-{class_}",
        lineItemSourcedId=f"quiz-{class_}",
        studentSourcedId=student,
        classSourcedId=class_,
        scoreStatus="fullyGraded",
        score=score,
        scoreDate=day,
    )


def add_consent(district: MadeUpDistrict, student: str, vendor: str) -> Key:
    """Enter a parent's consent to the disclosure to a vendor; return its key."""
    return add(
        district,
        OPT_OUT,
        f"consent-{student}",
        studentSourcedId=student,
        scope="vendor",
        vendor=vendor,
        decidedBy="parent",
        decision="allow",
    )


def add_absence(district: MadeUpDistrict, student: Record, day: date, number: int) -> Key:
    """Add an attendance record of a student who was absent on a day; return its key."""
    id_ = student["sourcedId"]
    return add(
        district,
        "attendance",
        f"attendance-{id_}-{day}",
        studentSourcedId=id_,
        schoolSourcedId=student["orgSourcedIds"][0],
        eventDate=day,
        attendanceEventCategory=ABSENCES[number % len(ABSENCES)],
        recordedAt=datetime.combine(day, time(8, 5), UTC),
    )
