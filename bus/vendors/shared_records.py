"""The records that a vendor receives because other records refer to them, and those of classes.

Organizations, terms, courses, classes, staff and guardians are sent while a record that is sent
refers to them. Line items, and enrollments of teachers, are sent while their class is sent.
"""

from __future__ import annotations

from collections.abc import Collection

from bus.standard.kinds import KINDS, Record
from bus.vendors.counted_references import CountedReferences, Emitted, names_students
from bus.vendors.district_view import DistrictView, Key, student_of
from bus.vendors.record_rules import CLASS_KINDS, Change, RecordRules
from bus.vendors.scope import Scope


class SharedRecords(CountedReferences):
    """These records of one agreement. For one thread, within a transaction of the view.

    `begin` comes first. After the other calls, `settle` sends what they have changed.
    """

    def __init__(self, scope: Scope, view: DistrictView, rules: RecordRules) -> None:
        super().__init__(scope, view, rules)
        self._guardians_name_students = names_students(scope)
        self._emit: Emitted = {}
        self._along: dict[Key, Record] = {}
        self._of_class: dict[str, list[tuple[str, Record]]] = {}

    # ---- for the projection --------------------------------------------------------------------

    def begin(self, emit: Emitted) -> None:
        """Begin a run. What must be sent goes into `emit`."""
        self._emit = emit

    def settle(self) -> None:
        """Send and delete what other records refer to now, or do not refer to any more."""
        self._need.work(self._came_along, self._came_off, self._still_here, self._read)
        self._need.store()
        self._along, self._of_class = {}, {}

    def shared_changed(self, change: Change) -> None:
        """Handle a change of a record that comes along."""
        if self._need.count((change.kind, change.id)) <= 0:
            return
        self.refer_otherwise(change.kind, change.before, change.after)
        if (
            change.before is None
            or change.after is None
            or self._rules.differs(change.kind, change.before, change.after)
        ):
            self._emit[change.kind, change.id, change.id] = change.after

    def of_class_changed(self, change: Change) -> None:
        """Handle a change of a line item, or of a teacher's enrollment."""
        for record, sign in ((change.before, -1), (change.after, 1)):
            if record is None or not self._is_of_class(change.kind, record):
                continue
            if self._need.count(("class", record["classSourcedId"])) > 0:
                self.refer(change.kind, record, sign)
                owner = record[KINDS[change.kind].owner]
                self._emit[change.kind, change.id, owner] = record if sign > 0 else None

    def send_again(self, kind: str, record: Record) -> None:
        """Send the present state of a record of a class, if the class is sent."""
        if kind not in CLASS_KINDS or not self._is_of_class(kind, record):
            return
        if self._need.count(("class", record["classSourcedId"])) > 0:
            self._emit[kind, record["sourcedId"], record[KINDS[kind].owner]] = record

    # ---- within ---------------------------------------------------------------------------------

    def _is_of_class(self, kind: str, record: Record) -> bool:
        """Return whether a record is sent because its class is."""
        return kind == "lineItem" or (
            student_of(kind, record) is None and "staff" in self._scope.kinds
        )

    def _read(self, keys: Collection[Key], turned: Collection[Key]) -> None:
        """Read the records that must be sent because references to them appeared or disappeared.

        keys:   the records to which references were added or removed.
        turned: the records among them that got their first reference or lost their last one.
        """
        again = (
            (key for key in keys if key[0] == "guardian") if self._guardians_name_students else ()
        )
        self._along = self._view.get_all({*turned, *again})
        classes = [id_ for kind, id_ in turned if kind == "class"]
        self._of_class = {}
        for kind in CLASS_KINDS if classes else ():
            if kind in self._scope.kinds:
                for record in self._view.referring(kind, classes):
                    if self._is_of_class(kind, record):
                        some = self._of_class.setdefault(record["classSourcedId"], [])
                        some.append((kind, record))

    def _came_along(self, key: Key) -> None:
        """Send a record to which something refers now."""
        kind, id_ = key
        if (record := self._along.get(key)) is not None:
            self.refer(kind, record, 1)
            self._emit[kind, id_, id_] = record
        if kind == "class":
            self._records_of_class(id_, 1)

    def _came_off(self, key: Key) -> None:
        """Delete a record to which nothing refers any more."""
        kind, id_ = key
        if (record := self._along.get(key)) is not None:
            self.refer(kind, record, -1)
            self._emit[kind, id_, id_] = None
        if kind == "class":
            self._records_of_class(id_, -1)

    def _still_here(self, key: Key) -> None:
        """Send a guardian again, because it may name other students now."""
        kind, id_ = key
        if kind != "guardian" or not self._guardians_name_students:
            return
        if (record := self._along.get(key)) is not None:
            self._emit[kind, id_, id_] = record

    def _records_of_class(self, class_: str, sign: int) -> None:
        """Send or delete the line items of a class and the enrollments of its teachers."""
        for kind, record in self._of_class.get(class_, ()):
            self.refer(kind, record, sign)
            key = (kind, str(record["sourcedId"]), str(record[KINDS[kind].owner]))
            self._emit[key] = record if sign > 0 else None
