"""The DuckDB database of one run: how it is opened, and the name of every table in it.

The steps of a run pass their results to each other in tables. `Workspace` has a method for each
table, so that the table's name is in one place. KIND is a kind of record, FIELDS are its
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

The tables of `published` are the cache of a source. They are in a separate file, which outlives the
run. All other tables are dropped when the run ends.

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
"""How much memory DuckDB may use before it spills to disk."""

PUBLISHED = "published"
"""The name under which the cache of published records is attached: `published.student`."""

READING, SETTING_APART = "the source's `read`", "`row_hashes.set_apart`"
VALIDATING, COMPARING, ATTACHING = "`validate`", "`diff.compare`", "`snapshot.attach`"


class WorkTable(str):
    """The name of a table as SQL writes it.

    name:  the bare name.
    maker: the step that makes the table, for the error that reports it as missing.
    cache: whether the table is in the cache.
    """

    name: str
    maker: str
    cache: bool

    def __new__(cls, name: str, maker: str, *, cache: bool = False) -> WorkTable:
        """Return the name of a table, quoted for SQL."""
        sql = f"{PUBLISHED}.{quoted(name)}" if cache else quoted(name)
        table = super().__new__(cls, sql)
        table.name, table.maker, table.cache = name, maker, cache
        return table


class Workspace:
    """The database of one run, around the `Staging` that the source of this run fills.

    It has no state besides the staging: two workspaces of the same staging are equivalent.
    """

    def __init__(self, staging: Staging) -> None:
        self.staging = staging
        self.con = staging.con

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Workspace]:
        """Open a new database that spills to a folder, and close it at the end."""
        with duckdb.connect() as con:
            con.execute("SET enable_progress_bar = false")  # it would write to stdout
            con.execute(f"SET memory_limit = '{MEMORY}'")
            con.execute(f"SET temp_directory = {text_literal(str(folder))}")
            yield cls(Staging(con, folder))

    # Tables: what the source read

    def raw(self, kind: str) -> WorkTable:
        """The rows of the extract, as text."""
        return WorkTable(f"raw_{kind}", READING)

    def own(self, name: str) -> WorkTable:
        """A table that the source makes under a name that it chooses."""
        return WorkTable(name, READING)

    # Tables: rows that have not changed

    @property
    def seen(self) -> WorkTable:
        """The rows of a file that is being loaded."""
        return WorkTable("seen", READING)

    def familiar(self, table: str) -> WorkTable:
        """The hashes of the skipped rows of a table."""
        return WorkTable(f"familiar_{table}", READING)

    @property
    def origin(self) -> WorkTable:
        """Where the skipped rows can be read again."""
        return WorkTable("origin", READING)

    def stale(self, kind: str) -> WorkTable:
        """The active records whose row has changed or is absent."""
        return WorkTable(f"stale_{kind}", SETTING_APART)

    def gone(self, kind: str) -> WorkTable:
        """The published records that have no row."""
        return WorkTable(f"gone_{kind}", SETTING_APART)

    @property
    def recalled(self) -> WorkTable:
        """The records whose rows are read again."""
        return WorkTable("recalled", SETTING_APART)

    # Tables: valid records and faults

    def known(self, kind: str) -> WorkTable:
        """The published records to which records may refer."""
        return WorkTable(f"known_{kind}", "`produce`")

    def record(self, kind: str) -> WorkTable:
        """The valid records."""
        return WorkTable(f"record_{kind}", VALIDATING)

    @property
    def doubtful(self) -> WorkTable:
        """The rows that have a fault."""
        return WorkTable("doubtful", VALIDATING)

    @property
    def faulty(self) -> WorkTable:
        """The faults that one step found, each with the place of its row."""
        return WorkTable("faulty", VALIDATING)

    @property
    def repeated(self) -> WorkTable:
        """The rows whose id another row has too."""
        return WorkTable("repeated", VALIDATING)

    def elsewhere(self, kind: str) -> WorkTable:
        """The ids that another source has published."""
        return WorkTable(f"elsewhere_{kind}", VALIDATING)

    @property
    def dangling(self) -> WorkTable:
        """The ids that a field refers to and that no record has."""
        return WorkTable("dangling", VALIDATING)

    @property
    def bad(self) -> WorkTable:
        """The rows that refer to an id in `dangling`."""
        return WorkTable("bad", VALIDATING)

    @property
    def doomed(self) -> WorkTable:
        """The rows that are left out because they require an id in `dangling`."""
        return WorkTable("doomed", VALIDATING)

    @property
    def mended(self) -> WorkTable:
        """The lists without the ids in `dangling`."""
        return WorkTable("mended", VALIDATING)

    @property
    def jump(self) -> WorkTable:
        """An ancestor of each record."""
        return WorkTable("jump", VALIDATING)

    # Tables: changes

    @property
    def concerned(self) -> WorkTable:
        """The published records that an extract may change."""
        return WorkTable("concerned", COMPARING)

    def change(self, kind: str) -> WorkTable:
        """The records to publish."""
        return WorkTable(f"change_{kind}", COMPARING)

    # Tables: what was published

    def published(self, kind: str) -> WorkTable:
        """The latest state of each record that the source has published."""
        return WorkTable(kind, ATTACHING, cache=True)

    @property
    def position(self) -> WorkTable:
        """The offsets up to which the cache is complete."""
        return WorkTable("position", ATTACHING, cache=True)

    @property
    def quarantined(self) -> WorkTable:
        """The faults of the source that are in the quarantine."""
        return WorkTable("quarantined", ATTACHING, cache=True)

    @property
    def about(self) -> WorkTable:
        """The mark of the cache."""
        return WorkTable("about", ATTACHING, cache=True)

    def read(self, kind: str) -> WorkTable:
        """The messages that the cache lacks."""
        return WorkTable(f"read_{kind}", ATTACHING)

    @property
    def latest(self) -> WorkTable:
        """The latest message of each record."""
        return WorkTable("latest", ATTACHING)

    # Operations on tables

    def sql(self, statement: str, values: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return self.con.execute(statement, values).fetchall()

    def number(self, statement: str) -> int:
        """Run a statement and return its one number, or 0 if it gives no row.

        For a DELETE, the number is how many rows were deleted.
        """
        rows = self.sql(statement)
        return int(rows[0][0]) if rows else 0

    def columns_of(self, table: WorkTable) -> list[str]:
        """Return the columns of a table, in its order."""
        return [column[0] for column in self.con.execute(f"FROM {table} LIMIT 0").description or []]

    def has(self, table: WorkTable) -> bool:
        """Return whether this table exists, or a view with its name."""
        return (table.cache, table.name) in self._there()

    def require(self, *tables: WorkTable) -> None:
        """Raise `RuntimeError` if one of these tables does not exist: a step ran out of order."""
        there = self._there()
        for table in tables:
            if (table.cache, table.name) not in there:
                raise RuntimeError(
                    f"there is no table {table}; {table.maker} makes it and must run before"
                )

    def _there(self) -> set[tuple[bool, str]]:
        """Return the name of each table, and whether it is in the cache."""
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
        """Commit all statements of the block, or roll all of them back if one fails."""
        self.con.begin()
        try:
            yield
        except BaseException:
            with suppress(duckdb.Error):  # the first error is the one to raise
                self.con.rollback()
            raise
        self.con.commit()

    def insert(self, table: WorkTable, rows: pyarrow.Table) -> None:
        """Add rows, matched by the names of their columns."""
        self.con.register("arrow", rows)
        self.con.execute(f"INSERT INTO {table} BY NAME FROM arrow")
        self.con.unregister("arrow")

    def batches(self, select: str, size: int) -> Iterator[pyarrow.RecordBatch]:
        """Yield the rows of a SELECT in its order, in batches of `size`."""
        cursor = self.con.cursor()
        try:
            yield from cursor.sql(select).to_arrow_reader(size)
        finally:
            cursor.close()  # otherwise the cache stays open while anything refers to the error

    def attach(self, cache: Path) -> None:
        """Attach the file of a cache, and create the file if it does not exist."""
        self.con.execute(f"ATTACH {text_literal(str(cache))} AS {PUBLISHED}")

    def detach(self) -> None:
        """Detach the cache, if one is attached."""
        self.con.execute(f"DETACH DATABASE IF EXISTS {PUBLISHED}")
