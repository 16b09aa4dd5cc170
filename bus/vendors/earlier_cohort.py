"""The students of a vendor from before its topics are written again.

When an agreement changes, the vendor's topics are written again, and then the earlier records are
deleted. For a large district this takes minutes. During these minutes, the changed agreement or a
new opt-out may exclude a student. The vendor must not be able to read the student's records for so
long. So the earlier cohort is kept, and a deletion is sent at once for each record about such a
student that the vendor may have.

Records that only come along with students, such as guardians, are deleted with the other earlier
records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date

from bus.vendors.agreement import parse
from bus.vendors.cohort import Cohort
from bus.vendors.district_view import EARLIER, DistrictView, Key, student_of
from bus.vendors.projected import LAST, ORDER, ProjectedBatch
from bus.vendors.projection import STUDENT_KINDS
from bus.vendors.record_rules import Change, RecordRules, roster_and_opt_outs
from bus.vendors.scope import OPT_OUT, Scope, compile_scope
from bus.vendors.stream_progress import EarlierAgreement


@dataclass(slots=True)
class Dismissal:
    """The deletions about students who are not wanted any more.

    batches: the deletions under each earlier agreement, with real ids.
    left:    the students.
    """

    batches: list[tuple[EarlierAgreement, ProjectedBatch]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


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
            self._rules.append((one, before, RecordRules(before, view, one.above)))

    def after(self, student: str, number: int) -> list[str]:
        """Return the next students of the earlier cohort, in order of their ids."""
        return self._cohort.after(student, number)

    def forget(self) -> None:
        """Forget the students, because the earlier records are deleted."""
        self._cohort.clear()

    def dismiss(
        self, students: Collection[str], day: date, changes: Iterable[Change] = ()
    ) -> Dismissal:
        """Return the deletions about those of these students who are not wanted any more.

        changes: what has changed about these students. The vendor may have records that the
                 district has just erased, or that are about somebody else now.
        """
        found = Dismissal()
        members = self._cohort.get(students) if self._rules else {}
        if not members:
            return found
        lost = self._lost(changes, members)
        kinds = ["student", OPT_OUT, *(["enrollment"] if self._scope.needs_classes else [])]
        about = self._view.of_students(members, kinds)
        gone: list[tuple[str, str, str]] = []
        for student in sorted(members):
            member = members[student]
            if student in lost:
                member.keys = list(dict.fromkeys([*member.keys, *lost[student]]))
            exists, selected, kept_out = roster_and_opt_outs(
                self._scope, about.get(student, ()), day
            )
            if not exists or not selected or kept_out:
                found.left.append(student)
                self._cohort.put(student, None)
                keys = [("student", student), *member.keys]
                gone += ((kind, id_, student) for kind, id_ in keys)
            elif student in lost:
                self._cohort.put(student, member)
        if found.left:
            self._delete(found, gone)
        return found

    # ---- within --------------------------------------------------------------------------------

    def _lost(self, changes: Iterable[Change], members: Collection[str]) -> dict[str, list[Key]]:
        """Return the records that are not about a student any more, for each of the members."""
        found: dict[str, list[Key]] = {}
        for one in changes:
            student = student_of(one.kind, one.before) if one.before is not None else None
            if student is None or student not in members:
                continue
            if one.after is not None and student_of(one.kind, one.after) == student:
                continue
            if any(rules.shows(one.kind, one.before or {}) for _, _, rules in self._rules):
                found.setdefault(student, []).append((one.kind, one.id))
        return found

    def _delete(self, found: Dismissal, gone: Sequence[tuple[str, str, str]]) -> None:
        """Add deletions of all records about the students who have left.

        gone: more records that the vendor may have: kind, id, student.
        """
        records = self._view.by_kind(found.left, STUDENT_KINDS)
        now = self._view.get_all({(kind, id_) for kind, id_, _ in gone})
        # The deletion of a record that is about somebody else now could delete the new state.
        own = [
            (kind, id_, student)
            for kind, id_, student in gone
            if (record := now.get((kind, id_))) is None or student_of(kind, record) == student
        ]
        for earlier, before, rules in self._rules:
            for kind in STUDENT_KINDS:
                if kind not in before.kinds:
                    continue
                keys = {(id_, student): None for one, id_, student in own if one == kind}
                for student, record in zip(*records[kind], strict=True):
                    if rules.shows(kind, record):
                        keys[str(record["sourcedId"]), student] = None
                if keys:
                    ids, owners = map(list, zip(*keys, strict=True))
                    batch = ProjectedBatch(kind, LAST - ORDER[kind], ids, owners, None)
                    found.batches.append((earlier, batch))
