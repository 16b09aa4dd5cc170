"""The records that students share, when the common shard sends them (`bus.vendors.shard`).

A shard of students has an `AskedRecords` for each agreement. It counts the references of its own
records. When the first reference to a record appears, it asks the common shard for the record, and
when the last one disappears, it says so. These words wait in the file of the view with the messages
of the same batch (`WordsToSay`).

The common shard has a `NeededRecords` for each agreement. It treats each word as one reference.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

from bus.standard.kinds import Record
from bus.vendors.district_view import SAID, DistrictView, Key, marks, slices
from bus.vendors.need import Need
from bus.vendors.record_rules import Change, RecordRules
from bus.vendors.scope import Scope
from bus.vendors.shard_words import Asked, GivenUp, Word, decoded, encoded
from bus.vendors.shared_records import Emitted, SharedRecords, names_students

GUARDIAN = "guardian"


class AskedRecords:
    """These records of one agreement, in a shard of students.

    It has the methods of `SharedRecords`. `settle` notes what the common shard must be asked for.

    round_: the number of the agreement's round.
    """

    def __init__(self, scope: Scope, view: DistrictView, rules: RecordRules, round_: int) -> None:
        self._con = view.con
        self._scope = scope
        self._rules = rules
        self._round = round_
        self._need = Need(view, scope.name)
        self._by_student = names_students(scope)
        self._turned: dict[Key, bool] = {}

    def begin(self, emit: Emitted) -> None:
        """Begin a run."""

    def settle(self) -> None:
        """Note which records are needed now, or are not needed any more."""

        def first(key: Key) -> None:
            self._turned[key] = True

        def last(key: Key) -> None:
            self._turned[key] = False

        self._need.work(first, last, lambda _: None, lambda _, __: None)
        self._need.store()
        words = []
        for (kind, id_), needed in self._turned.items():
            student = ""
            if self._by_student and kind == GUARDIAN:
                id_, student = json.loads(id_)
            words.append(Asked(self._scope.name, self._round, kind, id_, student, needed))
        self._turned.clear()
        WordsToSay(self._con).add(words)

    def forget(self) -> None:
        """Forget all counts of references, because the vendor's topics are written again."""
        self._need.forget()
        WordsToSay(self._con).forget(self._scope.name)

    def dropped(self) -> None:
        """Forget what is in memory, because the transaction of the view was rolled back."""
        self._need.clear()
        self._turned.clear()

    def shared_changed(self, change: Change) -> None:
        """The common shard handles a change of a record that comes along."""

    def of_class_changed(self, change: Change) -> None:
        """The common shard handles a change of a line item, or of a teacher's enrollment."""

    def send_again(self, kind: str, record: Record) -> None:
        """The common shard sends records that are not about students."""

    def naming(self, guardians: Collection[str]) -> None:
        """Only the common shard sends guardians."""

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
        if not self._by_student or kind != "student":
            self._need.add_all(self._rules.count_refers(kind, records))
            return
        found: Counter[Key] = Counter()
        for record in records:
            found.update(self._key(key, record) for key in self._rules.refers(kind, record))
        self._need.add_all(found)

    def drop_references(self, keys: Iterable[Key], student: str) -> None:
        """Count one reference less to each of these records."""
        for key in keys:
            self._need.add(self._key(key, {"sourcedId": student}), -1)

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


class WaitingWord(NamedTuple):
    """A row of the table `word`: what must be said, as `shard_words.encoded` returns it."""

    key: str
    agreement: str
    value: str
    number: int

    def word(self) -> Word | None:
        """Return the word."""
        return decoded(self.key.encode(), self.value.encode())


class SaidBefore(NamedTuple):
    """What was said by an attempt that did not wait for the answer.

    offset: the offset after the words.
    word:   the number of the last of these words.
    note:   the number of the last note of who entered.
    """

    offset: int = 0
    word: int = 0
    note: int = 0


class WordsToSay:
    """The words that a shard has still to say, in the file of the view."""

    def __init__(self, con: sqlite3.Connection) -> None:
        self._con = con

    def add(self, words: Iterable[Asked | GivenUp]) -> None:
        """Add words, within the transaction of the view. The last word about a record counts."""
        first = (self._con.execute("SELECT max(number) FROM word").fetchone()[0] or 0) + 1
        rows = []
        for number, word in enumerate(words, first):
            key, value = encoded(word)
            agreement = word.agreement if isinstance(word, Asked) else ""
            rows.append((key.decode(), agreement, value.decode(), number))
        self._con.executemany("INSERT OR REPLACE INTO word VALUES (?, ?, ?, ?)", rows)

    def rows(self) -> list[WaitingWord]:
        """Return the words, in order."""
        found = self._con.execute("SELECT * FROM word ORDER BY number")
        return [WaitingWord(*row) for row in found]

    def remove(self, rows: Iterable[WaitingWord]) -> None:
        """Remove words that were said, unless something else must be said about the same now."""
        self._con.executemany(
            "DELETE FROM word WHERE key = ? AND value = ? AND number = ?",
            [(row.key, row.value, row.number) for row in rows],
        )

    def forget(self, agreement: str) -> None:
        """Remove the words about an agreement."""
        self._con.execute("DELETE FROM word WHERE agreement = ?", [agreement])
        # The numbers may come again.
        self._con.execute("DELETE FROM about WHERE name = ?", [SAID])


class Talk(Protocol):
    """How the outbox talks to the common shard."""

    def say(self, words: Collection[Word]) -> None:
        """Say words."""

    def ask(self, words: Collection[Word]) -> None:
        """Say words for which `wait` must wait."""

    def asked(self) -> int:
        """Return the offset after the words for which `wait` waits."""

    def wait(self, offset: int) -> None:
        """Wait until the common shard has done what was asked for, also before this offset."""


class Asking:
    """What the outbox of a shard says before and after its messages.

    talk:  tells the common shard; called from the outbox's thread, and never at the same time.
    waits: whether it may wait for another shard.
    """

    def __init__(self, con: sqlite3.Connection, talk: Talk, *, waits: bool = True) -> None:
        self.waits = waits
        self._con = con
        self._words = WordsToSay(con)
        self._talk = talk
        self.rows = self._words.rows
        self._said = False  # whether `before` has said everything

    def said(self) -> SaidBefore:
        """Return what was said already, by an attempt that did not wait for the answer."""
        query = "SELECT value FROM about WHERE name = ?"
        found = self._con.execute(query, [SAID]).fetchone()
        return SaidBefore(*json.loads(found[0])) if found else SaidBefore()

    def before(self, rows: Iterable[WaitingWord], said: SaidBefore) -> None:
        """Ask for records, and wait until they are sent."""
        self._said = False
        new = [row for row in rows if row.number > said.word]
        self._talk.ask([word for word in _words(new) if _asks(word)])
        self._said = True
        self._talk.wait(said.offset)

    def keep(self, rows: Iterable[WaitingWord], noted: int) -> None:
        """Note what was said, because its answer did not come in time.

        noted: the last note of who entered that was said.
        """
        if self._said and (offset := self._talk.asked()):
            word = max((row.number for row in rows), default=0)
            value = json.dumps(SaidBefore(max(offset, self.said().offset), word, noted))
            self._con.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", [SAID, value])

    def after(self, rows: Iterable[WaitingWord]) -> None:
        """Say what must be said after the messages."""
        self._talk.say([word for word in _words(rows) if not _asks(word)])

    def remove(self, rows: Iterable[WaitingWord]) -> None:
        """Remove words that were said."""
        self._words.remove(rows)
        self._con.execute("DELETE FROM about WHERE name = ?", [SAID])


def _words(rows: Iterable[WaitingWord]) -> list[Word]:
    return [word for row in rows if (word := row.word()) is not None]


def _asks(word: Word) -> bool:
    return isinstance(word, Asked) and word.needed


class NotAsking:
    """What the outbox says if there is only one shard: nothing."""

    waits = False

    def rows(self) -> list[WaitingWord]:
        """Return no words."""
        return []

    def said(self) -> SaidBefore:
        """Return that nothing was said."""
        return SaidBefore()

    def before(self, rows: Iterable[WaitingWord], said: SaidBefore) -> None:
        """Say nothing."""

    def keep(self, rows: Iterable[WaitingWord], noted: int) -> None:
        """Note nothing."""

    def after(self, rows: Iterable[WaitingWord]) -> None:
        """Say nothing."""

    def remove(self, rows: Iterable[WaitingWord]) -> None:
        """Remove nothing."""


Records = AskedRecords | SharedRecords
RecordsOf = Callable[[Scope, DistrictView, RecordRules], Records]
