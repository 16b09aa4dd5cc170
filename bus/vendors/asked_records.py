"""The records that students share, when the common shard sends them (`bus.vendors.shard`).

A shard of students has an `AskedRecords` for each agreement. It counts the references of its own
records. When the first reference to a record appears, it asks the common shard for the record, and
when the last one disappears, it says so. These words wait in the file of the view with the messages
of the same batch (`bus.vendors.words_to_say`).

The common shard has a `NeededRecords` for each agreement. It treats each word as one reference.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from bus.standard.kinds import Record
from bus.vendors.counted_references import CountedReferences, names_students
from bus.vendors.district_view import DistrictView, Key, marks, slices
from bus.vendors.record_rules import RecordRules
from bus.vendors.scope import Scope
from bus.vendors.shard_words import Asked
from bus.vendors.shared_records import SharedRecords
from bus.vendors.words_to_say import WordsToSay

GUARDIAN = "guardian"


class AskedRecords(CountedReferences):
    """These records of one agreement, in a shard of students. The common shard sends them.

    round_: the number of the agreement's round.
    """

    def __init__(self, scope: Scope, view: DistrictView, rules: RecordRules, round_: int) -> None:
        super().__init__(scope, view, rules)
        self._round = round_
        self._words = WordsToSay(view.con)
        self._by_student = names_students(scope)

    def settle(self) -> None:
        """Note which records are needed now, or are not needed any more."""
        turned: dict[Key, bool] = {}

        def first(key: Key) -> None:
            turned[key] = True

        def last(key: Key) -> None:
            turned[key] = False

        self._need.work(first, last, lambda _: None, lambda _, __: None)
        self._need.store()
        words = []
        for (kind, id_), needed in turned.items():
            student = ""
            if self._by_student and kind == GUARDIAN:
                id_, student = json.loads(id_)
            words.append(Asked(self._scope.name, self._round, kind, id_, student, needed))
        self._words.add(words)

    def forget(self) -> None:
        """Forget all counts of references, because the vendor's topics are written again."""
        super().forget()
        self._words.forget(self._scope.name)

    def add_references(self, kind: str, records: Sequence[Record]) -> None:
        """Count the references of records about students that are sent now."""
        if not self._by_student or kind != "student":
            super().add_references(kind, records)
            return
        found: Counter[Key] = Counter()
        for record in records:
            found.update(self._key(key, record) for key in self._rules.refers(kind, record))
        self._need.add_all(found)

    def _key(self, key: Key, record: Record) -> Key:
        """Return the key under which a reference is counted.

        A guardian names its students, so it matters which student refers to it. Only the record of
        the kind student refers to guardians.
        """
        kind, id_ = key
        if not self._by_student or kind != GUARDIAN:
            return key
        return kind, json.dumps([id_, record["sourcedId"]])


class NeededRecords(SharedRecords):
    """These records of one agreement, in the common shard."""

    def asked(self, words: Iterable[tuple[int, Asked]]) -> list[Key]:
        """Follow what shards ask for; each word comes with its shard's number.

        Returns the records that they ask for and that the district's topics did not have yet.
        """
        con, agreement = self._view.con, self._scope.name
        new: list[Key] = []
        for shard, word in words:
            row = [agreement, word.kind, word.id, word.student, shard]
            if word.needed:
                done = con.execute("INSERT OR IGNORE INTO needed VALUES (?, ?, ?, ?, ?)", row)
            else:
                done = con.execute(
                    "DELETE FROM needed WHERE agreement = ? AND kind = ? AND id = ? "
                    "AND student = ? AND shard = ?",
                    row,
                )
            if done.rowcount:
                self._need.add((word.kind, word.id), 1 if word.needed else -1)
                new += [(word.kind, word.id)] if word.needed else []
        there = self._view.get_all(set(new))
        return [key for key in new if key not in there]

    def forget(self) -> None:
        """Forget what all shards have asked for, because the vendor's topics are written again."""
        super().forget()
        self._view.con.execute("DELETE FROM needed WHERE agreement = ?", [self._scope.name])

    def naming(self, guardians: Collection[str]) -> dict[str, set[str]]:
        """Return the students of the agreement who name each of these guardians."""
        found: dict[str, set[str]] = defaultdict(set)
        for some in slices(guardians):
            for id_, student in self._view.con.execute(
                "SELECT id, student FROM needed WHERE agreement = ? AND kind = ? AND id IN "
                f"({marks(some)})",
                [self._scope.name, GUARDIAN, *some],
            ):
                found[id_].add(student)
        return found


RecordsOf = Callable[[Scope, DistrictView, RecordRules], CountedReferences]
