"""The district's records in one SQLite file, for `bus vendors run`.

The projection needs the present state of the district. When a student enters an agreement, it sends
all records about the student, and the records to which these refer. The file is a view of the
topics (`BUS_HOME/vendors/PREFIX.sqlite`); Kafka is the store of record. If the file is lost, it is
rebuilt.

    record   kind, id, student, ref, part, rank: the value as it came from Kafka
    place    topic, part, next: the offset before which all messages are in the file
    cohort   agreement, student: the students of each agreement (`bus.vendors.cohort`), also
             those of before its topics are written again (`bus.vendors.earlier_cohort`)
    need     agreement, kind, id, count: how many records of the agreement refer to it
             (`bus.vendors.need`)
    outbox   the messages that must still be sent, again after a kill (`bus.vendors.outbox`)
    disclosed  who entered or left, for the record of disclosures
    progress how much is written for each agreement (`bus.vendors.stream_progress`)
    deleted  topic, part, before: the last deletions of old records (`bus.vendors.vendor_deletions`)
    word     what this shard has still to say to the others (`bus.vendors.asked_records`)
    needed   what the other shards have asked for (`bus.vendors.asked_records`)
    shard    how far the other shards are with each agreement, and shard_file the file of each
    late     what this shard has sent of an agreement after it had written everything, until the
             round ends (`bus.vendors.shard_streams`)

One transaction of the file holds the records of a batch, the offsets, the changes of all cohorts,
and the messages. So after a kill at any moment, the file and the sent messages agree. Either the
file has nothing of the batch, or the outbox is sent again: the same bytes in the same order.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bus.delivery import Position
from bus.errors import Never
from bus.settings import Settings
from bus.standard.kinds import KINDS, Record

if TYPE_CHECKING:
    from pyarrow import RecordBatch

LAYOUT = 4
"""The version of the tables. A file with another version is rebuilt."""
AT_ONCE = 500
"""Ids in one query; SQLite takes at most 32,766 variables."""
CACHE_KIB = 262_144
CHECKPOINT_PAGES = 8_192
"""SQLite copies changed pages into the file when there are this many (32 MiB); by default, 1,000.
A batch of the build changes more than that."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    kind TEXT NOT NULL, id TEXT NOT NULL, student TEXT, ref TEXT, value BLOB NOT NULL,
    part INTEGER NOT NULL, rank INTEGER NOT NULL,
    PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_student ON record (student, kind) WHERE student IS NOT NULL;
CREATE INDEX IF NOT EXISTS record_ref ON record (ref, kind) WHERE ref IS NOT NULL;
CREATE TABLE IF NOT EXISTS place (
    topic TEXT NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cohort (
    agreement TEXT NOT NULL, student TEXT NOT NULL, state INTEGER NOT NULL, since TEXT,
    keys TEXT, PRIMARY KEY (agreement, student)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS need (
    agreement TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (agreement, kind, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress (
    agreement TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY, topics TEXT NOT NULL, about TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS disclosed (
    number INTEGER PRIMARY KEY, agreement TEXT NOT NULL, student TEXT NOT NULL,
    entered INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS word (
    key TEXT PRIMARY KEY, agreement TEXT NOT NULL, value TEXT NOT NULL, number INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS word_number ON word (number);
CREATE TABLE IF NOT EXISTS needed (
    agreement TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, student TEXT NOT NULL,
    shard INTEGER NOT NULL, PRIMARY KEY (agreement, kind, id, student, shard)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shard (
    agreement TEXT NOT NULL, number INTEGER NOT NULL, edition TEXT NOT NULL,
    round INTEGER NOT NULL, stage TEXT NOT NULL,
    PRIMARY KEY (agreement, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS late (
    agreement TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (agreement, kind, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shard_file (number INTEGER PRIMARY KEY, id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS deleted (
    topic TEXT NOT NULL, part INTEGER NOT NULL, before INTEGER NOT NULL,
    PRIMARY KEY (topic, part)) WITHOUT ROWID;
"""
# Messages of one partition come in order; for those of different partitions, see `Origin`.
STORE = """
INSERT INTO record (kind, id, student, ref, value, part, rank) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (kind, id) DO UPDATE SET student = excluded.student, ref = excluded.ref,
    value = excluded.value, part = excluded.part, rank = excluded.rank
WHERE excluded.part = record.part OR excluded.rank > record.rank
"""
ABOUT = """CREATE TABLE IF NOT EXISTS about (
    name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"""

PROJECTION_TABLES = ("cohort", "need", "progress", "word", "needed", "shard", "late")
"""The tables that have the rows of an agreement's projection, by its name in `agreement`."""
SAID = "said"
"""The row of the table `about` with what a shard has said (`bus.vendors.asked_records`)."""
TABLES = ("record", "place", "outbox", "disclosed", "deleted", "shard_file", *PROJECTION_TABLES)
EARLIER = "/earlier"
"""What follows the name of an agreement in the rows of its earlier cohort."""

Key = tuple[str, str]
"""A kind and the id of a record."""
Row = tuple[str, str, str | None, str | None, bytes, int, int]
"""A row of the table `record`."""
Present = tuple[str, str, Record | None, bytes | None]
"""Kind, id, record and value; None: it was erased."""
Origin = tuple[int, int]
"""The partition of a message, and its rank: of messages from two partitions, the higher one is the
later one.

The rank is Kafka's timestamp (ms) times two, plus one if the record is active. A record that moved
to another owner is withdrawn in one partition and active in another, both possibly in the same
millisecond. The active state is the later one. Kafka does not order the two.
"""
NO_ORIGIN: Origin = (-1, 0)
ByKind = dict[str, tuple[list[str], list[Record]]]
"""Records about students: for each kind, the students, and their records in the same order."""
Decode = Callable[[str, bytes], Record]
DecodeAll = Callable[[str, Sequence[bytes]], Sequence[Record | None]]


def file_of(settings: Settings) -> Path:
    """Return the path of the file."""
    return settings.home / "vendors" / f"{settings.topic_prefix}.sqlite"


def connected(path: Path | None) -> sqlite3.Connection:
    """Open the file; None: in memory. SQLite overwrites what is deleted from it."""
    con = sqlite3.connect(path or ":memory:", isolation_level=None)
    con.execute("PRAGMA secure_delete = ON")
    return con


def forget_agreement(con: sqlite3.Connection, agreement: str) -> None:
    """Remove an agreement's progress, its students, and its counts of references.

    A file of an earlier version may lack some of the tables.
    """
    there = {name for (name,) in con.execute("SELECT name FROM sqlite_master")}
    con.execute("DELETE FROM about WHERE name = ?", [SAID])
    for table in there.intersection(PROJECTION_TABLES):
        con.execute(
            f"DELETE FROM {table} WHERE agreement IN (?, ?)", [agreement, agreement + EARLIER]
        )


class DistrictView:
    """The file. Only one thread may use it at a time.

    path:   the file; None: in memory.
    mark:   what the content depends on, other than the topics: the cluster's id. A file with
            another mark is emptied.
    decode: returns the record of a kind from a message's value. Raises `Never`.
    decode_all: the same for many values, and faster; None in place of those that do not decode.
    cache_kib: how much of the file may be in memory, in KiB.
    """

    def __init__(
        self,
        path: Path | None,
        mark: str,
        decode: Decode,
        decode_all: DecodeAll | None = None,
        *,
        cache_kib: int = CACHE_KIB,
    ) -> None:
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        self._decode = decode
        self._decode_all = decode_all
        # What was read in this transaction, for the next agreement that asks for the same.
        self._read: dict[Key, Record] = {}
        self._read_by_kind: dict[tuple[str, ...], tuple[frozenset[str], ByKind]] = {}
        self.con = connected(path)
        self.con.execute("PRAGMA journal_mode = WAL")
        self.con.execute(f"PRAGMA cache_size = -{cache_kib}")
        self.con.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self.con.execute(ABOUT)
        mark = f"{LAYOUT} {mark}"
        found = self.con.execute("SELECT value FROM about WHERE name = 'mark'").fetchone()
        self.new = found is None or found[0] != mark
        if self.new:
            for table in TABLES:
                self.con.execute(f"DROP TABLE IF EXISTS {table}")
            self.con.execute("DELETE FROM about WHERE name = ?", [SAID])
        self.con.executescript(SCHEMA)
        if self.new:
            about = [("mark", mark), ("id", secrets.token_hex(8))]
            self.con.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about)
        self.con.execute("INSERT OR IGNORE INTO about VALUES ('id', ?)", [secrets.token_hex(8)])

    @property
    def id(self) -> str:
        """The file's id. A file that is emptied or made again gets another one."""
        (found,) = self.con.execute("SELECT value FROM about WHERE name = 'id'").fetchone()
        return str(found)

    def close(self) -> None:
        """Close the file."""
        self.con.close()

    def begin(self, *, durable: bool = True) -> None:
        """Begin the transaction of a batch.

        durable: whether the batch must survive a power failure from its commit on. If not, it does
                 from the next durable commit on. The outbox must be durable before it is sent.
        """
        self.con.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self.con.execute("BEGIN IMMEDIATE")
        self._forget_read()

    def commit(self) -> None:
        """Write the batch to disk."""
        self.con.execute("COMMIT")
        self._forget_read()

    def rollback(self) -> None:
        """Drop the batch."""
        if self.con.in_transaction:
            self.con.execute("ROLLBACK")
        self._forget_read()

    def _forget_read(self) -> None:
        """Forget what was read, because it may change."""
        self._read.clear()
        self._read_by_kind.clear()

    # ---- records -------------------------------------------------------------------------------

    def store(self, rows: Iterable[Present | tuple[*Present, *Origin]]) -> bool:
        """Store the present state of records, each with its origin if there are partitions.

        Return whether all of it was stored. If not, another partition may have later states.
        """
        self._forget_read()
        new: list[Row] = []
        erased = []
        for kind, id_, record, value, *origin in rows:
            part, rank = origin or NO_ORIGIN
            if record is None or value is None:
                erased.append((kind, id_, part))
            else:
                student, ref = student_of(kind, record), ref_of(kind, record)
                new.append((kind, id_, student, ref, value, part, rank))
        before = self.con.total_changes
        self.store_rows(new)
        self.erase(erased)
        return self.con.total_changes - before == len(new) + len(erased)

    def store_rows(self, rows: Iterable[Row]) -> None:
        """Store the present state of records, with what `student_of` and `ref_of` say of them.

        A row is not stored if the file has a later state from another partition.
        """
        self._forget_read()
        self.con.executemany(STORE, rows)

    def erase(self, keys: Iterable[tuple[str, str, int]]) -> None:
        """Remove records: kind, id and partition.

        As in Kafka, a tombstone erases only what its own partition has. When a person is erased, a
        record that has moved away from the person stays with its present owner.
        """
        self._forget_read()
        self.con.executemany("DELETE FROM record WHERE kind = ? AND id = ? AND part = ?", keys)

    def get(self, kind: str, id_: str) -> Record | None:
        """Return a record, or None if the district has none with this id."""
        found = self.con.execute(
            "SELECT value FROM record WHERE kind = ? AND id = ?", [kind, id_]
        ).fetchone()
        return self._record(kind, found[0]) if found else None

    def get_all(self, keys: Iterable[Key]) -> dict[Key, Record]:
        """Return the records that exist, by kind and id."""
        by_kind: dict[str, list[str]] = defaultdict(list)
        found: dict[Key, Record] = {}
        for key in keys:
            if (read := self._read.get(key)) is not None:
                found[key] = read
            else:
                by_kind[key[0]].append(key[1])
        for kind, ids in by_kind.items():
            rows: list[tuple[str, bytes]] = []
            for some in slices(ids):
                rows += self.con.execute(
                    f"SELECT id, value FROM record WHERE kind = ? AND id IN ({marks(some)})",
                    [kind, *some],
                )
            records = self._records(kind, [value for _, value in rows])
            for (id_, _), record in zip(rows, records, strict=True):
                if record is not None:
                    found[kind, id_] = record
                    if self.con.in_transaction:
                        self._read[kind, id_] = record
        return found

    def of_students(
        self, students: Collection[str], kinds: Sequence[str]
    ) -> dict[str, list[tuple[str, Record]]]:
        """Return the records of these kinds about each student, as kind and record."""
        found: dict[str, list[tuple[str, Record]]] = defaultdict(list)
        for kind, (owners, records) in self.by_kind(students, kinds).items():
            for student, record in zip(owners, records, strict=True):
                found[student].append((kind, record))
        return found

    def by_kind(
        self, students: Collection[str], kinds: Sequence[str], among: Collection[str] = ()
    ) -> ByKind:
        """Return the records of these kinds about students, by kind, with the student of each.

        Nobody may change the records: another agreement may get the same ones.

        among: a larger group of students. Other agreements will ask for most of them, so they are
               read too.
        """
        wanted = frozenset(students)
        have, read = self._read_by_kind.get(tuple(kinds), (frozenset[str](), {}))
        if not wanted or not wanted <= have:
            have = frozenset(among) | wanted
            read = self._read_of(have if among else students, kinds)
            if self.con.in_transaction:
                self._read_by_kind[tuple(kinds)] = have, read
        if len(have) == len(wanted):
            return read
        found = {}
        for kind, (about, records) in read.items():
            mine = [student in wanted for student in about]
            found[kind] = list(compress(about, mine)), list(compress(records, mine))
        return found

    def _read_of(self, students: Iterable[str], kinds: Sequence[str]) -> ByKind:
        """Return what `by_kind` returns, from the file."""
        found = {}
        parts = list(slices(students))
        for kind in kinds:
            rows = [
                row
                for some in parts
                for row in self.con.execute(
                    "SELECT student, value FROM record INDEXED BY record_student "
                    f"WHERE student IN ({marks(some)}) AND kind = ?",
                    [*some, kind],
                ).fetchall()
            ]
            about = [student for student, _ in rows]
            values = [value for _, value in rows]
            records = self._records(kind, values)
            kept = [record for record in records if record is not None]
            if len(kept) < len(records):
                there = [record is not None for record in records]
                about = list(compress(about, there))
            found[kind] = about, kept
        return found

    def referring(self, kind: str, ids: Iterable[str]) -> list[Record]:
        """Return the records of a kind whose `ref` is one of these ids.

        kind: "enrollment" (of teachers) or "lineItem": of classes. "result": of its class, or of
              its line item if it names no class.
        """
        values: list[bytes] = []
        for some in slices(ids):
            values += (
                value
                for (value,) in self.con.execute(
                    "SELECT value FROM record INDEXED BY record_ref "
                    f"WHERE ref IN ({marks(some)}) AND kind = ?",
                    [*some, kind],
                )
            )
        return [record for record in self._records(kind, values) if record is not None]

    def students_after(self, reached: str | None, number: int) -> list[str]:
        """Return the ids of the next students, in order of their ids."""
        return [
            id_
            for (id_,) in self.con.execute(
                "SELECT id FROM record WHERE kind = 'student' AND id > ? ORDER BY id LIMIT ?",
                [reached or "", number],
            )
        ]

    def students_with(self, kind: str) -> list[str]:
        """Return the ids of the students about whom there is a record of this kind."""
        return [
            id_
            for (id_,) in self.con.execute(
                "SELECT DISTINCT student FROM record WHERE kind = ? AND student IS NOT NULL", [kind]
            )
        ]

    def count_active(self, kind: str) -> int:
        """Return how many records of a kind are active. Reads all of them."""
        values = self.con.execute("SELECT value FROM record WHERE kind = ?", [kind])
        records = (self._record(kind, value) for (value,) in values)
        return sum(record is not None and record["status"] == "active" for record in records)

    def _record(self, kind: str, value: bytes) -> Record | None:
        try:
            return self._decode(kind, value)
        except Never:  # stored by a later version of the standard; its next change corrects it
            return None

    def _records(self, kind: str, values: Sequence[bytes]) -> Sequence[Record | None]:
        if self._decode_all is None:
            return [self._record(kind, value) for value in values]
        return self._decode_all(kind, values)

    # ---- offsets -------------------------------------------------------------------------------

    def places(self) -> dict[Position, int]:
        """Return the offset at which reading continues, for each partition."""
        return {
            Position(topic, part): at
            for topic, part, at in self.con.execute("SELECT topic, part, next FROM place")
        }

    def reach(self, places: Mapping[Position, int]) -> None:
        """Note the offsets before which all messages are in the file."""
        self.con.executemany(
            "INSERT OR REPLACE INTO place VALUES (?, ?, ?)",
            [(place.topic, place.partition, at) for place, at in places.items()],
        )


def student_of(kind: str, record: Record) -> str | None:
    """Return the id of the student that a record is about, or None."""
    about = KINDS[kind].student
    return about.of(record) if about else None


def about_all(kind: str, columns: RecordBatch) -> tuple[list[str | None], list[str | None]]:
    """Return `student_of` and `ref_of` of records that are given as columns."""

    def values(field: str) -> list[Any]:
        found: list[Any] = columns.column(field).to_pylist()
        return found

    nothing: list[str | None] = [None] * columns.num_rows
    students, refs = nothing, nothing
    if (about := KINDS[kind].student) is not None:
        students = values(about.name)
        for field, wanted in about.when.items():
            students = [
                student if value == wanted else None
                for student, value in zip(students, values(field), strict=True)
            ]
    if kind == "lineItem":
        refs = values("classSourcedId")
    elif kind == "enrollment":
        refs = [
            class_ if student is None else None
            for class_, student in zip(values("classSourcedId"), students, strict=True)
        ]
    elif kind == "result":
        pairs = zip(values("classSourcedId"), values("lineItemSourcedId"), strict=True)
        refs = [class_ or item for class_, item in pairs]
    return students, refs


def ref_of(kind: str, record: Record) -> str | None:
    """Return the id by which `DistrictView.referring` finds a record, or None."""
    if kind == "lineItem" or (kind == "enrollment" and student_of(kind, record) is None):
        return str(record["classSourcedId"])
    if kind == "result":
        return str(record["classSourcedId"] or record["lineItemSourcedId"])
    return None


def slices(ids: Iterable[str]) -> Iterable[list[str]]:
    """Yield some ids in parts, each of which fits into one query."""
    rest = iter(ids)
    while some := list(islice(rest, AT_ONCE)):
        yield some


def marks(some: Sequence[str]) -> str:
    """Return the placeholders of a query, one for each of these values."""
    return ",".join("?" * len(some))
