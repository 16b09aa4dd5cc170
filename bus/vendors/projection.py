"""Turns the district's changes into what one vendor receives. This module does not use Kafka.

A `Projection` belongs to one agreement. It takes the records that changed and returns what must be
sent: for each record that the vendor may see, its shared fields; for each record that the vendor
may not see any more, a deletion. It keeps two things in the file of the view: the cohort, and how
many sent records refer to each record of the third group below (`need`).

Three groups of records:

* about a student (the student, demographics, enrollments of students, attendance, results): sent
  while the student is in the cohort and `Scope` admits the record;
* of a class (line items, enrollments of teachers): sent while the class is sent;
* all others (organizations, terms, courses, classes, staff, guardians): sent while a record that is
  sent refers to them.

When a student enters, all records about the student are sent. When an opt-out or a change of the
agreement excludes a student, the student is deleted at once, without a reason. When the roster no
longer puts a student into the agreement, the student is sent as withdrawn, and is deleted
`leave_after` days later. If many students enter or leave through the roster at once, they are kept
as they are (HELD), until a person allows the change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from itertools import chain, compress, repeat

from bus.standard.kinds import KINDS, Record
from bus.vendors.asked_records import RecordsOf
from bus.vendors.cohort import Cohort, CohortMember, State
from bus.vendors.counted_references import Emitted
from bus.vendors.district_view import DistrictView, Key, student_of
from bus.vendors.named_students import NamedStudents
from bus.vendors.projected import FIRST, LAST, ORDER, Outcome, ProjectedBatch
from bus.vendors.record_rules import CLASS_KINDS, Change, RecordRules, roster_and_opt_outs, value
from bus.vendors.scope import OPT_OUT, Scope
from bus.vendors.shard_words import Asked
from bus.vendors.shared_records import SharedRecords

STUDENT_KINDS = tuple(kind for kind, about in KINDS.items() if about.student is not None)
WITHDRAWN = "tobedeleted"


class Projection:
    """The projection of one agreement. For one thread, within a transaction of the view.

    scope:     the compiled agreement.
    view:      the district. It must have the new states before `take` is called.
    vendor_id: the vendor's id for a real one.
    above:     the organizations above the selected schools (`orgs_above`), as they were when the
               vendor's topics were written.
    prepare:   called with real ids before `vendor_id` is called with each of them.
    records:   how the records that students share are handled.
    """

    def __init__(
        self,
        scope: Scope,
        view: DistrictView,
        vendor_id: Callable[[str], str],
        above: Collection[str] = (),
        prepare: Callable[[Iterable[str]], None] | None = None,
        records: RecordsOf = SharedRecords,
    ) -> None:
        self.scope = scope
        self.cohort = Cohort(view.con, scope.name)
        self._view = view
        self._vendor_id = vendor_id
        self._prepare = prepare or (lambda _: None)
        self._rules = RecordRules(scope, view, above)
        self._shared = records(scope, view, self._rules)
        self._student_kinds = tuple(kind for kind in STUDENT_KINDS if kind in scope.kinds)
        self._named = NamedStudents(scope, view, self.cohort)
        self._out = Outcome()
        self._emit: Emitted = {}

    # ---- for callers ---------------------------------------------------------------------------

    def take(
        self,
        changes: Iterable[Change],
        day: date,
        *,
        reached: str | None = None,
        budget: int | None = None,
    ) -> Outcome:
        """Return what follows from changes.

        reached: while the vendor's topics are being written for the first time: the last student
                 who was looked at. `look_at` handles the students after this one. None: all
                 students have been looked at.
        budget:  if more students than this enter or leave through the roster, all of them are held
                 back. None: no limit.
        """
        changes = list(changes)
        self._start(changes)
        changes += self._touched_results(changes)
        for change in changes:
            if change.kind in self.scope.kinds and change.kind not in STUDENT_KINDS:
                self._shared.shared_changed(change)
        for change in changes:
            if change.kind in CLASS_KINDS and change.kind in self.scope.kinds:
                self._shared.of_class_changed(change)
        by_student: dict[str, list[Change]] = {}
        for change in changes:
            for student in {
                student_of(change.kind, state)
                for state in (change.before, change.after)
                if state is not None
            }:
                if student is not None and (reached is None or student <= reached):
                    by_student.setdefault(student, []).append(change)
        self._students_changed(by_student, day, budget)
        return self._finish()

    def look_at(
        self,
        students: Collection[str],
        day: date,
        *,
        budget: int | None = None,
        release: bool = False,
    ) -> Outcome:
        """Return what follows for students although none of their records changed.

        Call it when the vendor's topics are written for the first time, when the day has changed,
        and when a person has allowed what the guard held back.

        release: also decide about students who are HELD.
        """
        self._start(())
        self._students_changed(dict.fromkeys(students, ()), day, budget, release=release)
        return self._finish()

    def expire(self, day: date) -> Outcome:
        """Return the deletions of students who left `leave_after` days ago."""
        self._start(())
        due = self.cohort.left_before(day, self.scope.agreement.students.leave_after)
        for student, member in self.cohort.get(due).items():
            self._drop_stored(student, member)
            self.cohort.put(student, None)
        return self._finish()

    def asked(self, words: Iterable[tuple[int, Asked]]) -> tuple[Outcome, list[Key]]:
        """Return what follows from what other shards ask for; only in the common shard.

        Also returns the records that the view did not have yet.

        words: each with the number of its shard.
        """
        self._start(())
        missing = self._shared.asked(words)
        return self._finish(), missing

    def send_again(self, keys: Collection[Key], *, active: bool = False) -> Outcome:
        """Return the present states of records, as far as they are sent.

        active: only of those records that are active.
        """
        self._start(())
        found = self._view.get_all(key for key in keys if key[0] in self.scope.kinds)
        records = {
            key: one for key, one in found.items() if not active or one["status"] == "active"
        }
        owners = {key: student_of(key[0], one) for key, one in records.items()}
        members = self.cohort.get({one for one in owners.values() if one is not None})
        inside = {one for one, member in members.items() if member.state is State.IN}
        for (kind, id_), record in records.items():
            student = owners[kind, id_]
            if student is None:
                self._shared.send_again(kind, record)
            elif student in inside and self._rules.shows(kind, record):
                self._emit[kind, id_, student] = record
        return self._finish()

    def forget(self) -> None:
        """Forget everything, because the vendor's topics are written again."""
        self.cohort.clear()
        self._shared.forget()

    def dropped(self) -> None:
        """Forget what is in memory, because the transaction of the view was rolled back."""
        self._shared.dropped()

    # ---- one run -------------------------------------------------------------------------------

    def _start(self, changes: Collection[Change]) -> None:
        self._out = Outcome()
        self._emit = {}
        self._shared.begin(self._emit)
        self._rules.begin(changes)

    def _finish(self) -> Outcome:
        """Project what must be sent, in order."""
        self._shared.settle()
        # A record that moves to another owner may stay in its partition. There, the deletion of the
        # old place must come before the new state.
        emitted = self._emit.items()
        stays: set[Key] = set()
        if None in self._emit.values():
            stays = {(kind, id_) for (kind, id_, _), record in emitted if record is not None}
        found: dict[tuple[int, str], tuple[list[str], list[str], list[Record]]] = {}
        for (kind, id_, owner), record in emitted:
            if record is not None:
                order = ORDER[kind]
            else:
                order = FIRST if (kind, id_) in stays else LAST - ORDER[kind]
            if (batch := found.get((order, kind))) is None:
                batch = found[order, kind] = ([], [], [])
            batch[0].append(id_)
            batch[1].append(owner)
            if record is not None:
                batch[2].append(record)
        guardians = [id_ for (kind, id_, _), one in emitted if kind == "guardian" and one]
        naming = self._shared.naming(guardians) if guardians else None
        named = self._named.told(naming) if naming is not None else self._named.read(self._emit)
        for (order, kind), (ids, owners, records) in sorted(found.items(), key=lambda one: one[0]):
            columns = None
            if records:
                if kind == "guardian":
                    records = [named.of_guardian(record) for record in records]
                self._prepare(chain(ids, owners))
                columns = self.scope.project(
                    kind, records, self._vendor_id, named.members.__contains__, self._rules.above
                )
            self._out.batches.append(ProjectedBatch(kind, order, ids, owners, columns))
        self._emit = {}
        return self._out

    def _touched_results(self, changes: Collection[Change]) -> list[Change]:
        """Return the results that did not change, but whose class or its school did."""
        if "result" not in self.scope.kinds:
            return []
        items = [
            change.id
            for change in changes
            if change.kind == "lineItem"
            and value(change.before, "classSourcedId") != value(change.after, "classSourcedId")
        ]
        if self.scope.agreement.students.schools:
            classes = [
                change.id
                for change in changes
                if change.kind == "class"
                and value(change.before, "schoolSourcedId")
                != value(change.after, "schoolSourcedId")
            ]
            items += [str(item["sourcedId"]) for item in self._view.referring("lineItem", classes)]
            items += classes
        have = {(change.kind, change.id) for change in changes}
        return [
            Change("result", record["sourcedId"], record, record)
            for record in self._view.referring("result", set(items))
            if ("result", record["sourcedId"]) not in have
        ]

    # ---- students ------------------------------------------------------------------------------

    def _students_changed(
        self,
        changes: Mapping[str, Collection[Change]],
        day: date,
        budget: int | None,
        *,
        release: bool = False,
    ) -> None:
        """Look at students again, with what changed about each."""
        if not changes:
            return
        members = self.cohort.get(changes)
        kinds = ["student", OPT_OUT, *(["enrollment"] if self.scope.needs_classes else [])]
        about = self._view.of_students(changes, kinds)
        entering, leaving = [], []
        for student in sorted(changes):
            member, mine = members.get(student), changes[student]
            exists, selected, kept_out = roster_and_opt_outs(
                self.scope, about.get(student, ()), day
            )
            if member is None:
                if selected and not kept_out:
                    entering.append(student)
            elif kept_out or not exists:
                self._leave_at_once(student, member, mine)
            elif member.state is State.HELD and not release:
                self._taken_away(student, member, mine)
            elif member.state is State.IN:
                if selected:
                    self._changed_within(student, mine)
                else:
                    leaving.append(student)
            elif selected:
                entering.append(student)
            elif member.state is State.HELD:
                self._leave_at_once(student, member, mine)
            else:
                self._taken_away(student, member, mine)
        if budget is not None and len(entering) + len(leaving) > budget:
            self._out.held = len(entering) + len(leaving)
            for student in leaving:
                member = CohortMember(State.HELD)
                self._put_stored(student, member, self._had(student, changes[student]))
                self._taken_away(student, member, changes[student])
            return
        for student in leaving:
            if self.scope.agreement.students.leave_after:
                self._leave(student, changes[student], day)
            else:
                self._leave_at_once(student, members[student], changes[student])
        # Most agreements let the same students enter.
        self._enter(entering, members, changes if len(entering) > len(changes) / 2 else ())

    def _enter(
        self, students: list[str], members: Mapping[str, CohortMember], among: Collection[str]
    ) -> None:
        """Send everything about students who enter.

        among: the students among whom other agreements will look for those who enter.
        """
        for student in students:
            if (member := members.get(student)) is not None:
                self._drop_stored(student, member)
        about = self._view.by_kind(students, self._student_kinds, among)
        for kind, (owners, records) in about.items():
            if kind not in self._rules.always:
                shown = [self._rules.shows(kind, record) for record in records]
                owners, records = list(compress(owners, shown)), list(compress(records, shown))
            self._shared.add_references(kind, records)
            ids = [record["sourcedId"] for record in records]
            self._emit.update(zip(zip(repeat(kind), ids, owners), records, strict=False))
        self.cohort.put_in(students)
        self._out.entered += students

    def _changed_within(self, student: str, changes: Iterable[Change]) -> None:
        """Send what changed about a student who stays."""
        for change in changes:
            if change.kind not in self.scope.kinds:
                continue
            key = (change.kind, change.id, student)
            before = self._seen(student, change.kind, change.before, old=True)
            after = self._seen(student, change.kind, change.after)
            self._shared.refer_otherwise(change.kind, before, after, old=True)
            if after is not None:
                if before is None or self._rules.differs(change.kind, before, after):
                    self._emit[key] = after
            elif before is not None:
                self._emit.setdefault(key, None)  # it may be sent now because of its class

    def _seen(
        self, student: str, kind: str, record: Record | None, *, old: bool = False
    ) -> Record | None:
        """Return a record if the vendor sees it because of this student."""
        if record is None or student_of(kind, record) != student:
            return None
        return record if self._rules.shows(kind, record, old=old) else None

    def _had(self, student: str, changes: Iterable[Change]) -> dict[Key, Record]:
        """Return what the vendor has of a student, as it was before the changes."""
        now = self._view.of_students([student], self._student_kinds).get(student, [])
        had = {(kind, str(record["sourcedId"])): record for kind, record in now}
        for change in changes:
            had.pop((change.kind, change.id), None)
            if change.before is not None and student_of(change.kind, change.before) == student:
                had[change.kind, change.id] = change.before
        return {
            (kind, id_): record
            for (kind, id_), record in had.items()
            if self._rules.shows(kind, record, old=True)
        }

    def _leave_at_once(self, student: str, member: CohortMember, changes: Iterable[Change]) -> None:
        """Delete all records about a student whom an opt-out or the agreement excludes."""
        if member.state is State.IN:
            for (kind, id_), record in self._had(student, changes).items():
                self._shared.refer(kind, record, -1, old=True)
                self._emit.setdefault((kind, id_, student), None)
        else:
            self._drop_stored(student, member)
        self.cohort.put(student, None)
        self._out.left.append(student)

    def _leave(self, student: str, changes: Iterable[Change], day: date) -> None:
        """Send a student who left through the roster as withdrawn, as the vendor last had it."""
        had = self._had(student, changes)
        member = CohortMember(State.LEAVING, day)
        self._put_stored(student, member, had)
        self._taken_away(student, member, changes)
        for kind, id_ in member.keys:
            self._emit[kind, id_, student] = {**had[kind, id_], "status": WITHDRAWN}
        self._out.left.append(student)

    def _put_stored(self, student: str, member: CohortMember, had: Mapping[Key, Record]) -> None:
        """Store what the vendor has of a student who is not IN any more."""
        member.keys = list(had)
        member.refers = [
            key
            for (kind, _), record in had.items()
            for key in self._rules.refers(kind, record, old=True)
        ]
        self.cohort.put(student, member)

    def _drop_stored(self, student: str, member: CohortMember) -> None:
        """Delete what the vendor still has of a student."""
        for kind, id_ in member.keys:
            self._emit[kind, id_, student] = None
        self._shared.drop_references(member.refers, student)

    def _taken_away(self, student: str, member: CohortMember, changes: Iterable[Change]) -> None:
        """Delete the vendor's records that are not about a LEAVING or HELD student any more.

        The district has erased such a record, or it is about another student now.
        """
        taken = {
            (one.kind, one.id)
            for one in changes
            if one.after is None or student_of(one.kind, one.after) != student
        } & set(member.keys)
        for kind, id_ in taken:
            self._emit.setdefault((kind, id_, student), None)  # it may be sent because of its class
        if taken:
            member.keys = [key for key in member.keys if key not in taken]
            self.cohort.put(student, member)
