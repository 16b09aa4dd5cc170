"""The rows of a `SetState` in DuckDB, from which the files of a set are written.

SQLite keeps rows and offsets in one transaction, for several instances. DuckDB sorts, joins and
writes a million rows in the time that SQLite takes to read them. So each has its part.

`OUT/.schoolbus/mirror/rows.duckdb` is a cache of `state.sqlite`. It can be deleted at any time. It
is open only while a set is written, under the folder's lock. Before the set is written, the mirror
is brought up to date. Only the records that have changed since the last time are taken, so the cost
depends on the number of changes.

    about        the mark, which changes each time the mirror is brought up to date
    "TABLE.csv"  kind, id, owner, at, last_day as in the state; c0, c1, …: the cells. In a new
                 mirror the rows are in the order in which they are written; changed rows come at
                 the end.

The state has the mark of the mirror for which it notes changes. If the two marks differ, or if the
state has not noted all changes, the mirror is rebuilt from all rows. Both marks change in one step,
during which no instance changes the state: first DuckDB commits, then SQLite. A kill

    before DuckDB commits     leaves both marks unchanged: the same records are taken again; or it
                              leaves a new mirror without a mark, which is not used
    between the two commits   leaves a mirror with a mark that no state has: it is rebuilt
    after SQLite's commit     leaves a mirror that is up to date, even if no file of the set was
                              written

The same rules cover a mirror or a state that was restored from a backup, and a damaged file. If no
file can be opened because another process has it, the mirror is in memory for this one set.

Data that does not fit into memory goes to `mirror/spill`. Files that a kill leaves there are
deleted before the next set.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from bus.consume.cache_database import CacheDatabase
from bus.delivery import Table
from consumers.delivery.set_state import Key, Line, SetState
from consumers.delivery.shared_folder import SharedFolder

if TYPE_CHECKING:
    import duckdb

FILE = "rows.duckdb"
LAYOUT = "1"
"""The version of the mirror's tables; increase it when they change."""
BLOCK = 20_000
"""The number of rows that are taken from the state at once."""
MEMORY_MB = 512
"""The ids to which rows refer must fit into this memory. Those of a million students do."""
THREADS = 2
ROOM = 4
"""The mirror is rebuilt when one in this many rows has changed since it was built. Changed rows
come at its end, so it is less and less sorted."""


class SetMirror:
    """The mirror of a folder's state, for the time in which one set is written.

    memory: how many megabytes DuckDB may use.

    error:  the base class of all errors that DuckDB raises.
    too_small: the error of them that means that `memory` was too small.
    faults: a context manager that turns them into `RetryLater` and `Stop`.

    The methods raise DuckDB's own errors.
    """

    def __init__(
        self, folder: SharedFolder, tables: Sequence[Table], memory: int = MEMORY_MB
    ) -> None:
        self._tables = tables
        self._own = folder.own / "mirror"
        self._own.mkdir(mode=0o700, exist_ok=True)
        spill = self._own / "spill"
        shutil.rmtree(spill, ignore_errors=True)
        spill.mkdir(mode=0o700)
        self._database = CacheDatabase(
            self._own, "the rows of the set", spill, memory=memory, threads=THREADS
        )
        self._con = self._database.con
        # Without this optimizer a join keeps the order of the rows, and holds the ids in memory
        # instead of the rows. Rows that are in order are sorted in a third of the time.
        self._con.execute("SET disabled_optimizers = 'build_side_probe_side'")
        self.error = self._database.error
        self.too_small = self._database.too_small
        self.faults = self._database.faults

    def close(self) -> None:
        """Close the file and delete the spilled data."""
        self._database.close()
        shutil.rmtree(self._own / "spill", ignore_errors=True)

    def delete(self) -> None:
        """Close and delete a damaged mirror."""
        self.close()
        shutil.rmtree(self._own, ignore_errors=True)

    def follow(self, state: SetState) -> tuple[duckdb.DuckDBPyConnection, str]:
        """Bring the mirror up to date.

        Returns the DuckDB connection, with the rows in the schema `mirror`, and the number of the
        state's last change (`SetState.moment`).
        """
        with state.moment() as changes:
            mark = state.mirror
            if mark and not mark.startswith(f"{LAYOUT}:"):
                mark = None
            self._database.open("mirror", FILE, lambda: self._is_usable(mark))
            if not self._database.rows("FROM mirror.about"):
                self._take(state, changed=False)
            elif any(state.changed(table.name) for table in self._tables):
                self._take(state, changed=True)
        return self._con, changes

    # ---- private -------------------------------------------------------------------------------

    def _is_usable(self, mark: str | None) -> bool:
        """Create the tables in a new file; return whether an existing file has the state's mark."""
        if self._database.rows(
            "FROM duckdb_tables() WHERE database_name = 'mirror' AND table_name = 'about'"
        ):
            return self._database.rows("FROM mirror.about") == [(mark,)]
        path = self._own / FILE
        if path.exists():
            path.chmod(0o600)
        for table in self._tables:
            cells = "".join(f", c{at} VARCHAR" for at in range(len(table.columns)))
            self._con.execute(
                f'CREATE TABLE mirror."{table.name}" (kind VARCHAR, id VARCHAR, owner VARCHAR, '
                f'"at" INTEGER, last_day VARCHAR{cells})'
            )
        self._con.execute("CREATE TABLE mirror.about (mark VARCHAR)")
        return True

    def _take(self, state: SetState, *, changed: bool) -> None:
        """Take all rows or those of the changed records, and set a new mark in mirror and state.

        Changed records are taken in one transaction. All rows are not, because a transaction would
        hold them in memory. That is safe: a file without a mark is not used.
        """
        mark = f"{LAYOUT}:{uuid.uuid4().hex}"
        with self._database.transaction() if changed else nullcontext():
            for table in self._tables:
                keys = state.changed(table.name) if changed else []
                if keys:
                    self._remove(table, keys)
                if keys or not changed:
                    self._append(table, state.blocks(table.name, changed=changed, size=BLOCK))
            self._con.execute("DELETE FROM mirror.about")
            self._con.execute("INSERT INTO mirror.about VALUES (?)", [mark])
        if changed:
            state.note_mirrored(mark)
        else:
            state.note_mirrored(mark, self._number() // ROOM)

    def _number(self) -> int:
        """Return the number of rows."""
        counted = [f'SELECT count(*) AS n FROM mirror."{table.name}"' for table in self._tables]
        ((number,),) = self._database.rows(f"SELECT sum(n) FROM ({' UNION ALL '.join(counted)})")
        return int(number)

    def _remove(self, table: Table, keys: Sequence[Key]) -> None:
        """Remove the rows of these records."""
        with self._given("gone", keys, ("kind", "id", "owner")):
            self._con.execute(
                f'DELETE FROM mirror."{table.name}" AS t USING gone AS g '
                "WHERE t.id = g.id AND t.kind = g.kind AND t.owner = g.owner"
            )

    def _append(self, table: Table, blocks: Iterable[Sequence[Line]]) -> None:
        """Append rows, sorted as they are written, because sorted rows are sorted again faster."""
        number = len(table.columns)
        paths = ", ".join(f"'$[{at}]'" for at in range(number))
        cells = "".join(f", coalesce(cell[{at + 1}], '')" for at in range(number))
        self._con.execute(
            f'CREATE OR REPLACE TEMP TABLE taken AS FROM mirror."{table.name}" LIMIT 0'
        )
        for block in blocks:
            with self._given("block", block, ("kind", "id", "owner", "at", "cells", "last_day")):
                self._con.execute(
                    f'INSERT INTO taken SELECT kind, id, owner, "at", last_day{cells} FROM '
                    f"(SELECT *, json_extract_string(cells, [{paths}]) AS cell FROM block)"
                )
        key = "".join(f"c{table.columns.index(name)}, " for name in table.key)
        self._con.execute(
            f'INSERT INTO mirror."{table.name}" FROM taken ORDER BY {key}kind, id, owner, "at"'
        )
        self._con.execute("DROP TABLE taken")

    @contextmanager
    def _given(
        self, name: str, rows: Sequence[Key | Line], columns: Sequence[str]
    ) -> Iterator[None]:
        """Make rows available to DuckDB as a table."""
        import pyarrow

        lists = list(zip(*rows, strict=True)) or [()] * len(columns)
        types = [pyarrow.int32() if column == "at" else pyarrow.string() for column in columns]
        arrays = [pyarrow.array(*one) for one in zip(lists, types, strict=True)]
        with self._database.given(name, pyarrow.table(arrays, names=list(columns))):
            yield
