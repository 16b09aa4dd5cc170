"""The state of a whole set: the rows of every record, and the offsets that they cover.

`OUT/.schoolbus/state.sqlite` holds both, and one SQLite transaction changes both. So a crash
neither loses nor duplicates anything. Kafka is the store of record and this file is a cache. If it
is from another cluster, has other columns, or was made by another revision of the translation, it
is emptied and rebuilt from the topics.

    place        for each partition: the next offset, its owner, whether the owner has caught up
    fact         by name: the cluster; the layout; the number of the last change; the change that
                 was written, and its day; the mark of the mirror; the last change that is in
                 `changed`; the room in `changed`; whether a row came from a record that names no
                 owner
    "TABLE.csv"  the rows of a table, each as a JSON list of its cells
    changed      the records whose rows have changed since the mirror was up to date

The mirror (`consumers.delivery.set_mirror`) holds the same rows and takes the records in `changed`.
`changed` is complete only if its last change is the last change of the state. Versions of the bus
that do not know `changed` change rows without noting them there. `changed` is empty while there is
no mirror. It is emptied when its room is used up: after this many changed records the mirror is
rebuilt, and `changed` begins again.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

from bus.delivery import Batch, Overtaken, Part, Position, Row, Table
from bus.errors import RetryLater, Stop
from bus.standard import KINDS
from consumers.delivery.disk import explained
from consumers.delivery.shared_folder import LOCK_SECONDS, SharedFolder, without

BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
SCHEMA = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS place (
    topic TEXT, number INTEGER, next INTEGER, owner TEXT, caught_up INTEGER,
    PRIMARY KEY (topic, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changed (
    name TEXT, kind TEXT, id TEXT, owner TEXT,
    PRIMARY KEY (name, kind, id, owner)) WITHOUT ROWID;
"""
ROWS = """
CREATE TABLE "{}" (
    kind TEXT, id TEXT, owner TEXT, at INTEGER, cells TEXT, last_day TEXT,
    PRIMARY KEY (kind, id, owner, at)) WITHOUT ROWID
"""
Key = tuple[str, str, str]
"""The identity of a record: its kind, its id, its place.

The place of a record is "" if its kind has no separate owner. Otherwise it is its owner, or
"PARTITION/OWNER" in a set in which records may not name their owner.
"""
Line = tuple[str, str, str, int, str, str | None]
FORMAT = "2"
"""The version of the state's tables; increase it when they change."""


class SetState:
    """The state of a `FullSet`, which explains `tables`, `ends` and `revision`."""

    def __init__(
        self,
        folder: SharedFolder,
        tables: Sequence[Table],
        ends: Mapping[str, str],
        revision: str,
        *,
        by_partition: bool = False,
    ) -> None:
        self._folder = folder
        self._by_partition = by_partition
        self._tables = tables
        self._ends = ends
        self._path = folder.own / "state.sqlite"
        self._layout = json.dumps([FORMAT, revision, *((t.name, t.columns) for t in tables)])
        with self.faults():
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # sets the mode
            self._sql = sqlite3.connect(self._path, timeout=LOCK_SECONDS, isolation_level=None)
            self._sql.execute("PRAGMA journal_mode = WAL")
            self._sql.execute("PRAGMA synchronous = FULL")
            self._sql.executescript(SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._sql.close()

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turn errors of the disk and of SQLite into `RetryLater` and `Stop`."""
        try:
            with explained(self._folder.out):
                yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR")):
                raise RetryLater(
                    f"the state {self._path} cannot be used (SQLite: {name}); trying again"
                ) from error
            raise Stop(
                f"the state {self._path} cannot be used (SQLite: {name}); delete {self._path}* and "
                "start again: it is rebuilt from Kafka"
            ) from error

    # ---- rows and offsets ---------------------------------------------------------------------

    def claim(self, cluster: str, partitions: Sequence[Position]) -> dict[Position, int]:
        """Make this instance the owner of the partitions and return their next offsets.

        The next offset of a partition that the state does not have is 0.
        """
        with self._change() as sql:
            if (self._fact("cluster"), self._fact("layout")) != (cluster, self._layout):
                self._clear()
                self._learn(cluster=cluster, layout=self._layout, changes="1", written="0")
            sql.executemany(
                "INSERT INTO place VALUES (?, ?, 0, ?, 0)"
                " ON CONFLICT DO UPDATE SET owner = excluded.owner",
                [(*position, self._folder.instance) for position in partitions],
            )
            known = {
                Position(topic, number): offset
                for topic, number, offset in sql.execute("SELECT topic, number, next FROM place")
            }
        return {position: known[position] for position in partitions}

    def is_ours(self) -> bool:
        """Return whether the state is of this set, and not of another one in the same folder."""
        with self.faults():
            return self._fact("layout") == self._layout

    def keep(self, batch: Batch) -> None:
        """Keep a batch's rows and offsets, except for partitions that have another owner.

        Raises `Stop` if another set has taken the folder over.
        """
        with self._change() as sql:
            if self._fact("layout") != self._layout:
                raise Stop(
                    f"another set is written into {self._folder.out}; give each one a folder of "
                    "its own, and start again"
                )
            us = self._folder.instance
            lost = {
                Position(topic, number)
                for topic, number in sql.execute(
                    "SELECT topic, number FROM place WHERE owner <> ?", (us,)
                )
            }
            self._keep_rows([without(part, lost) for part in batch.parts])
            sql.executemany(
                "INSERT INTO place VALUES (?, ?, ?, ?, 0)"
                " ON CONFLICT DO UPDATE SET next = excluded.next",
                [(*p, offset, us) for p, offset in batch.offsets.items() if p not in lost],
            )

    def keep_again(self, batch: Batch, seen: Mapping[Position, int]) -> None:
        """Keep the rows of a replay's batch; raise `Overtaken` when an offset is beyond `seen`."""
        with self._change() as sql:
            if self._fact("layout") != self._layout:
                raise Stop(
                    f"the set in {self._folder.out} is from another version of the translation, or "
                    "is missing; start its consumer with this version, which rebuilds the set from "
                    "Kafka, or replay --into another folder"
                )
            for topic, number, offset in sql.execute("SELECT topic, number, next FROM place"):
                if offset > seen.get(Position(topic, number), offset):
                    raise Overtaken
            self._keep_rows(batch.parts)

    def give_up(self, partitions: Iterable[Position]) -> None:
        """Remove this instance as the owner of the partitions; they count as behind."""
        with self._change() as sql:
            sql.executemany(
                "UPDATE place SET owner = '', caught_up = 0"
                " WHERE topic = ? AND number = ? AND owner = ?",
                [(*position, self._folder.instance) for position in partitions],
            )

    # ---- whether to write a set ---------------------------------------------------------------

    def note_caught_up(self) -> None:
        """Note that this instance has caught up with its partitions."""
        self._sql.execute(
            "UPDATE place SET caught_up = 1 WHERE owner = ?", (self._folder.instance,)
        )

    @property
    def behind(self) -> int:
        """Return the number of partitions with which no owner has caught up."""
        (found,) = self._sql.execute("SELECT count(*) FROM place WHERE NOT caught_up").fetchone()
        return int(found)

    def due(self, today: str) -> bool:
        """Return whether the set has changed since it was written.

        A last day that has passed since then is a change too.
        """
        if self._fact("changes") != self._fact("written"):
            return self._fact("changes") is not None
        day = self._fact("day") or today
        return day != today and any(
            self._sql.execute(
                f'SELECT 1 FROM "{name}" WHERE last_day >= ? AND last_day < ? LIMIT 1', (day, today)
            ).fetchone()
            for name in self._ends
        )

    def note_written(self, changes: str, today: str) -> None:
        """Note that the set of this change and day was written."""
        with self._change():
            self._learn(written=changes, day=today)

    # ---- the mirror ---------------------------------------------------------------------------

    @contextmanager
    def moment(self) -> Iterator[str]:
        """Keep all instances from changing rows until the block ends.

        Yields the number of the last change, for `note_written`. The methods below must be called
        within the block.
        """
        with self._change():
            yield self._fact("changes") or ""

    @property
    def mirror(self) -> str | None:
        """Return the mark of the mirror that lacks only the `changed` records, or None."""
        return self._fact("mirror") if self._is_followed() else None

    def changed(self, name: str) -> list[Key]:
        """Return the records whose rows in a table have changed since the mirror was up to date."""
        found = self._sql.execute("SELECT kind, id, owner FROM changed WHERE name = ?", (name,))
        return found.fetchall()

    def blocks(self, name: str, *, changed: bool, size: int) -> Iterator[list[Line]]:
        """Yield the rows of a table, of all records or only of the changed ones, in blocks.

        A row is kind, id, owner, at, cells as JSON, and last day.

        size: the greatest number of rows in a block.
        """
        source = f'FROM "{name}" t'
        if changed:  # SQLite runs a cross join in the order in which it is written
            source = (
                f'FROM changed c CROSS JOIN "{name}" t ON t.kind = c.kind AND t.id = c.id '
                f"AND t.owner = c.owner WHERE c.name = '{name}'"
            )
        found = self._sql.execute(f"SELECT t.* {source}")
        while block := found.fetchmany(size):
            yield block

    def note_mirrored(self, mark: str, room: int | None = None) -> None:
        """Note that the mirror with this mark is up to date; later changes are noted for it.

        room: for a new mirror, how many changed records may be noted before it is rebuilt.
        """
        self._sql.execute("DELETE FROM changed")
        self._learn(mirror=mark, logged=self._fact("changes") or "")
        if room is not None:
            self._learn(room=str(room))

    # ---- within a transaction -----------------------------------------------------------------

    def _keep_rows(self, parts: Sequence[Part]) -> None:
        if not parts:
            return
        followed = self._is_followed()
        keys = [(part.table.name, *key) for part in parts for key in self._keep(part)]
        changes = str(int(self._fact("changes") or 0) + 1)
        self._learn(changes=changes)
        if followed:
            self._log(keys, changes)

    def _is_followed(self) -> bool:
        """Return whether `changed` is complete."""
        logged = self._fact("logged")
        return logged is not None and logged == self._fact("changes")

    def _log(self, keys: Sequence[tuple[str, ...]], changes: str) -> None:
        """Note the records of a change in `changed`.

        Without room for them, empty `changed` and stop noting.
        """
        room = int(self._fact("room") or 0) - len(keys)
        if room < 0:
            self._sql.execute("DELETE FROM changed")
            return
        self._sql.executemany("INSERT OR IGNORE INTO changed VALUES (?, ?, ?, ?)", keys)
        self._learn(logged=changes, room=str(room))

    def _keep(self, part: Part) -> list[Key]:
        """Replace the rows of a part's records, and return the records' keys.

        When an enrollment moves from one student to another, its end for the one and its beginning
        for the other are in two partitions. They come in any order. So each replaces only the rows
        of its own student. A record that does not name its owner, such as a deletion in the topics
        of a vendor, replaces all rows that came from its partition.
        """
        name, kind, field = part.table.name, part.kind, self._ends.get(part.table.name)
        owned = KINDS[kind].owner if KINDS[kind].owner != "sourcedId" else ""
        ownerless = bool(owned and self._fact("ownerless"))
        removed: list[Key] = []
        kept: dict[str, dict[str, list[Line]]] = {}
        lists = cast("list[list[Row]]", part.rows)
        for rows, record, message in zip(lists, part.records, part.messages, strict=True):
            id_, place = record["sourcedId"], ""
            last_day = record[field].isoformat() if field and record.get(field) else None
            places = kept.setdefault(id_, {})
            if owned:
                partition = f"{message.partition()}/" if self._by_partition else ""
                place = f"{partition}{record.get(owned) or ''}"
                replaced: Iterable[str] = [partition] if ownerless else []
                if place == partition:
                    replaced = self._places(name, kind, id_, partition, places)
                    ownerless = ownerless or bool(rows)
                for other in replaced:
                    removed.append((kind, id_, other))
                    places[other] = []
            removed.append((kind, id_, place))
            places[place] = [
                (kind, id_, place, at, _cells(row), last_day) for at, row in enumerate(rows)
            ]
        if ownerless:
            self._learn(ownerless="1")
        self._sql.executemany(
            f'DELETE FROM "{name}" WHERE kind = ? AND id = ? AND owner = ?', removed
        )
        self._sql.executemany(
            f'INSERT INTO "{name}" VALUES (?, ?, ?, ?, ?, ?)',
            (line for places in kept.values() for lines in places.values() for line in lines),
        )
        return removed

    def _places(
        self, name: str, kind: str, id_: str, partition: str, batch: Iterable[str]
    ) -> set[str]:
        """Return the places of a record that begin with `partition`.

        batch: the places of the record in this batch, which are not in the table yet.
        """
        found = self._sql.execute(
            f'SELECT DISTINCT owner FROM "{name}" WHERE kind = ? AND id = ? AND owner > ?',
            (kind, id_, partition),
        )
        known = {owner for (owner,) in found} | set(batch)
        return {owner for owner in known if owner.startswith(partition)}

    def _clear(self) -> None:
        for (name,) in self._sql.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE '%.csv'"
        ).fetchall():
            self._sql.execute(f'DROP TABLE "{name}"')
        for table in self._tables:
            self._sql.execute(ROWS.format(table.name))
        self._sql.execute("DELETE FROM place")
        self._sql.execute("DELETE FROM changed")
        self._sql.execute("DELETE FROM fact")

    def _fact(self, name: str) -> str | None:
        found = self._sql.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return found[0] if found else None

    def _learn(self, **facts: str) -> None:
        self._sql.executemany("INSERT OR REPLACE INTO fact VALUES (?, ?)", facts.items())

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """Run one write transaction: all of it is committed, or nothing."""
        with self.faults():
            if not self._path.exists():
                raise Stop(
                    f"the folder {self._folder.out} or the state in its .schoolbus no longer "
                    "exists; nothing was written. Start again: the state is rebuilt from Kafka"
                )
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                yield self._sql
                self._sql.execute("COMMIT")
            finally:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")


def _cells(row: Row) -> str:
    """Return a row as a JSON list of texts.

    Line breaks and other control characters become spaces, because products of whole sets refuse
    them.
    """
    text = json.dumps(list(row.values()), ensure_ascii=False)
    if "\\" in text or not text.isprintable():
        text = json.dumps([BREAKS.sub(" ", v) for v in row.values()], ensure_ascii=False)
    return text
