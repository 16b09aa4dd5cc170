"""Counts the references of what one vendor receives to the records that students share.

Whoever sends these records does so while something refers to them: `bus.vendors.shared_records` if
one shard does everything, else `bus.vendors.asked_records`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from bus.standard.kinds import Record
from bus.vendors.district_view import DistrictView, Key
from bus.vendors.need import Need
from bus.vendors.record_rules import Change, RecordRules
from bus.vendors.scope import Scope
from bus.vendors.shard_words import Asked

Emitted = dict[tuple[str, str, str], Record | None]
"""What must be sent, by kind, id and owner; None: the record is deleted."""


class CountedReferences:
    """The references of one agreement. For one thread, within a transaction of the view.

    `begin` comes first. After the other calls, `settle` does what follows from the new counts.
    """

    def __init__(self, scope: Scope, view: DistrictView, rules: RecordRules) -> None:
        self._scope = scope
        self._view = view
        self._rules = rules
        self._need = Need(view, scope.name)

    def begin(self, emit: Emitted) -> None:
        """Begin a run. What must be sent goes into `emit`."""

    def settle(self) -> None:
        """Do what follows from the references that were counted since `begin`."""
        raise NotImplementedError

    def forget(self) -> None:
        """Forget all counts of references, because the vendor's topics are written again."""
        self._need.forget()

    def dropped(self) -> None:
        """Forget what is in memory, because the transaction of the view was rolled back."""
        self._need.clear()

    # ---- counting ------------------------------------------------------------------------------

    def refer(self, kind: str, record: Record | None, sign: int, *, old: bool = False) -> None:
        """Count the references of a record that is sent now (1), or is not sent any more (-1)."""
        if record is not None:
            for key in self._rules.refers(kind, record, old=old):
                self._need.add(self._key(key, record), sign)

    def refer_otherwise(
        self, kind: str, before: Record | None, after: Record | None, *, old: bool = False
    ) -> None:
        """Count the references that a sent record has lost, and those that are new."""
        had = self._rules.refers(kind, before, old=old) if before is not None else set()
        has = self._rules.refers(kind, after) if after is not None else set()
        for key in had - has:
            self._need.add(self._key(key, before or {}), -1)
        for key in has - had:
            self._need.add(self._key(key, after or {}), 1)

    def add_references(self, kind: str, records: Sequence[Record]) -> None:
        """Count the references of records about students that are sent now."""
        self._need.add_all(self._rules.count_refers(kind, records))

    def drop_references(self, keys: Iterable[Key], student: str) -> None:
        """Count one reference less, by a student's record, to each of these records."""
        for key in keys:
            self._need.add(self._key(key, {"sourcedId": student}), -1)

    def _key(self, key: Key, record: Record) -> Key:
        """Return the key under which a record's reference is counted."""
        return key

    # ---- the records themselves, where they are sent -------------------------------------------

    def shared_changed(self, change: Change) -> None:
        """Handle a change of a record that comes along."""

    def of_class_changed(self, change: Change) -> None:
        """Handle a change of a line item, or of a teacher's enrollment."""

    def send_again(self, kind: str, record: Record) -> None:
        """Send the present state of a record of a class, if the class is sent."""

    def asked(self, words: Iterable[tuple[int, Asked]]) -> list[Key]:
        """Follow what other shards ask for; each word comes with its shard's number.

        Returns the records that they ask for and that the district's topics did not have yet.
        """
        return []

    def naming(self, guardians: Collection[str]) -> dict[str, set[str]] | None:
        """Return the students who name each of these guardians; None: the view knows them."""
        return None


def names_students(scope: Scope) -> bool:
    """Return whether the vendor receives guardians with their students."""
    guardian = scope.kinds.get("guardian")
    return guardian is not None and "agentSourcedIds" in guardian.references
