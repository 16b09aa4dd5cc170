"""Rows that are as they were: what an extract says again, word for word, is not checked again.

Most of an extract is what the last one said. A row that was published as it stood, without any
fault, leaves a hash of its text in the cache (`_raw`, see `bus.ingest.snapshot`). The same text
again says the same, unless something that it refers to is there no more, or its id is there twice.
So such a row is known by its hash while the file is read, and nothing else of it is kept: `load`.
Those for which it does matter are read once more: `set_apart`. `dateLastModified` is no part of the
hash, as some systems stamp all rows anew each night.

A hash has 64 bits: that one of 100,000 changed rows has by chance the hash of one of 10 million
published ones happens once in 18 million nights.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import duckdb

from bus.ingest.coercion import text_literal
from bus.ingest.columns import NOT_COMPARED, SCHEMA, columns, quoted
from bus.source import Origin, Staging
from bus.standard import KINDS

FIRST = 2
"""The line of the first row below the header."""


def load(
    staging: Staging,
    table: str,
    relation: str,
    fields: Sequence[str],
    *,
    file: str,
    kinds: Sequence[str],
    numbered: bool = False,
) -> int:
    """Make `table(_file, _line, _raw, fields…)` of a file, without the rows that are as they were.

    relation: SQL that gives the fields as text, in the order of the file; it is read again when
              rows are wanted after all.
    kinds:    the kinds of record that its rows become.
    numbered: whether the relation has the column `_line`; else each row is a line, from the second.

    Returns how many rows the relation has.
    """
    con, origin = staging.con, Origin(table, relation, tuple(fields), file, numbered)
    known = [_known(kind) for kind in kinds if _kept(con, kind)]
    named = ", ".join(map(quoted, fields))
    if not known:
        con.execute(
            f"CREATE TABLE {quoted(table)} AS SELECT {text_literal(file)} AS _file, "
            f"_line, _raw, {named} FROM ({_numbered(origin)})"
        )
        return _number(con, f"SELECT count(*) FROM {quoted(table)}")
    line, at = ("_line, ", "_line") if numbered else ("", f"rowid + {FIRST}")
    # Of a table into which rows go in their order the row's number need not be kept, nor reckoned.
    con.execute(
        f"CREATE TEMP TABLE seen AS SELECT {line}_raw, "
        f"CASE WHEN _raw IN ({' UNION ALL '.join(known)}) THEN NULL ELSE [{named}] END AS _values "
        f"FROM (SELECT {line}{_print(fields)} AS _raw, {named} FROM ({relation}))"
    )
    taken = ", ".join(f"_values[{n}] AS {quoted(name)}" for n, name in enumerate(fields, 1))
    con.execute(
        f"CREATE TABLE {quoted(table)} AS SELECT {text_literal(file)} AS _file, "
        f"{at} AS _line, _raw, {taken} FROM seen WHERE _values IS NOT NULL"
    )
    con.execute(
        f"CREATE TEMP TABLE {_familiar(origin)} AS SELECT _raw FROM seen WHERE _values IS NULL"
    )
    number = _number(con, "SELECT count(*) FROM seen")
    con.execute("DROP TABLE seen")
    staging.origins |= dict.fromkeys(kinds, origin)
    return number


def forget(staging: Staging, table: str) -> None:
    """Undo `load`."""
    for kind in [kind for kind, origin in staging.origins.items() if origin.table == table]:
        staging.con.execute(f"DROP TABLE IF EXISTS {_familiar(staging.origins.pop(kind))}")
    staging.con.execute(f"DROP TABLE {quoted(table)}")


def set_apart(staging: Staging) -> None:
    """Make for each kind in the extract, of what was published of it,

    stale_KIND(sourcedId): the active records whose row is not as it was;
    gone_KIND(sourcedId):  the records, active or withdrawn, that have no row.

    Rows that are there twice, whose id other rows have too, or that name what is gone from the
    extract, are read once more into `raw_KIND`.
    """
    con = staging.con
    for kind in staging.kinds:
        stale(con, kind, staging.origins.get(kind))
    for origin in dict.fromkeys(staging.origins.values()):
        kinds = [kind for kind in staging.kinds if staging.origins.get(kind) == origin]
        rows = _number(con, f"SELECT count(*) FROM {_familiar(origin)}")
        if rows > sum(unchanged(con, kind) for kind in kinds):
            twice = f"SELECT _raw FROM {_familiar(origin)} GROUP BY 1 HAVING count(*) > 1"
            for kind in kinds:
                _read_again(staging, kind, f"_raw IN ({twice})")
        for kind in kinds:
            ids = f"SELECT trim(sourcedId) FROM {quoted(f'raw_{kind}')}"
            _read_again(staging, kind, f"sourcedId IN ({ids})")
    for kind in staging.kinds:
        gone(con, kind)
    for other in staging.origins.keys() & staging.coverage.keys():
        for name, targets in KINDS[other].references.items():
            for kind in targets:
                if staging.coverage.get(kind) == "bulk":
                    _read_again(staging, other, _names(other, name, kind))


def _names(kind: str, name: str, target: str) -> str:
    """SQL: whether a field names a record that is gone."""
    ids = f"SELECT sourcedId FROM {quoted(f'gone_{target}')}"
    if not columns(kind)[name].endswith("[]"):
        return f"{quoted(name)} IN ({ids})"
    return f"list_has_any({quoted(name)}, (SELECT coalesce(list(sourcedId), []) FROM ({ids})))"


def stale(con: duckdb.DuckDBPyConnection, kind: str, origin: Origin | None = None) -> None:
    """Make `stale_KIND`, see `set_apart`; without an origin nothing is as it was."""
    apart = f"ANTI JOIN {_familiar(origin)} f ON b._raw = f._raw" if origin else ""
    where = f"FROM {SCHEMA}.{quoted(kind)} b {apart} WHERE status = 'active'"
    con.execute(f"CREATE TEMP TABLE {quoted(f'stale_{kind}')} AS SELECT sourcedId {where}")


def gone(con: duckdb.DuckDBPyConnection, kind: str) -> None:
    """Make `gone_KIND`, see `set_apart`."""
    con.execute(
        f"CREATE TEMP TABLE {quoted(f'gone_{kind}')} AS SELECT sourcedId FROM ("
        f"SELECT sourcedId FROM {quoted(f'stale_{kind}')} UNION ALL "
        f"SELECT sourcedId FROM {SCHEMA}.{quoted(kind)} WHERE status <> 'active') b "
        f"ANTI JOIN (SELECT trim(sourcedId) AS id FROM {quoted(f'raw_{kind}')}) r "
        "ON b.sourcedId = r.id"
    )


def unchanged(con: duckdb.DuckDBPyConnection, kind: str) -> int:
    """How many records of a kind stand as they were published, by rows that are as they were."""
    return _number(
        con,
        f"SELECT (SELECT count(*) FROM {SCHEMA}.{quoted(kind)} WHERE status = 'active') - "
        f"(SELECT count(*) FROM {quoted(f'stale_{kind}')})",
    )


def _kept(con: duckdb.DuckDBPyConnection, kind: str) -> bool:
    """Whether there are hashes of a kind. One whose records form a tree of their own is checked
    whole each time: a circle is seen only by who sees all of it."""
    tree = any(
        kind in targets and not columns(kind)[name].endswith("[]")
        for name, targets in KINDS[kind].references.items()
    )
    return not tree and _there(con, kind, SCHEMA) and _number(con, f"{_known(kind)} LIMIT 1") > 0


def _known(kind: str) -> str:
    """SQL: the hashes of the rows that may come again as they were."""
    return f"SELECT _raw FROM {SCHEMA}.{quoted(kind)} WHERE status = 'active' AND _raw IS NOT NULL"


def _print(fields: Collection[str]) -> str:
    """SQL: a hash of a row of source text."""
    compared = sorted(name for name in fields if name not in NOT_COMPARED)
    values = ", ".join(map(quoted, compared))
    return f"hash(row({text_literal(' '.join(compared))}, {values}))"


def _numbered(origin: Origin) -> str:
    """SQL: the origin's rows with `_line` and `_raw`."""
    line = "_line" if origin.numbered else f"row_number() OVER () + {FIRST - 1} AS _line"
    named = ", ".join(map(quoted, origin.fields))
    return f"SELECT {line}, {_print(origin.fields)} AS _raw, {named} FROM ({origin.relation})"


def _familiar(origin: Origin) -> str:
    return quoted(f"familiar_{origin.table}")


def _read_again(staging: Staging, kind: str, which: str) -> None:
    """Read once more the rows, as they were, of published records for which SQL says so, into
    `raw_KIND`."""
    con, origin = staging.con, staging.origins[kind]
    stale = quoted(f"stale_{kind}")
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE recalled AS SELECT sourcedId, _raw "
        f"FROM {SCHEMA}.{quoted(kind)} b WHERE ({which}) AND status = 'active' "
        f"AND _raw IS NOT NULL AND NOT EXISTS (FROM {stale} s WHERE s.sourcedId = b.sourcedId)"
    )
    if not _number(con, "SELECT count(*) FROM recalled"):
        return
    raw = quoted(f"raw_{kind}")
    there = [column[0] for column in con.execute(f"FROM {raw} LIMIT 0").description or []]
    taken = ", ".join(quoted(name) for name in there if name in origin.fields)
    con.execute(
        f"INSERT INTO {raw} (_file, _line, _raw, {taken}) "
        f"SELECT {text_literal(origin.file)}, _line, _raw, {taken} "
        f"FROM ({_numbered(origin)}) WHERE _raw IN (SELECT _raw FROM recalled)"
    )
    con.execute(f"DELETE FROM {_familiar(origin)} WHERE _raw IN (SELECT _raw FROM recalled)")
    con.execute(f"INSERT INTO {stale} SELECT sourcedId FROM recalled")


def _there(con: duckdb.DuckDBPyConnection, table: str, catalog: str = "temp") -> bool:
    found = con.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE table_name = ? AND database_name = ?",
        [table, catalog],
    ).fetchall()
    return bool(found[0][0])


def _number(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    found = con.execute(sql).fetchall()
    return int(found[0][0]) if found else 0
