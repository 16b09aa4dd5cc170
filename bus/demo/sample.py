"""A made-up school district of any size, day by day, for the demo, tests and benchmarks.

The same seed gives the same district, to the byte. Each record is computed from its number and not
stored, so the extract of a million students is written in constant memory. On each day after the
first, a share of the students changes. They are renamed, moved to another school, marked as deleted
or left out, and new students arrive.

The names come from lists and refer to no real person. The files are OneRoster 1.1 CSV, bulk
(1EdTech, "OneRoster 1.1 CSV Tables", section 4).
"""

from __future__ import annotations

import csv
import io
import random
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal
from zlib import crc32

FIRST_DAY = date(2026, 8, 17)
YEAR_BEGIN, YEAR_END = "2026-08-01", "2027-07-31"

GIVEN = (
    "Amara Aiko Alejandro Anaïs Asha Ben Beatriz Björn Caleb Chidi Chloé Dalia Daniel Đức Elena "
    "Eli Emeka Esmé Fatima Finn Gabriela Grace Hana Hiro Imani Inés Isaac Iván Jada Jaxon José "
    "Kai Keisha Lakota Leila Liam Lucía Mai Malik Marta Mateo Mei Nadia Noah Nuala Olivia Omar "
    "Priya Quinn Rafael Ravi Renée Rosa Samir Saoirse Sofía Tala Thiago Uma Viktor Wren Ximena "
    "Yara Zoë"
).split()
FAMILY = (
    "Abbott Adeyemi Aguilar Ali Anderson Bautista Begay Bennett Brown Castillo Chen Cohen Cruz "
    "Davis Delacroix Diallo Díaz Dubois Edwards Eriksson Fernández Fischer Flores Garcia Goldberg "
    "González Green Gutiérrez Haddad Hall Hansen Hernández Hughes Ibrahim Jackson Jensen Johnson "
    "Jones Kaya Kim King Kowalski Kumar Lee Lewis López Martin Martínez Mbeki Mitchell Moore "
    "Müller Murphy Nakamura Nguyễn Novák O'Brien Okafor Olsen Ortiz Park Patel Peña Pérez "
    "Phillips Quispe Ramírez Reyes Robinson Rossi Saito Sánchez Santos Schmidt Singh Smith Suárez "
    "Tanaka Taylor Thompson Torres Tran Turner Vargas Walker White Williams Wilson Wright Yazzie "
    "Young Zhang"
).split()
PLACES = (
    "Alder Birch Cedar Dogwood Elm Fir Hazel Juniper Laurel Maple Oak Pine Redwood Spruce".split()
)
SUBJECTS = (
    ("English Language Arts", "ELA", "01"),
    ("Mathematics", "MAT", "02"),
    ("Science", "SCI", "03"),
    ("Social Studies", "SOC", "04"),
    ("Visual Art", "ART", "05"),
    ("Music, Band & Choir", "MUS", "05"),
    ("Physical Education", "PED", "08"),
    ("World Languages", "WLG", "24"),
)
OPT_OUTS = (
    ("protected", "", "", "court"),
    *[("directoryInformation", "", "", "parent")] * 5,
    *[("vendor", "Acorn Math", "", "parent")] * 3,
    *[("purpose", "", "research", "parent")] * 2,
)
"""Scope, vendor, purpose and decidedBy of opt-outs, as often as they occur."""
GRADES = ("KG", *(f"{grade:02d}" for grade in range(1, 13)))
CLASS_SIZE = 25
SCHOOL_SIZE = 600

Fate = Literal["same", "renamed", "moved", "marked", "missing"]


@dataclass(frozen=True, slots=True)
class District:
    """A made-up district.

    seed:         selects the district.
    students:     how many students there are on the first day.
    change:       the share of students, 0 to 1, that change on each later day.
    classes_each: how many classes a student takes. There are about this many enrollments for each
                  student.
    opt_outs:     the share of students, 0 to 1, that have an opt-out. With 0, the extract has no
                  optOuts.csv. Otherwise at least one student is protected.
    """

    seed: int = 1
    students: int = 1_000
    change: float = 0.01
    classes_each: int = 8
    opt_outs: float = 0.0

    @property
    def schools(self) -> int:
        """How many schools there are."""
        return max(2, self.students // SCHOOL_SIZE)

    def school_ids(self) -> list[str]:
        """Return the ids of the schools."""
        return [_school(school) for school in range(self.schools)]

    @property
    def sections(self) -> int:
        """How many classes of one subject a school has."""
        return max(1, -(-self.students // self.schools) // CLASS_SIZE)

    def newcomers(self, day: int) -> int:
        """Return how many students arrive on a day; 0 on the first day, which is day 1."""
        return 0 if day == 1 else max(1, round(self.students * self.change * 0.3))

    def came(self, student: int) -> int:
        """Return the day on which a student is in an extract for the first time."""
        day, total = 1, self.students
        while student >= total:
            day += 1
            total += self.newcomers(day)
        return day

    def fate(self, student: int, day: int) -> Fate:
        """Return what happens to a student on a day; nothing on the first day."""
        if day <= (1 if student < self.students else self.came(student)):
            return "same"
        draw = self._draw("fate", student, day) / 2**32
        shares: tuple[tuple[Fate, float], ...] = (
            ("renamed", 0.4),
            ("moved", 0.2),
            ("marked", 0.2),
            ("missing", 0.2),
        )
        edge = 0.0
        for fate, share in shares:
            edge += share * self.change
            if draw < edge:
                return fate
        return "same"

    def write(self, path: Path, day: int = 1) -> Path:
        """Write the extract of a day: a zip if the name ends in .zip, else a folder."""
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for name, rows in self.files(day):
                    with archive.open(name, "w", force_zip64=True) as raw:
                        out = io.TextIOWrapper(raw, "utf-8", newline="")
                        _write(out, rows)
                        out.detach()
        else:
            path.mkdir(parents=True, exist_ok=True)
            for name, rows in self.files(day):
                with (path / name).open("w", encoding="utf-8", newline="") as file:
                    _write(file, rows)
        return path

    def students_of(self, school: int, day: int) -> list[str]:
        """Return the ids of the active students of a school on a day."""
        states = ((student, self._state(student, day)) for student in self._present(day))
        return [
            _student(student)
            for student, (_, at, _, marked) in states
            if at == school and not marked
        ]

    def files(self, day: int) -> Iterator[tuple[str, Iterable[Sequence[str]]]]:
        """Yield the name and the rows of each file of a day's extract. The first row is the header.

        Every value is text, as in the file.
        """
        yield "manifest.csv", _manifest(opt_outs=self.opt_outs > 0)
        yield "orgs.csv", self._orgs(day)
        yield "academicSessions.csv", self._sessions(day)
        yield "courses.csv", self._courses(day)
        yield "classes.csv", self._classes(day)
        yield "users.csv", self._users(day)
        yield "demographics.csv", self._demographics(day)
        yield "enrollments.csv", self._enrollments(day)
        if self.opt_outs > 0:
            yield "optOuts.csv", self._opt_outs(day)

    # ---- files ---------------------------------------------------------------------------------

    def _orgs(self, day: int) -> Iterator[Sequence[str]]:
        yield "sourcedId status dateLastModified name type identifier parentSourcedId".split()
        stamp = _stamp(1)
        town = PLACES[self.seed % len(PLACES)]
        yield "district", "active", stamp, f"{town} Valley School District", "district", "0100", ""
        for school in range(self.schools):
            name = f"{PLACES[school % len(PLACES)]} {('Elementary', 'Middle', 'High')[school % 3]}"
            if school >= len(PLACES):
                name += f" {school // len(PLACES) + 1}"
            yield _school(school), "active", stamp, name, "school", f"{school + 1:04d}", "district"

    def _sessions(self, day: int) -> Iterator[Sequence[str]]:
        yield (
            "sourcedId status dateLastModified title type startDate endDate parentSourcedId "
            "schoolYear"
        ).split()
        stamp = _stamp(1)
        yield (
            "sy-2027",
            "active",
            stamp,
            "2026-2027",
            "schoolYear",
            YEAR_BEGIN,
            YEAR_END,
            "",
            "2027",
        )
        for id_, title, begin, end in (
            ("term-fall", "Fall 2026", "2026-08-17", "2026-12-18"),
            ("term-spring", "Spring 2027", "2027-01-05", "2027-06-11"),
        ):
            yield id_, "active", stamp, title, "term", begin, end, "sy-2027", "2027"

    def _courses(self, day: int) -> Iterator[Sequence[str]]:
        yield (
            "sourcedId status dateLastModified schoolYearSourcedId title courseCode grades "
            "orgSourcedId subjects subjectCodes"
        ).split()
        grades = ",".join(GRADES)
        for title, code, sced in SUBJECTS:
            yield (
                f"course-{code}", "active", _stamp(1), "sy-2027", title, code, grades, "district",
                title, sced,
            )  # fmt: skip

    def _classes(self, day: int) -> Iterator[Sequence[str]]:
        yield (
            "sourcedId status dateLastModified title grades courseSourcedId classCode classType "
            "location schoolSourcedId termSourcedIds subjects subjectCodes periods"
        ).split()
        for school in range(self.schools):
            for subject in range(self.classes_each):
                title, code, sced = SUBJECTS[subject % len(SUBJECTS)]
                for section in range(self.sections):
                    grade = GRADES[section % len(GRADES)]
                    name = f"{title} {grade} ({section + 1})"
                    if day > 1 and school == subject == section == 0:
                        name += ", honors"
                    yield (
                        _class(school, subject, section), "active", _stamp(1), name, grade,
                        f"course-{code}", f"{code}-{section + 1:03d}",
                        "homeroom" if subject == 0 else "scheduled", f"Room {section + 101}",
                        _school(school), "term-fall,term-spring", title, sced, str(subject + 1),
                    )  # fmt: skip

    def _users(self, day: int) -> Iterator[Sequence[str]]:
        yield (
            "sourcedId status dateLastModified enabledUser orgSourcedIds role username userIds "
            "givenName familyName middleName identifier email sms phone agentSourcedIds grades "
            "password"
        ).split()
        for school in range(self.schools):
            for teacher in range(self._teachers):
                given, family = self._name("teacher", school * self._teachers + teacher)
                login = f"t{school:04d}{teacher:03d}"
                yield (
                    _teacher(school, teacher), "active", _stamp(1), "true", _school(school),
                    "teacher", login, "", given, family, "", login, f"{login}@staff.example.org",
                    "", "", "", "", "",
                )  # fmt: skip
        for student in self._present(day):
            since, school, renamed, marked = self._state(student, day)
            given, family = self._name("student", student)
            if renamed:
                family = f"{family}-{FAMILY[self._draw('new name', student, since) % len(FAMILY)]}"
            login = f"s{student:07d}"
            yield (
                _student(student), "tobedeleted" if marked else "active", _stamp(since), "true",
                _school(school), "student", login, f"{{SIS:{student}}}", given, family, "",
                f"{100000 + student}", f"{login}@students.example.org", "", "",
                _guardian(student), GRADES[student % len(GRADES)], "",
            )  # fmt: skip
        for family_number in range((self.students + 1) // 2):
            given, family = self._name("guardian", family_number)
            yield (
                f"guardian-{family_number:07d}", "active", _stamp(1), "true", "district",
                "guardian", "", "", given, family, "", "",
                f"g{family_number:07d}@families.example.org", "", "",
                f"{_student(family_number * 2)},{_student(family_number * 2 + 1)}", "", "",
            )  # fmt: skip

    def _demographics(self, day: int) -> Iterator[Sequence[str]]:
        yield (
            "sourcedId status dateLastModified birthDate sex americanIndianOrAlaskaNative asian "
            "blackOrAfricanAmerican nativeHawaiianOrOtherPacificIslander white "
            "demographicRaceTwoOrMoreRaces hispanicOrLatinoEthnicity countryOfBirthCode "
            "stateOfBirthAbbreviation cityOfBirth publicSchoolResidenceStatus"
        ).split()
        for student in self._present(day):
            draw = self._draw("demographics", student)
            born = date(2021 - student % len(GRADES), 1, 1) + timedelta(days=draw % 365)
            race = ["true" if draw >> (8 + bit) & 3 == 0 else "false" for bit in range(7)]
            sex = ("female", "male", "other")[min(draw % 100 // 49, 2)]
            yield (
                _student(student), "active", _stamp(1), born.isoformat(), sex, *race,
                "US", "", "", "",
            )  # fmt: skip

    def _opt_outs(self, day: int) -> Iterator[Sequence[str]]:
        yield (
            "sourcedId status dateLastModified studentSourcedId scope vendor purpose decidedBy "
            "beginDate endDate"
        ).split()
        protected = self._draw("protected") % self.students
        for student in self._present(day):
            draw = self._draw("opt-out", student)
            if student == protected:
                kind = OPT_OUTS[0]
            elif draw / 2**32 < self.opt_outs:
                kind = OPT_OUTS[draw % len(OPT_OUTS)]
            else:
                continue
            scope, vendor, purpose, decided_by = kind
            yield (
                f"optout-{student:07d}", "active", _stamp(1), _student(student), scope, vendor,
                purpose, decided_by, YEAR_BEGIN, "",
            )  # fmt: skip

    def _enrollments(self, day: int) -> Iterator[Sequence[str]]:
        yield (
            "sourcedId status dateLastModified classSourcedId schoolSourcedId userSourcedId role "
            "primary beginDate endDate"
        ).split()
        stamp = _stamp(1)
        for school in range(self.schools):
            for number in range(self.classes_each * self.sections):
                subject, section = divmod(number, self.sections)
                id_ = _class(school, subject, section)
                yield (
                    f"te-{id_}", "active", stamp, id_, _school(school),
                    _teacher(school, number % self._teachers), "teacher", "true",
                    YEAR_BEGIN, YEAR_END,
                )  # fmt: skip
        for student in self._present(day):
            since, school, _, _ = self._state(student, day)
            first = self._home(student)
            begin = YEAR_BEGIN
            if school != first:
                yield from self._class_enrollments(student, first, "tobedeleted", YEAR_BEGIN, since)
                begin = _day(since)
            yield from self._class_enrollments(student, school, "active", begin, since)

    def _class_enrollments(
        self, student: int, school: int, status: str, begin: str, since: int
    ) -> Iterator[Sequence[str]]:
        end = YEAR_END if status == "active" else _day(since)
        section = student // self.schools % self.sections
        for subject in range(self.classes_each):
            yield (
                f"e-{student:07d}-{school:04d}-{subject}", status, _stamp(since),
                _class(school, subject, section), _school(school), _student(student), "student", "",
                begin, end,
            )  # fmt: skip

    # ---- values that look random ---------------------------------------------------------------

    @property
    def _teachers(self) -> int:
        """How many teachers a school has; each teaches about five classes."""
        return max(1, self.classes_each * self.sections // 5)

    def _present(self, day: int) -> Iterator[int]:
        """Yield the numbers of the students who are in a day's extract."""
        total = self.students + sum(self.newcomers(d) for d in range(2, day + 1))
        for student in range(total):
            if not any(self.fate(student, d) == "missing" for d in range(2, day + 1)):
                yield student

    def _state(self, student: int, day: int) -> tuple[int, int, bool, bool]:
        """Return the day of the last change, the school, and whether renamed and deleted."""
        since, school, renamed, marked = 1, self._home(student), False, False
        for d in range(2, day + 1):
            fate = self.fate(student, d)
            if fate == "same":
                continue
            since = d
            renamed |= fate == "renamed"
            marked |= fate == "marked"
            if fate == "moved":
                school = (school + 1) % self.schools
        return since, school, renamed, marked

    def _home(self, student: int) -> int:
        return student % self.schools

    def _name(self, role: str, number: int) -> tuple[str, str]:
        draw = self._draw(role, number)
        return GIVEN[draw % len(GIVEN)], FAMILY[draw // len(GIVEN) % len(FAMILY)]

    def _draw(self, *about: object) -> int:
        """Return a number of 32 bits that looks random; the same arguments give the same number."""
        return random.Random(crc32(repr((self.seed, *about)).encode())).getrandbits(32)


def _manifest(*, opt_outs: bool) -> Iterator[Sequence[str]]:
    yield "propertyName", "value"
    yield "manifest.version", "1.0"
    yield "oneroster.version", "1.1"
    there = {
        "orgs",
        "academicSessions",
        "courses",
        "classes",
        "users",
        "demographics",
        "enrollments",
    }
    absent = {
        "categories",
        "classResources",
        "courseResources",
        "lineItems",
        "resources",
        "results",
    }
    if opt_outs:
        there.add("optOuts")
    for name in sorted(there | absent):
        yield f"file.{name}", "bulk" if name in there else "absent"
    yield "source.systemName", "Schoolbus sample district"
    yield "source.systemCode", "SAMPLE"


def _write(out: io.TextIOBase, rows: Iterable[Sequence[str]]) -> None:
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    out.flush()


def _day(day: int) -> str:
    return (FIRST_DAY + timedelta(days=day - 1)).isoformat()


def _stamp(day: int) -> str:
    return f"{_day(day)}T06:00:00.000Z"


def _school(number: int) -> str:
    return f"school-{number:04d}"


def _class(school: int, subject: int, section: int) -> str:
    return f"class-{school:04d}-{subject}-{section:03d}"


def _teacher(school: int, number: int) -> str:
    return f"teacher-{school:04d}-{number:03d}"


def _student(number: int) -> str:
    return f"student-{number:07d}"


def _guardian(student: int) -> str:
    return f"guardian-{student // 2:07d}"
