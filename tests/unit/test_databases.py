"""A database in memory that tests reuse is like a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.databases import reused

STATE = (
    "SELECT table_name FROM duckdb_tables() UNION ALL "
    "SELECT view_name FROM duckdb_views() WHERE NOT internal UNION ALL "
    "SELECT database_name FROM duckdb_databases() UNION ALL SELECT current_setting('threads') "
    "UNION ALL SELECT current_setting('memory_limit') UNION ALL "
    "SELECT current_setting('temp_directory') UNION ALL SELECT current_setting('TimeZone')"
)


def base_of(con: Any) -> object:
    """Return the database that a connection uses."""
    return con._database.base


def test_nothing_is_left_of_the_use_before(tmp_path: Path) -> None:
    with reused():
        con = duckdb.connect()
        new = con.execute(STATE).fetchall()
        for statement in (
            f"ATTACH '{tmp_path / 'file'}' AS other",
            "CREATE TABLE other.t AS SELECT 1 AS a",
            "CREATE TABLE t AS SELECT 1 AS a",
            "CREATE VIEW v AS FROM t",
            "CREATE TEMP TABLE own AS SELECT 1 AS a",
            "SET threads = 1",
            "SET memory_limit = '256MB'",
            "SET temp_directory = ''",
            "SET TimeZone = 'America/New_York'",
            "BEGIN",
            "INSERT INTO t VALUES (2)",
        ):
            con.execute(statement)
        base = base_of(con)
        con.close()
        with pytest.raises(duckdb.ConnectionException):
            con.execute("SELECT 1")
        again = duckdb.connect()
        assert base_of(again) is base
        assert again.execute(STATE).fetchall() == new
        with duckdb.connect(str(tmp_path / "file")) as file:
            assert file.execute("FROM t").fetchall() == [(1,)]


def test_two_that_are_open_are_two_databases() -> None:
    with reused(), duckdb.connect() as one, duckdb.connect() as two:
        one.execute("CREATE TABLE t AS SELECT 1 AS a")
        assert two.execute("SELECT table_name FROM duckdb_tables()").fetchall() == []


def test_what_was_closed_or_forgotten_is_taken_over_and_what_cannot_be_cleaned_is_not() -> None:
    with reused():
        one = duckdb.connect()
        first = base_of(one)
        del one
        two = duckdb.connect()
        assert base_of(two) is first
        two.create_function("small", lambda text: text.lower(), ["VARCHAR"], "VARCHAR")
        two.close()
        three = duckdb.connect()
        assert base_of(three) is not first
        three.execute("CREATE SCHEMA s")
        three.execute("CREATE TABLE s.t AS SELECT 1 AS a")
        second = base_of(three)
        three.close()
        assert base_of(duckdb.connect()) is not second


def test_a_file_is_opened_as_ever(tmp_path: Path) -> None:
    with reused():
        con = duckdb.connect(str(tmp_path / "file"))
        assert isinstance(con, duckdb.DuckDBPyConnection)
        con.close()
