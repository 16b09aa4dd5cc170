"""The rows of a `SetState` once more, in columns, from which the files of a set are written.

SQLite keeps rows and offsets in one transaction, for several instances; DuckDB sorts, joins and
writes a million rows in the time that SQLite takes to read them. So each has its part.

`OUT/.schoolbus/mirror/rows.duckdb` is a cache of `state.sqlite`. It may be deleted at any time. It
is open only while a set is written, under the folder's lock. Before that it is brought in step:
only the records that have changed since are taken, so this costs as much as the change is large.

    about        the mark: another one each time that the mirror is brought in step
    "TABLE.csv"  kind, id, owner, at, last_day as in the state; c0, c1, …: the cells. At first the
                 rows lie in the order in which they are written; changed ones come at the end.

The state has the mark of the mirror whose changes it notes. When the two marks differ, or the state
has not noted all changes, the mirror is made anew from all rows. Both marks change in one step,
during which nobody changes the state: first DuckDB commits, then SQLite. A kill

    before DuckDB commits     leaves both marks as they were: the same records are taken again; or
                              a new mirror without a mark, which nobody uses
    between the two commits   leaves a mirror with a mark that no state has: it is made anew
    after SQLite's commit     leaves a mirror in step, also if no file of the set is written yet

The same goes for a mirror or a state that was put back from a backup, and for a damaged file. Where
no file can be opened (another process has it), the mirror is in memory for this one set.

What memory cannot hold goes to `mirror/spill`; what a kill leaves there goes with the next set.
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
"""Of the mirror; to be raised when its tables change."""
BLOCK = 20_000
"""So many rows are taken from the state at once."""
ROOM = 4
"""When one in so many rows has changed since the mirror was made, it is made anew: new rows come at
its end, so that it is less and less in order."""


class SetMirror:
    """The mirror of a folder's state, for the time in which one set is written.

    error: the base of all that DuckDB raises.

    Raises what DuckDB does: `faults` tells it in the bus's terms.
    """

    def __init__(self, folder: SharedFolder, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._own = folder.own / "mirror"
        self._own.mkdir(mode=0o700, exist_ok=True)
        spill = self._own / "spill"
        shutil.rmtree(spill, ignore_errors=True)
        spill.mkdir(mode=0o700)
        self._database = CacheDatabase(self._own, "the rows of the set", spill)
        self._con = self._database.con
        # A join leaves the rows in their order, and keeps the ids that it looks for in memory, not
        # the rows. Rows in order are sorted in a third of the time.
        self._con.execute("SET disabled_optimizers = 'build_side_probe_side'")
        self.error = self._database.error
        self.faults = self._database.faults

    def close(self) -> None:
        """Close the file."""
        self._database.close()
        shutil.rmtree(self._own / "spill", ignore_errors=True)

    def delete(self) -> None:
        """Close the file and delete it: it is damaged."""
        self.close()
        shutil.rmtree(self._own, ignore_errors=True)

    def follow(self, state: SetState) -> tuple[duckdb.DuckDBPyConnection, str]:
        """Bring the mirror in step.

        Gives DuckDB, with the rows in the schema `mirror`, and how often they had changed by then
        (`SetState.moment`).
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

    # ---- within --------------------------------------------------------------------------------

    def _is_usable(self, mark: str | None) -> bool:
        """Make the tables of a file that is new; whether another one has the state's mark."""
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
        """Take all rows or those of the changed records, and a new mark; the state notes it.

        Changed records are one transaction. All rows are many, as one would hold them in memory:
        until it has a mark, nobody uses the file.
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
        """How many rows there are."""
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
        """Append rows in the order in which they are written: what is in order is soon sorted."""
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
        """Rows as a table of DuckDB."""
        import pyarrow

        lists = list(zip(*rows, strict=True)) or [()] * len(columns)
        types = [pyarrow.int32() if column == "at" else pyarrow.string() for column in columns]
        arrays = [pyarrow.array(*one) for one in zip(lists, types, strict=True)]
        self._con.register(name, pyarrow.table(arrays, names=list(columns)))
        try:
            yield
        finally:
            self._con.unregister(name)
