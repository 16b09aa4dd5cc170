"""The DuckDB database of one run: how it is opened, and the name of every table in it.

The steps of a run hand their results to each other in tables. `Workspace` has a method for each, so
that a table has one name, in one place. KIND stands for a kind of record, FIELDS for its
fields with their types.

table                  columns                          who makes it          who reads it
---------------------  -------------------------------  --------------------  --------------------
published.KIND         FIELDS, _fingerprint, _raw       snapshot              row_hashes, pipeline,
                                                                              diff
published.position     topic, partition, next_offset    snapshot              snapshot
published.quarantined  id, key, kind, line, count,      snapshot, quarantine  quarantine
                       told
published.about        mark                             snapshot              snapshot
read_KIND              FIELDS, _id, _at, _offset        snapshot              snapshot
latest                 at, _id                          snapshot              snapshot
raw_KIND               _file, _line, _raw, text         the source,           row_hashes, integrity
                                                        row_hashes
seen                   _line, _raw, _values             row_hashes.load       row_hashes
familiar_TABLE         _raw                             row_hashes.load       row_hashes
origin                 kind, place, relation, fields,   row_hashes.load       row_hashes
                       file, numbered
stale_KIND             sourcedId                        row_hashes.set_apart  row_hashes, diff
gone_KIND              sourcedId                        row_hashes.set_apart  row_hashes, pipeline,
                                                                              diff
recalled               sourcedId, _raw                  row_hashes.set_apart  row_hashes
known_KIND, a view     sourcedId                        pipeline              integrity
record_KIND            FIELDS, _line, _file, _raw       integrity             pipeline, diff,
                                                                              snapshot
doubtful               kind, file, line                 integrity             integrity
faulty                 _file, _line, code, class,       integrity             integrity
                       text, kept
repeated               r, _line, _file, class, same,    integrity             integrity
                       kept
elsewhere_KIND         sourcedId                        integrity             integrity
dangling               id                               integrity             integrity
bad                    r, id                            integrity             integrity
doomed                 r                                integrity             integrity
mended                 r, ids                           integrity             integrity
jump                   id, up                           integrity             integrity
concerned              as published.KIND                diff                  diff
change_KIND            FIELDS, _line, _raw, _change,    diff                  pipeline, snapshot
                       _again, _moved

The tables of `published` are the cache of a source. They lie in a file of their own and outlive the
run. All others are gone when the run ends.

The order of the steps is attach, read, set_apart, validate, compare, publish, remember. Each step
calls `require` for the tables that an earlier step makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from bus.ingest.coercion import text_literal
from bus.ingest.columns import quoted
from bus.source import Staging

if TYPE_CHECKING:
    import pyarrow

MEMORY = "1GB"
"""What DuckDB may use before it spills to disk."""

PUBLISHED = "published"
"""The name under which the cache of what was published is attached: `published.student`."""

READING, SETTING_APART = "the source's `read`", "`row_hashes.set_apart`"
VALIDATING, COMPARING, ATTACHING = "`validate`", "`diff.compare`", "`snapshot.attach`"


class WorkTable(str):
    """The name of a table as it stands in SQL.

    name:  the name alone.
    maker: the step that makes it, for who misses it.
    cache: whether it is a table of the cache.
    """

    name: str
    maker: str
    cache: bool

    def __new__(cls, name: str, maker: str, *, cache: bool = False) -> WorkTable:
        sql = f"{PUBLISHED}.{quoted(name)}" if cache else quoted(name)
        table = super().__new__(cls, sql)
        table.name, table.maker, table.cache = name, maker, cache
        return table


class Workspace:
    """The database of one run, around the `Staging` that the source of this run fills.

    It has no state of its own: two around the same staging are the same.
    """

    def __init__(self, staging: Staging) -> None:
        self.staging = staging
        self.con = staging.con

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Workspace]:
        """A new database that spills to a folder; it is closed at the end."""
        with duckdb.connect() as con:
            con.execute("SET enable_progress_bar = false")  # it would write to stdout
            con.execute(f"SET memory_limit = '{MEMORY}'")
            con.execute(f"SET temp_directory = {text_literal(str(folder))}")
            yield cls(Staging(con, folder))

    # The tables: what the source read

    def raw(self, kind: str) -> WorkTable:
        """The rows of the extract, as text."""
        return WorkTable(f"raw_{kind}", READING)

    def own(self, name: str) -> WorkTable:
        """A table of the source's own."""
        return WorkTable(name, READING)

    # What is as it was

    @property
    def seen(self) -> WorkTable:
        """The rows of a file that is being loaded."""
        return WorkTable("seen", READING)

    def familiar(self, table: str) -> WorkTable:
        """The hashes of the rows that were left out of a table."""
        return WorkTable(f"familiar_{table}", READING)

    @property
    def origin(self) -> WorkTable:
        """From where the rows that were left out can be read again."""
        return WorkTable("origin", READING)

    def stale(self, kind: str) -> WorkTable:
        """The active records whose row is not as it was."""
        return WorkTable(f"stale_{kind}", SETTING_APART)

    def gone(self, kind: str) -> WorkTable:
        """The published records that have no row."""
        return WorkTable(f"gone_{kind}", SETTING_APART)

    @property
    def recalled(self) -> WorkTable:
        """The records whose rows are read again."""
        return WorkTable("recalled", SETTING_APART)

    # What is valid

    def known(self, kind: str) -> WorkTable:
        """What was published and may be referred to."""
        return WorkTable(f"known_{kind}", "`produce`")

    def record(self, kind: str) -> WorkTable:
        """The valid records."""
        return WorkTable(f"record_{kind}", VALIDATING)

    @property
    def doubtful(self) -> WorkTable:
        """The rows of which something was told."""
        return WorkTable("doubtful", VALIDATING)

    @property
    def faulty(self) -> WorkTable:
        """The faults that one step has found, each with its row's place."""
        return WorkTable("faulty", VALIDATING)

    @property
    def repeated(self) -> WorkTable:
        """The rows whose id another row has."""
        return WorkTable("repeated", VALIDATING)

    def elsewhere(self, kind: str) -> WorkTable:
        """The ids that another source has published."""
        return WorkTable(f"elsewhere_{kind}", VALIDATING)

    @property
    def dangling(self) -> WorkTable:
        """The ids that a field names and that are nowhere."""
        return WorkTable("dangling", VALIDATING)

    @property
    def bad(self) -> WorkTable:
        """The rows that name one of those."""
        return WorkTable("bad", VALIDATING)

    @property
    def doomed(self) -> WorkTable:
        """The rows that cannot do without it."""
        return WorkTable("doomed", VALIDATING)

    @property
    def mended(self) -> WorkTable:
        """Lists without the ids that are nowhere."""
        return WorkTable("mended", VALIDATING)

    @property
    def jump(self) -> WorkTable:
        """For each record, an ancestor."""
        return WorkTable("jump", VALIDATING)

    # What changed

    @property
    def concerned(self) -> WorkTable:
        """Of what was published, what an extract may change."""
        return WorkTable("concerned", COMPARING)

    def change(self, kind: str) -> WorkTable:
        """The records to publish."""
        return WorkTable(f"change_{kind}", COMPARING)

    # What was published

    def published(self, kind: str) -> WorkTable:
        """The latest state of each record that the source has published."""
        return WorkTable(kind, ATTACHING, cache=True)

    @property
    def position(self) -> WorkTable:
        """The offsets for which the cache stands."""
        return WorkTable("position", ATTACHING, cache=True)

    @property
    def quarantined(self) -> WorkTable:
        """The faults of the last run."""
        return WorkTable("quarantined", ATTACHING, cache=True)

    @property
    def about(self) -> WorkTable:
        """The mark of the cache."""
        return WorkTable("about", ATTACHING, cache=True)

    def read(self, kind: str) -> WorkTable:
        """Messages that the cache lacks."""
        return WorkTable(f"read_{kind}", ATTACHING)

    @property
    def latest(self) -> WorkTable:
        """The latest message of each record."""
        return WorkTable("latest", ATTACHING)

    # What is done with them

    def sql(self, statement: str, values: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement; the rows that it gives."""
        return self.con.execute(statement, values).fetchall()

    def number(self, statement: str) -> int:
        """The one number that a statement gives (of a DELETE, how many rows); 0 for no row."""
        rows = self.sql(statement)
        return int(rows[0][0]) if rows else 0

    def columns_of(self, table: WorkTable) -> list[str]:
        """The columns of a table, in its order."""
        return [column[0] for column in self.con.execute(f"FROM {table} LIMIT 0").description or []]

    def has(self, table: WorkTable) -> bool:
        """Whether there is this table, or a view of its name."""
        return (table.cache, table.name) in self._there()

    def require(self, *tables: WorkTable) -> None:
        """Raise `RuntimeError` when one of these tables is not there: a step forgot its turn."""
        there = self._there()
        for table in tables:
            if (table.cache, table.name) not in there:
                raise RuntimeError(f"there is no table {table}; {table.maker} makes it first")

    def _there(self) -> set[tuple[bool, str]]:
        """Each table with whether it is of the cache."""
        return set(
            self.sql(
                f"SELECT database_name = '{PUBLISHED}', name FROM ("
                "SELECT database_name, table_name AS name FROM duckdb_tables() UNION ALL "
                "SELECT database_name, view_name FROM duckdb_views() WHERE NOT internal) "
                f"WHERE database_name IN (current_database(), 'temp', '{PUBLISHED}')"
            )
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it, or nothing when it fails."""
        self.con.begin()
        try:
            yield
        except BaseException:
            with suppress(duckdb.Error):  # what failed first is told
                self.con.rollback()
            raise
        self.con.commit()

    def insert(self, table: WorkTable, rows: pyarrow.Table) -> None:
        """Add rows, by the names of their columns."""
        self.con.register("arrow", rows)
        self.con.execute(f"INSERT INTO {table} BY NAME FROM arrow")
        self.con.unregister("arrow")

    def batches(self, select: str, size: int) -> Iterator[pyarrow.RecordBatch]:
        """What a SELECT gives, in its order, some rows at a time."""
        cursor = self.con.cursor()
        try:
            yield from cursor.sql(select).to_arrow_reader(size)
        finally:
            cursor.close()  # else the cache stays open as long as somebody holds the failure

    def attach(self, cache: Path) -> None:
        """Attach the file of a cache, which is made when it is not there."""
        self.con.execute(f"ATTACH {text_literal(str(cache))} AS {PUBLISHED}")

    def detach(self) -> None:
        """Let go of the cache, if one is attached."""
        self.con.execute(f"DETACH DATABASE IF EXISTS {PUBLISHED}")
