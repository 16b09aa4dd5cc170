"""DuckDB databases in memory that tests take over from each other.

`duckdb.connect()` takes 40 ms of CPU time, as DuckDB first registers thousands of functions. Some
tests open dozens of databases. `reused` makes `duckdb.connect` hand out a database that was closed
before: empty, with the default settings, and with nothing attached. A database that cannot be made
like new is closed, and the next connection is a new one. Databases in files are left alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pytest

SETTINGS = ("threads", "memory_limit", "temp_directory")
"""The settings of a whole database that Schoolbus changes. All others end with a connection."""
connect = duckdb.connect


class Database:
    """A database in memory, which one connection at a time uses.

    base: keeps the database open between two connections.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.base = connect(config=config)
        self.config = config
        self.settings = self._settings()

    def renew(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Close a connection and all that it has made. Return whether the database is like new."""
        try:
            con.close()
            for (name,) in self._rows(
                "SELECT database_name FROM duckdb_databases() "
                "WHERE NOT internal AND database_name <> 'memory'"
            ):
                self.base.execute(f'DETACH "{name}"')
            for what, name in self._rows(
                "SELECT 'VIEW', view_name FROM duckdb_views() WHERE NOT internal UNION ALL "
                "SELECT 'TABLE', table_name FROM duckdb_tables()"
            ):
                self.base.execute(f'DROP {what} "{name}"')
            if self._settings() != self.settings:
                self.base.execute("RESET memory_limit")  # its value is shown rounded
                for name in ("threads", "temp_directory"):
                    self.base.execute(f"SET {name} = ?", [self.settings[name]])
            return self._settings() == self.settings
        except duckdb.Error:  # a connection is still in use, or an error has broken the database
            return False

    def _rows(self, query: str) -> list[Any]:
        return self.base.execute(query).fetchall()

    def _settings(self) -> dict[str, Any]:
        """Return the values of `SETTINGS`."""
        query = ", ".join(f"current_setting('{name}')" for name in SETTINGS)
        return dict(zip(SETTINGS, self._rows(f"SELECT {query}")[0], strict=True))


class Connection:
    """A connection to a `Database`, which is free for others when this is closed or forgotten."""

    def __init__(self, database: Database, free: list[Database]) -> None:
        self._database = database
        self._con = database.base.cursor()
        self._made = [0]  # what was made that cannot be listed
        self._end = weakref.finalize(self, _end, self._con, database, free, self._made)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._end()

    def cursor(self) -> Any:
        self._made[0] += 1  # it may be open for longer
        return self._con.cursor()

    def create_function(self, *arguments: Any, **more: Any) -> Any:
        self._made[0] += 1
        return self._con.create_function(*arguments, **more)

    def remove_function(self, name: str) -> Any:
        made = self._con.remove_function(name)
        self._made[0] -= 1
        return made


def _end(
    con: duckdb.DuckDBPyConnection, database: Database, free: list[Database], made: list[int]
) -> None:
    if made == [0] and database.renew(con):
        free.append(database)
    else:
        con.close()
        database.base.close()


@contextmanager
def reused() -> Iterator[None]:
    """Let `duckdb.connect` hand out databases in memory that are closed, inside the block."""
    free: list[Database] = []

    def take(path: Any = ":memory:", read_only: bool = False, config: Any = None) -> Any:
        if path != ":memory:" or read_only:
            return connect(path, read_only, config or {})
        wanted = dict(config or {})
        found = next((one for one in reversed(free) if one.config == wanted), None)
        if found is None:
            found = Database(wanted)
        else:
            free.remove(found)
        return Connection(found, free)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb, "connect", take)
        yield
    for each in free:
        each.base.close()
