"""Decides which records a vendor sees, if that depends on other records of the district.

`bus.vendors.scope` looks at one record alone. These rules also look at other records: the class of
a result is that of its line item, and the school is that of the class. They also say which records
must be sent because a sent record refers to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import date
from typing import NamedTuple

from bus.standard.kinds import KINDS, Record
from bus.vendors.agreement import Agreement
from bus.vendors.district_view import DistrictView, Key, student_of
from bus.vendors.scope import OPT_OUT, Scope

CLASS_KINDS = ("lineItem", "enrollment")
"""Kinds whose records are sent because their class is; an enrollment only if it is a teacher's."""


class Change(NamedTuple):
    """A record of the district that changed.

    before, after: its states; None: there is none.
    """

    kind: str
    id: str
    before: Record | None
    after: Record | None


class RecordRules:
    """The rules of one agreement.

    scope: the compiled agreement.
    view:  the district.
    above: the organizations above the selected schools.

    The attribute `always` has the kinds of which `shows` is true for each record.
    """

    def __init__(self, scope: Scope, view: DistrictView, above: Collection[str]) -> None:
        self.above = frozenset(above)
        self._scope = scope
        self._view = view
        self._old: dict[Key, Record | None] = {}
        some = {"attendance", "result"} | ({"enrollment"} if scope.selects_places else set())
        self.always = frozenset(scope.kinds) - some
        self._single = {kind: self._single_references(kind) for kind in scope.kinds}

    def begin(self, changes: Collection[Change]) -> None:
        """Remember the classes and line items before these changes, for what is asked as `old`."""
        self._old = {
            (change.kind, change.id): change.before
            for change in changes
            if change.kind in ("class", "lineItem")
        }

    def refers(self, kind: str, record: Record, *, old: bool = False) -> set[Key]:
        """Return the records that must be sent because a record refers to them.

        A class is not sent because of its line items or teachers, and a line item is not sent
        because of its results: it is sent with its class.
        """
        found = self._scope.refers(kind, record, self.above)
        found = {key for key in found if key[0] != "lineItem"}
        if kind in CLASS_KINDS:
            # An enrollment names a student or a teacher, in one field.
            other = "class" if student_of(kind, record) is None else "staff"
            found = {key for key in found if key[0] != other}
        if kind == "result" and "class" in self._scope.kinds:
            class_ = self._class_of_result(record, old)
            found |= {("class", class_)} if class_ is not None else set()
        return found

    def count_refers(self, kind: str, records: Sequence[Record]) -> Counter[Key]:
        """Return how many of these records, which are about students, refer to each record."""
        found: Counter[Key] = Counter()
        if (single := self._single.get(kind)) is None:
            for record in records:
                found.update(self.refers(kind, record))
            return found
        for field, target in single:
            ids = Counter([record[field] for record in records])
            ids.pop(None, None)
            for id_, number in ids.items():
                found[target, id_] = number
        return found

    def _single_references(self, kind: str) -> tuple[tuple[str, str], ...] | None:
        """Return the fields of a kind that name a record to send, each with that record's kind.

        Returns None if `refers` must look at each record.
        """
        if kind == "result" or self._scope.selects_schools:
            return None
        found: dict[str, str] = {}
        lists = {
            field["name"] for field in KINDS[kind].schema["fields"] if "array" in str(field["type"])
        }
        for field, kinds in self._scope.kinds[kind].references.items():
            without = ("student", "lineItem", *(["staff"] if kind == "enrollment" else []))
            for target in kinds:
                if target in without or target not in self._scope.kinds:
                    continue
                if field in lists or field in found or target in found.values():
                    return None
                found[field] = target
        return tuple(found.items())

    def shows(self, kind: str, record: Record, *, old: bool = False) -> bool:
        """Return whether the vendor sees a record about a student of the cohort.

        old: use the classes and line items as they were before the changes.
        """
        if kind in self.always:
            return True
        if kind not in self._scope.kinds or not self._scope.admits_date(kind, record):
            return False
        if kind == "result":
            return self._shows_result(record, old)
        return self._scope.admits_place(record) if kind in ("enrollment", "attendance") else True

    def differs(self, kind: str, before: Record, after: Record) -> bool:
        """Return whether a shared field changed."""
        return any(before[name] != after[name] for name in self._scope.kinds[kind].fields)

    def _shows_result(self, record: Record, old: bool) -> bool:
        """Return whether a result is of a selected school and class."""
        students = self._scope.agreement.students
        if not students.schools and not students.classes:
            return True
        class_ = self._class_of_result(record, old)
        if class_ is None:
            return False
        found = self._lookup("class", class_, old) if students.schools else {}
        school = value(found, "schoolSourcedId")
        if students.schools and school is None:
            return False
        return self._scope.admits_place({"schoolSourcedId": school, "classSourcedId": class_})

    def _class_of_result(self, record: Record, old: bool) -> str | None:
        """Return the class of a result: its own, or that of its line item."""
        if (class_ := record["classSourcedId"]) is not None:
            return str(class_)
        return value(self._lookup("lineItem", record["lineItemSourcedId"], old), "classSourcedId")

    def _lookup(self, kind: str, id_: str, old: bool) -> Record | None:
        if old and (kind, id_) in self._old:
            return self._old[kind, id_]
        return self._view.get(kind, id_)


def roster_and_opt_outs(
    scope: Scope, about: Iterable[tuple[str, Record]], day: date
) -> tuple[bool, bool, bool]:
    """Return whether a student exists, the roster selects it, and an opt-out keeps it out.

    about: the student's records of the kinds student and optOut, and enrollment if
           `Scope.needs_classes`, each with its kind.
    """
    student: Record | None = None
    opt_outs = []
    classes = set()
    for kind, record in about:
        if kind == "student":
            student = record
        elif kind == OPT_OUT:
            opt_outs.append(record)
        elif record["status"] == "active":
            classes.add(record["classSourcedId"])
    selected = student is not None and scope.selects(student, classes)
    return student is not None, selected, scope.keeps_out(opt_outs, day)


def orgs_above(view: DistrictView, agreement: Agreement) -> frozenset[str]:
    """Return the organizations above the schools that an agreement selects."""
    above: set[str] = set()
    waiting = list(agreement.students.schools)
    while waiting:
        parent = value(view.get("org", waiting.pop()), "parentSourcedId")
        if parent is not None and parent not in above:
            above.add(parent)
            waiting.append(parent)
    return frozenset(above)


def value(record: Record | None, name: str) -> str | None:
    """Return a field of a record; None if there is no record."""
    return record.get(name) if record else None
