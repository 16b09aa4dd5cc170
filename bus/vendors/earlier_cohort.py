"""The students of a vendor from before its topics are written again.

When an agreement changes, the vendor's topics are written whole, and then the earlier records are
deleted. For a large district this takes minutes. Nobody whom a decision excludes may stay readable
for so long. So the earlier cohort is kept until then. A student of it who is not wanted any more is
deleted at once: a deletion is sent for each record about the student that the vendor may have. Two
reasons can exclude a student: the changed agreement, and an opt-out that comes meanwhile.

Records that only come along with students, such as guardians, are deleted with the other earlier
records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from bus.vendors.agreement import parse
from bus.vendors.cohort import Cohort
from bus.vendors.district_view import EARLIER, DistrictView
from bus.vendors.projected import LAST, ORDER, ProjectedBatch
from bus.vendors.projection import STUDENT_KINDS
from bus.vendors.record_rules import RecordRules, roster_and_opt_outs
from bus.vendors.scope import OPT_OUT, Scope, compile_scope
from bus.vendors.stream_progress import EarlierAgreement

CHOOSING = ("students", "basis", "purpose", "vendor")
"""The keys of an agreement's file that decide, with the roster and opt-outs, who is in it."""


@dataclass(slots=True)
class Dismissal:
    """The deletions about students who are not wanted any more.

    batches: the deletions under each earlier agreement, with real ids.
    left:    the students.
    """

    batches: list[tuple[Scope, ProjectedBatch]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def may_exclude(earlier: Iterable[EarlierAgreement], agreement: Mapping[str, Any]) -> bool:
    """Return whether an agreement may exclude students who were in one of these agreements.

    agreement: as its file has it.
    """
    return any(one.agreement.get(key) != agreement.get(key) for one in earlier for key in CHOOSING)


class EarlierCohort:
    """The earlier cohort of one agreement. For one thread, within a transaction of the view.

    scope:   the agreement now.
    earlier: the agreements under which the vendor's topics were written, as far as their records
             are not deleted yet.
    """

    def __init__(
        self, scope: Scope, view: DistrictView, earlier: Sequence[EarlierAgreement]
    ) -> None:
        self._scope = scope
        self._view = view
        self._cohort = Cohort(view.con, scope.name + EARLIER)
        self._rules = []
        for one in earlier:
            before = compile_scope(parse(scope.name, one.agreement, scope.name))
            self._rules.append((before, RecordRules(before, view, one.above)))

    def after(self, student: str, number: int) -> list[str]:
        """Return the next students of the earlier cohort, in order of their ids."""
        return self._cohort.after(student, number)

    def forget(self) -> None:
        """Forget the students, because the earlier records are deleted."""
        self._cohort.clear()

    def dismiss(self, students: Collection[str], day: date) -> Dismissal:
        """Return the deletions about those of these students who are not wanted any more."""
        found = Dismissal()
        members = self._cohort.get(students) if self._rules else {}
        if not members:
            return found
        kinds = ["student", OPT_OUT, *(["enrollment"] if self._scope.needs_classes else [])]
        about = self._view.of_students(members, kinds)
        for student in sorted(members):
            exists, selected, kept_out = roster_and_opt_outs(
                self._scope, about.get(student, ()), day
            )
            if not exists or not selected or kept_out:
                found.left.append(student)
                self._cohort.put(student, None)
        if not found.left:
            return found
        records = self._view.by_kind(found.left, STUDENT_KINDS)
        stored = [
            (kind, id_, student) for student in found.left for kind, id_ in members[student].keys
        ]
        for before, rules in self._rules:
            for kind in STUDENT_KINDS:
                if kind not in before.kinds:
                    continue
                keys = {(id_, student): None for one, id_, student in stored if one == kind}
                for student, record in zip(*records[kind], strict=True):
                    if rules.shows(kind, record):
                        keys[str(record["sourcedId"]), student] = None
                if keys:
                    ids, owners = map(list, zip(*keys, strict=True))
                    found.batches.append(
                        (before, ProjectedBatch(kind, LAST - ORDER[kind], ids, owners, None))
                    )
        return found
