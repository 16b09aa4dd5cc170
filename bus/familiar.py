"""Rows that are as they were: what an extract says again, word for word, is not checked again.

Most of an extract is what the last one said. A row that was published as it stood, without any
fault, leaves a hash of its text in the cache (`_raw`, see `bus.baseline`). The same text again says
the same, unless something that it refers to has changed, or its id is there twice; so such a row is
set apart before the checks, which are most of the work. `dateLastModified` is no part of the hash,
as some systems stamp all rows anew each night.
"""

from __future__ import annotations

from collections.abc import Collection

import duckdb

from bus.columns import NOT_COMPARED, SCHEMA, columns, quoted
from bus.conversions import text_literal
from bus.staging import Staging
from bus.standard import KINDS


def text_print(kind: str, table: str, there: Collection[str]) -> str:
    """SQL: a hash of a row of source text, by the fields that the table has."""
    fields = [name for name in sorted(there) if name in columns(kind) and name not in NOT_COMPARED]
    values = ", ".join(f"{table}.{quoted(name)}" for name in fields)
    return f"hash(row({text_literal(' '.join(fields))}, {values}))" if fields else "NULL::UBIGINT"


def set_apart(staging: Staging) -> None:
    """Make `familiar_KIND(sourcedId)` for each kind in the extract, and leave the rest in
    `raw_KIND`.

    Of what is familiar the published record stands, active, and all that it refers to is familiar
    too, or is of a kind that this extract does not hold.
    """
    con = staging.con
    kinds = [kind for kind in KINDS if kind in staging.coverage]
    for kind in kinds:
        _alike(con, kind)
    for kind in kinds:
        own_kind = any(kind in targets for targets in KINDS[kind].references.values())
        while _forsake(con, kind, kinds) and own_kind:
            pass  # who names one that was just taken out may now have to go too
    for kind in kinds:
        if _number(con, f"SELECT count(*) FROM {_familiar(kind)}"):
            raw = quoted(f"raw_{kind}")
            con.execute(
                f"CREATE TABLE unfamiliar AS SELECT * FROM {raw} "
                f"WHERE rowid NOT IN (SELECT r FROM {_familiar(kind)})"
            )
            con.execute(f"DROP TABLE {raw}")
            con.execute(f"ALTER TABLE unfamiliar RENAME TO {raw}")


def present(kind: str) -> str:
    """SQL: the ids of all rows of a kind in the extract, as a table with the column sourcedId."""
    return (
        f"(SELECT trim(sourcedId) AS sourcedId FROM {quoted(f'raw_{kind}')} "
        f"UNION ALL SELECT sourcedId FROM {_familiar(kind)})"
    )


def none(con: duckdb.DuckDBPyConnection, kind: str) -> None:
    """Make `familiar_KIND` with nothing in it."""
    con.execute(f"CREATE TABLE {_familiar(kind)} (r BIGINT, sourcedId VARCHAR)")


def _familiar(kind: str) -> str:
    return quoted(f"familiar_{kind}")


def _alike(con: duckdb.DuckDBPyConnection, kind: str) -> None:
    """Make `familiar_KIND` of the rows whose text is as it was, each by itself."""
    none(con, kind)
    before, raw = f"{SCHEMA}.{quoted(kind)}", quoted(f"raw_{kind}")
    if not _number(con, f"SELECT count(_raw) FROM {before}"):
        return
    there = [column[0] for column in con.execute(f"FROM {raw} LIMIT 0").description or []]
    # By hash, as hashes of millions of ids fit in memory where the ids may not.
    id_ = "hash(trim(x.sourcedId))"
    twice = f"SELECT {id_} FROM {raw} x GROUP BY 1 HAVING count(*) > 1"
    con.execute(
        f"INSERT INTO {_familiar(kind)} SELECT x.rowid, b.sourcedId "
        f"FROM {raw} x JOIN {before} b ON b.sourcedId = trim(x.sourcedId) "
        f"WHERE b._raw = {text_print(kind, 'x', there)} AND b.status = 'active' "
        f"AND {id_} NOT IN ({twice})"
    )


def _forsake(con: duckdb.DuckDBPyConnection, kind: str, kinds: Collection[str]) -> int:
    """Take out of `familiar_KIND` what refers to a record that is familiar no more; how many."""
    gone = 0
    before = f"{SCHEMA}.{quoted(kind)}"
    for name, targets in KINDS[kind].references.items():
        for target in [target for target in targets if target in kinds]:
            con.execute(
                f"CREATE OR REPLACE TEMP TABLE lost AS SELECT sourcedId AS id "
                f"FROM {SCHEMA}.{quoted(target)} WHERE status = 'active' "
                f"AND sourcedId NOT IN (SELECT sourcedId FROM {_familiar(target)})"
            )
            if not _number(con, "SELECT count(*) FROM lost"):
                continue
            several = columns(kind)[name].endswith("[]")
            named = f"unnest({quoted(name)})" if several else quoted(name)
            gone += _number(
                con,
                f"DELETE FROM {_familiar(kind)} WHERE sourcedId IN (SELECT sourcedId FROM "
                f"(SELECT sourcedId, {named} AS id FROM {before}) WHERE id IN (FROM lost))",
            )
    return gone


def _number(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(con.execute(sql).fetchall()[0][0])
