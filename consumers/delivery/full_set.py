"""A complete set of CSV files in a folder, valid at every write.

For products that take whole sets, where what is left out counts as removed. The rows of every
record are kept in `OUT/.schoolbus/state.sqlite`, with the offsets that they stand for; both change
in one SQLite transaction a batch, so that a crash neither loses nor doubles anything. Kafka is the
store of record and this is a cache: a folder without it, or with that of another cluster, of other
columns or of another revision of the translation, is read anew from the topics' beginnings.

The set is written when the consumer has caught up (`settle`) and something has changed since the
last set; the state remembers that, also over a crash. It is written so:

    1. every file as .schoolbus/FILE.part, and on the disk
    2. each is renamed to OUT/FILE, one after the other
    3. .schoolbus/set.json: the time (UTC), and of each file its rows and SHA-256
    4. the state: this set has been written

After a crash between 2 and 4 the set is written again. A script that takes the files away does
well to check them against set.json; it never meets half a file.

Valid means that nothing refers to what is not in the set: such rows are left out, or the reference
is (`Reference`), and they come back with what they refer to. Rows that are the same thing to the
product (`Table.key`) are written once. Order of rows: by key. A set whose required files would
have no rows is never written, as it would remove everyone: a bus that was made anew, say.

A row that holds until a last day leaves the set with the first one that is written after it.

Several copies may share a folder. A partition belongs to the copy that asked for it last, and what
another still brings of it is left out, as old rows must not come after newer ones. As a half-read
set would remove people, none is written until every partition of the state has been caught up with
by its copy.

Files are for their owner alone (0600), and so is the folder (0700) when it is made here.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import structlog
from filelock import FileLock, Timeout

from bus.delivery import Batch, Overtaken, Part, Position, Refusal, Row, Table
from bus.errors import RetryLater, Stop
from bus.standard import KINDS
from consumers.delivery.disk import explained, private, sync

log = structlog.get_logger(__name__)

WAIT_SECONDS = 60.0
"""How long one copy waits for another, before the loop tries again."""
LINES = 10_000
BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
SCHEMA = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS place (
    topic TEXT, number INTEGER, next INTEGER, owner TEXT, caught_up INTEGER,
    PRIMARY KEY (topic, number)) WITHOUT ROWID;
"""
ROWS = """
CREATE TABLE "{}" (
    kind TEXT, id TEXT, owner TEXT, at INTEGER, cells TEXT, last_day TEXT,
    PRIMARY KEY (kind, id, owner, at)) WITHOUT ROWID
"""
FORMAT = "2"
"""Of the state; to be raised when the tables change."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A column that names rows of a table that comes before (or of its own, when not required).

    required: a row whose reference is not in the set is left out; else the cell is emptied.
    many:     the cell holds several ids, separated by commas; those not in the set are dropped.
    kind:     only rows that were made from records of this kind are meant; "" for any.
    """

    column: str
    to: str
    required: bool = True
    many: bool = False
    kind: str = ""


class FullSet:
    """A `bus.delivery.Delivery` of a whole set into a folder. Its rows are lists of `Row`.

    tables:     the files, what is referred to first; all are always written.
    references: for each table the columns that refer to another.
    ends:       for each table whose rows hold until a day: the record's field with the last day.
    today:      the district's day, on which such rows are in the set or not.
    required:   the tables without whose rows there is no set.
    revision:   another one when the same records give other rows than before.
    """

    def __init__(
        self,
        out: Path,
        tables: Sequence[Table],
        references: Mapping[str, Sequence[Reference]],
        ends: Mapping[str, str],
        today: Callable[[], date],
        required: Sequence[str] = (),
        revision: str = "",
    ) -> None:
        self._out = out
        self._tables = tables
        self._references = references
        self._ends = ends
        self._today = today
        self._required = required
        self._own = out / ".schoolbus"
        self._owner = uuid.uuid4().hex
        self._layout = json.dumps([FORMAT, revision, *((t.name, t.columns) for t in tables)])
        self._empty: list[str] = []
        with self._faults():
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own.mkdir(mode=0o700, exist_ok=True)
            state = self._own / "state.sqlite"
            os.close(os.open(state, os.O_RDWR | os.O_CREAT, 0o600))  # for its mode
            self._sql = sqlite3.connect(state, timeout=WAIT_SECONDS, isolation_level=None)
            self._sql.execute("PRAGMA journal_mode = WAL")
            self._sql.execute("PRAGMA synchronous = FULL")
            self._sql.executescript(SCHEMA)
        self._lock = FileLock(self._own / "set.lock", timeout=WAIT_SECONDS, mode=0o600)

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Where the state ends, 0 where it has nothing; the partitions are now this copy's."""
        asked = list(partitions)
        with self._change() as sql:
            if (self._fact("cluster"), self._fact("layout")) != (cluster, self._layout):
                self._clear()
                self._learn(cluster=cluster, layout=self._layout, changes="1", written="0")
            sql.executemany(
                "INSERT INTO place VALUES (?, ?, 0, ?, 0)"
                " ON CONFLICT DO UPDATE SET owner = excluded.owner",
                [(*position, self._owner) for position in asked],
            )
            known = {
                Position(topic, number): offset
                for topic, number, offset in sql.execute("SELECT topic, number, next FROM place")
            }
        return {position: known[position] for position in asked}

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Keep the batch's rows and its offsets, in one transaction; nothing is ever refused."""
        with self._change() as sql:
            lost = {
                Position(topic, number)
                for topic, number in sql.execute(
                    "SELECT topic, number FROM place WHERE owner <> ?", (self._owner,)
                )
            }
            for part in batch.parts:
                self._keep(part, lost)
            sql.executemany(
                "INSERT INTO place VALUES (?, ?, ?, ?, 0)"
                " ON CONFLICT DO UPDATE SET next = excluded.next",
                [(*p, offset, self._owner) for p, offset in batch.offsets.items() if p not in lost],
            )
            if batch.parts:
                self._learn(changes=str(int(self._fact("changes") or 0) + 1))
        return ()

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]:
        """Keep the batch's rows in the place of those that their records had, unless the state
        stands for what was not `seen`. Doing it twice is as doing it once."""
        with self._change() as sql:
            if self._fact("layout") != self._layout:
                raise Stop(
                    f"what {self._out} holds is of another version of the translation, or of none; "
                    "start its consumer with this one, which reads all anew, or replay --into "
                    "another folder"
                )
            for topic, number, offset in sql.execute("SELECT topic, number, next FROM place"):
                if offset > seen.get(Position(topic, number), offset):
                    raise Overtaken
            for part in batch.parts:
                self._keep(part, set())
            if batch.parts:
                self._learn(changes=str(int(self._fact("changes") or 0) + 1))
        return ()

    def settle(self) -> None:
        """Write the set if it has changed, and every copy has caught up."""
        try:
            with self._faults(), self._lock:
                self._sql.execute("UPDATE place SET caught_up = 1 WHERE owner = ?", (self._owner,))
                today = self._today().isoformat()
                if not self._due(today):
                    return
                (behind,) = self._sql.execute(
                    "SELECT count(*) FROM place WHERE NOT caught_up"
                ).fetchone()
                if behind:
                    log.info("the set waits for other copies", partitions_behind=behind)
                    return
                self._write_set(today)
        except Timeout:
            raise RetryLater(
                f"another copy has been writing the set in {self._out} for "
                f"{WAIT_SECONDS:.0f} seconds; trying again"
            ) from None

    def release(self, partitions: Iterable[Position]) -> None:
        """Nobody has these now: no set is written before their next owner has caught up."""
        with self._change() as sql:
            sql.executemany(
                "UPDATE place SET owner = '', caught_up = 0"
                " WHERE topic = ? AND number = ? AND owner = ?",
                [(*position, self._owner) for position in partitions],
            )

    def close(self) -> None:
        """Let go of the state."""
        self._sql.close()

    # ---- the state ----------------------------------------------------------------------------

    def _keep(self, part: Part, lost: set[Position]) -> None:
        """A part's rows in the place of those that its records had.

        Of an enrollment that goes from one student to another, the end of the one and the beginning
        of the other are in two partitions and come in any order: each replaces only its own.
        """
        name, kind, field = part.table.name, part.kind, self._ends.get(part.table.name)
        owned = KINDS[kind].owner if KINDS[kind].owner != "sourcedId" else ""
        gone: list[tuple[str, str, str]] = []
        kept: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        lists = cast("list[list[Row]]", part.rows)
        for rows, record, message in zip(lists, part.records, part.messages, strict=True):
            if lost and (message.topic(), message.partition()) in lost:
                continue
            key, owner = record["sourcedId"], record[owned] if owned else ""
            last_day = record[field].isoformat() if field and record[field] else None
            gone.append((kind, key, owner))
            kept[key, owner] = [
                (kind, key, owner, at, _cells(row), last_day) for at, row in enumerate(rows)
            ]
        self._sql.executemany(f'DELETE FROM "{name}" WHERE kind = ? AND id = ? AND owner = ?', gone)
        self._sql.executemany(
            f'INSERT INTO "{name}" VALUES (?, ?, ?, ?, ?, ?)',
            (line for lines in kept.values() for line in lines),
        )

    def _clear(self) -> None:
        for (name,) in self._sql.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE '%.csv'"
        ).fetchall():
            self._sql.execute(f'DROP TABLE "{name}"')
        for table in self._tables:
            self._sql.execute(ROWS.format(table.name))
        self._sql.execute("DELETE FROM place")
        self._sql.execute("DELETE FROM fact")

    def _fact(self, name: str) -> str | None:
        found = self._sql.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return found[0] if found else None

    def _learn(self, **facts: str) -> None:
        self._sql.executemany("INSERT OR REPLACE INTO fact VALUES (?, ?)", facts.items())

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction that writes: all of it, or nothing."""
        with self._faults():
            if not (self._own / "state.sqlite").exists():
                raise Stop(
                    f"the folder {self._out} or what it keeps in .schoolbus is gone; nothing was "
                    "taken. Start again: it is read anew from Kafka"
                )
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                yield self._sql
                self._sql.execute("COMMIT")
            finally:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")

    # ---- the set ------------------------------------------------------------------------------

    def _due(self, today: str) -> bool:
        """Whether the set has changed since it was written, be it that a last day has passed."""
        if self._fact("changes") != self._fact("written"):
            return self._fact("changes") is not None
        day = self._fact("day") or today
        return day != today and any(
            self._sql.execute(
                f'SELECT 1 FROM "{name}" WHERE last_day >= ? AND last_day < ? LIMIT 1', (day, today)
            ).fetchone()
            for name in self._ends
        )

    def _write_set(self, today: str) -> None:
        files, left_out = {}, {}
        self._sql.execute("BEGIN")  # all files from one moment, whatever other copies bring
        try:
            changes = self._fact("changes") or ""
            for table in self._tables:
                files[table.name], missing = self._write_file(table, today)
                if missing:
                    left_out[table.name] = missing
        finally:
            self._sql.execute("ROLLBACK")  # takes the temporary tables along
        empty = [name for name in self._required if not files[name]["rows"]]
        if empty:
            if empty != self._empty:  # said once, not at every try
                log.warning("no set is written, as required files would be empty", files=empty)
            self._empty = empty
            for table in self._tables:
                (self._own / f"{table.name}.part").unlink()
            return
        for table in self._tables:
            (self._own / f"{table.name}.part").replace(self._out / table.name)
        sync(self._out)
        account = {"writtenAt": datetime.now(UTC).isoformat(timespec="seconds"), "files": files}
        new = self._own / "set.json.part"
        with private(new) as file:
            file.write(json.dumps(account, indent=2).encode())
        new.replace(self._own / "set.json")
        sync(self._own)
        with self._change():
            self._learn(written=changes, day=today)
        if left_out:
            log.info("rows left out, as what they refer to is not in the set", **left_out)

    def _write_file(self, table: Table, today: str) -> tuple[dict[str, Any], int]:
        """One file as .part: its account for set.json, and how many rows were left out."""
        cell = {name: f"json_extract(cells, '$[{at}]')" for at, name in enumerate(table.columns)}
        standing = "(last_day IS NULL OR last_day >= :today)"
        said = {"today": today}
        where = [standing]
        shown = dict(cell)
        for reference in self._references.get(table.name, ()):
            name, present = reference.column, f'(SELECT id FROM temp."{reference.to}"'
            present += f" WHERE kind = '{reference.kind}')" if reference.kind else ")"
            if reference.many:
                listed = f"json_each('[' || replace(json_quote({cell[name]}), ',', '\",\"') || ']')"
                shown[name] = (
                    f"(SELECT coalesce(group_concat(value, ','), '') FROM {listed}"
                    f" WHERE value IN {present})"
                )
            elif reference.required:
                where.append(f"{cell[name]} IN {present}")
            else:
                shown[name] = f"iif({cell[name]} IN {present}, {cell[name]}, '')"
        rows = f'FROM main."{table.name}" WHERE {" AND ".join(where)}'
        self._sql.execute(
            f'CREATE TEMP TABLE "{table.name}" (id, kind, PRIMARY KEY (id, kind)) WITHOUT ROWID'
        )
        if len(table.key) == 1:
            self._sql.execute(
                f'INSERT OR IGNORE INTO temp."{table.name}"'
                f" SELECT {cell[table.key[0]]}, kind {rows}",
                said,
            )
        (standing_rows,) = self._sql.execute(
            f'SELECT count(*) FROM main."{table.name}" WHERE {standing}', said
        ).fetchone()
        order = ", ".join([*(cell[name] for name in table.key), "kind", "id", "owner", "at"])
        found = self._sql.execute(
            f"SELECT {', '.join(shown.values())} {rows} ORDER BY {order}", said
        )
        key = itemgetter(*(table.columns.index(name) for name in table.key))
        digest = hashlib.sha256()
        read = written = 0
        last: Any = None
        with private(self._own / f"{table.name}.part") as file:
            lines: list[Sequence[str]] = [table.columns]
            while lines:
                text = io.StringIO()
                csv.writer(text).writerows(lines)  # RFC 4180: CRLF
                data = text.getvalue().encode()
                digest.update(data)
                file.write(data)
                some = list(islice(found, LINES))
                lines = []
                for line in some:
                    if key(line) != last:
                        last = key(line)
                        lines.append(line)
                read += len(some)
                written += len(lines)
        return {"rows": written, "sha256": digest.hexdigest()}, standing_rows - read

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """What the disk and SQLite say, in the bus's terms."""
        try:
            with explained(self._out):
                yield
        except sqlite3.Error as error:
            state = self._own / "state.sqlite"
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR")):
                raise RetryLater(f"the state {state} says {name}; trying again") from error
            raise Stop(
                f"the state {state} says {name}; delete {state}* and start again: it is read anew "
                "from Kafka"
            ) from error


def _cells(row: Row) -> str:
    """A row as a JSON list of texts; line breaks, which such products refuse, become spaces."""
    text = json.dumps(list(row.values()), ensure_ascii=False)
    if "\\" in text or not text.isprintable():
        text = json.dumps([BREAKS.sub(" ", v) for v in row.values()], ensure_ascii=False)
    return text
