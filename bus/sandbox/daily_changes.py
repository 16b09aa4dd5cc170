"""Changes a made-up district day by day, so that a vendor sees each sort of event."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from datetime import date
from typing import Any

from bus.demo.sample import FAMILY, GIVEN
from bus.sandbox.made_up_district import (
    Key,
    MadeUpDistrict,
    add,
    add_absence,
    add_consent,
    add_result,
)
from bus.standard.kinds import KINDS, Record
from bus.vendors.scope import OPT_OUT, Scope

MOST_OPT_OUTS = 3
"""When this many opt-outs of the sandbox are active, the oldest ends."""
FEWEST_STUDENTS = 5
"""If an agreement has fewer students than this, no student leaves it."""
WITHDRAWN = "tobedeleted"
OURS = "optout-sandbox-"
"""The beginning of the ids of the opt-outs that a sandbox itself enters."""


class DailyChanges:
    """Changes a district day by day, mostly for students of one agreement.

    scope:  the agreement.
    random: chooses what changes.
    """

    def __init__(self, district: MadeUpDistrict, scope: Scope, random: random.Random) -> None:
        self._district = district
        self._scope = scope
        self._random = random

    def next_day(self, day: date) -> list[Key]:
        """Change the district, and return the keys of the records that are new or changed.

        A student joins, a student is withdrawn, a student changes a class, a name changes, an
        opt-out begins or ends, and some absences and scores are entered.

        day: today, for attendance and scores.
        """
        changed = list(self._changes(day))
        return list(dict.fromkeys(changed))

    def _changes(self, day: date) -> Iterator[Key]:
        roster = self._district.roster(self._scope)
        if not roster:
            return
        yield from joined(self._district, self._random.choice(roster), self._random)
        if len(roster) > FEWEST_STUDENTS:
            yield from withdrawn(self._district, roster.pop(self._number(roster)))
        yield from self._another_class(self._random.choice(roster))
        yield renamed(self._district, self._random.choice(roster), self._random)
        yield from self._opt_out(roster)
        for student in self._random.sample(roster, min(3, len(roster))):
            record = self._district.records["student", student]
            yield add_absence(self._district, record, day, self._random.randrange(9))
            yield from self._score(student, day)

    def _number(self, roster: list[str]) -> int:
        return self._random.randrange(len(roster))

    def _enrollments(self, student: str) -> list[Record]:
        return [
            self._district.records[key]
            for key in self._district.about(student)
            if key[0] == "enrollment"
        ]

    def _another_class(self, student: str) -> Iterator[Key]:
        """Move a student from a class to another one of the same course and school."""
        for one in self._enrollments(student):
            old = self._district.records["class", one["classSourcedId"]]
            others = [
                other["sourcedId"]
                for other in self._district.of("class")
                if other["courseSourcedId"] == old["courseSourcedId"]
                and other["schoolSourcedId"] == old["schoolSourcedId"]
                and other["sourcedId"] != old["sourcedId"]
            ]
            if others:
                yield self._district.set(("enrollment", one["sourcedId"]), status=WITHDRAWN)
                yield _enrolled(self._district, student, one, self._random.choice(others))
                return

    def _score(self, student: str, day: date) -> Iterator[Key]:
        for one in self._enrollments(student)[:1]:
            score = float(self._random.randrange(21))
            yield add_result(self._district, student, one["classSourcedId"], day, score)

    def _opt_out(self, roster: list[str]) -> Iterator[Key]:
        """Enter an opt-out from the agreement, or end one that this class entered."""
        ours = [one for one in self._district.of(OPT_OUT) if one["sourcedId"].startswith(OURS)]
        if len(ours) >= MOST_OPT_OUTS:
            oldest = min(ours, key=lambda one: (one["dateLastModified"], one["sourcedId"]))
            yield self._district.set((OPT_OUT, oldest["sourcedId"]), status=WITHDRAWN)
        elif students := self._district.without_opt_outs(roster):
            yield opted_out(self._district, self._random.choice(students), self._scope)


def opted_out(district: MadeUpDistrict, student: str, scope: Scope) -> Key:
    """Enter an opt-out of a student from the agreement of a scope; return its key."""
    return add(
        district,
        OPT_OUT,
        f"{OURS}{student}",
        studentSourcedId=student,
        scope="vendor",
        vendor=scope.agreement.vendor,
        purpose=None,
        decidedBy="parent",
    )


def renamed(district: MadeUpDistrict, student: str, random: random.Random) -> Key:
    """Give a student another family name; return the student's key."""
    name = district.records["student", student]["familyName"].partition("-")[0]
    other = random.choice([one for one in FAMILY if one != name])
    return district.set(("student", student), familyName=f"{name}-{other}")


def withdrawn(district: MadeUpDistrict, student: str) -> list[Key]:
    """Withdraw a student with the student's enrollments and demographics; return their keys."""
    return [
        district.set(key, status=WITHDRAWN)
        for key in district.about(student)
        if key[0] in ("student", "demographics", "enrollment")
    ]


def joined(district: MadeUpDistrict, like: str, random: random.Random) -> list[Key]:
    """Add a student with the school, grade and classes of another student; return the new keys."""
    number = sum(kind == "student" for kind, _ in district.records)
    id_ = f"student-{number:07d}"
    given, family = random.choice(GIVEN), random.choice(FAMILY)
    login = f"s{number:07d}"
    values = {
        "username": login,
        "givenName": given,
        "familyName": family,
        "email": f"{login}@students.example.org",
        "identifier": f"{100000 + number}",
        "userIds": [f"{{SIS:{number}}}"],
        "agentSourcedIds": [],
    }
    kinds = ("student", "demographics", "enrollment")
    return taken_over(district, like, id_, kinds, **values)


def taken_over(
    district: MadeUpDistrict, student: str, id_: str, kinds: Collection[str], **values: Any
) -> list[Key]:
    """Add a student with copies of another student's active records; return the new keys.

    id_:    the new student's id. All copies get new ids, because the partition of most records
            depends on their student.
    kinds:  the kinds of record that are copied. A consent is always copied.
    values: fields of the new student that differ.
    """
    found = []
    for number, (kind, old) in enumerate(district.about(student)):
        if kind not in kinds:
            continue
        record = district.records[kind, old]
        new = id_ if old == student else f"{kind}-{id_}-{number}"
        changes = {
            field: id_
            for field, targets in KINDS[kind].references.items()
            if "student" in targets and record[field] == student
        }
        if kind == "student":
            changes |= values
        district.records[kind, new] = record | changes | {"sourcedId": new}
        found.append(district.set((kind, new)))
    consents = [one for one in district.of(OPT_OUT) if one["decision"] == "allow"]
    found += [
        add_consent(district, id_, one["vendor"])
        for one in consents
        if one["studentSourcedId"] == student
    ]
    return found


def _enrolled(district: MadeUpDistrict, student: str, like: Record, class_: str) -> Key:
    id_ = f"e-{student}-{class_}"
    district.records["enrollment", id_] = {**like, "sourcedId": id_, "classSourcedId": class_}
    return district.set(("enrollment", id_), status="active")
