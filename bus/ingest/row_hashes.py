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
from dataclasses import dataclass

from bus.ingest.coercion import text_literal
from bus.ingest.columns import NOT_COMPARED, columns, quoted
from bus.ingest.workspace import Workspace, WorkTable
from bus.source import Staging
from bus.standard import KINDS

FIRST = 2
"""The line of the first row below the header."""


@dataclass(frozen=True, slots=True)
class Origin:
    """From where the rows of a table can be read once more; see `load`."""

    table: str
    relation: str
    fields: tuple[str, ...]
    file: str
    numbered: bool


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
    workspace = Workspace(staging)
    made, seen, familiar = workspace.own(table), workspace.seen, workspace.familiar(table)
    origin = Origin(table, relation, tuple(fields), file, numbered)
    known = [_known(workspace, kind) for kind in kinds if _kept(workspace, kind)]
    named = ", ".join(map(quoted, fields))
    if not known:
        workspace.sql(
            f"CREATE TABLE {made} AS SELECT {text_literal(file)} AS _file, "
            f"_line, _raw, {named} FROM ({_numbered(origin)})"
        )
        return workspace.number(f"SELECT count(*) FROM {made}")
    line, at = ("_line, ", "_line") if numbered else ("", f"rowid + {FIRST}")
    # Of a table into which rows go in their order the row's number need not be kept, nor reckoned.
    workspace.sql(
        f"CREATE TEMP TABLE {seen} AS SELECT {line}_raw, "
        f"CASE WHEN _raw IN ({' UNION ALL '.join(known)}) THEN NULL ELSE [{named}] END AS _values "
        f"FROM (SELECT {line}{_print(fields)} AS _raw, {named} FROM ({relation}))"
    )
    taken = ", ".join(f"_values[{n}] AS {quoted(name)}" for n, name in enumerate(fields, 1))
    workspace.sql(
        f"CREATE TABLE {made} AS SELECT {text_literal(file)} AS _file, "
        f"{at} AS _line, _raw, {taken} FROM {seen} WHERE _values IS NOT NULL"
    )
    workspace.sql(f"CREATE TEMP TABLE {familiar} AS SELECT _raw FROM {seen} WHERE _values IS NULL")
    number = workspace.number(f"SELECT count(*) FROM {seen}")
    workspace.sql(f"DROP TABLE {seen}")
    _note(workspace, origin, kinds)
    return number


def forget(staging: Staging, table: str) -> None:
    """Undo `load`."""
    workspace = Workspace(staging)
    workspace.sql(f"DROP TABLE IF EXISTS {workspace.familiar(table)}")
    if workspace.has(workspace.origin):
        workspace.sql(f"DELETE FROM {workspace.origin} WHERE place = ?", [table])
    workspace.sql(f"DROP TABLE {workspace.own(table)}")


def _note(workspace: Workspace, origin: Origin, kinds: Sequence[str]) -> None:
    """Keep from where the rows of these kinds come."""
    workspace.sql(
        f"CREATE TEMP TABLE IF NOT EXISTS {workspace.origin} (kind VARCHAR, place VARCHAR, "
        "relation VARCHAR, fields VARCHAR[], file VARCHAR, numbered BOOLEAN)"
    )
    rest = [origin.table, origin.relation, list(origin.fields), origin.file, origin.numbered]
    for kind in kinds:
        workspace.sql(f"INSERT INTO {workspace.origin} VALUES (?, ?, ?, ?, ?, ?)", [kind, *rest])


def _origins(workspace: Workspace) -> dict[str, Origin]:
    """The kinds of which rows were left out of `raw_KIND`, and from where they can be had."""
    if not workspace.has(workspace.origin):
        return {}
    rows = workspace.sql(
        f"SELECT kind, place, relation, fields, file, numbered FROM {workspace.origin} "
        "ORDER BY rowid"
    )
    return {
        kind: Origin(table, relation, tuple(fields), file, numbered)
        for kind, table, relation, fields, file, numbered in rows
    }


def set_apart(workspace: Workspace) -> None:
    """Make for each kind in the extract, of what was published of it,

    stale_KIND(sourcedId): the active records whose row is not as it was;
    gone_KIND(sourcedId):  the records, active or withdrawn, that have no row.

    Rows that are there twice, whose id other rows have too, or that name what is gone from the
    extract, are read once more into `raw_KIND`.
    """
    staging, origins = workspace.staging, _origins(workspace)
    for kind in staging.kinds:
        workspace.require(workspace.raw(kind), workspace.published(kind))
        stale(workspace, kind, origins.get(kind))
    for origin in dict.fromkeys(origins.values()):
        kinds = [kind for kind in staging.kinds if origins.get(kind) == origin]
        familiar = workspace.familiar(origin.table)
        rows = workspace.number(f"SELECT count(*) FROM {familiar}")
        if rows > sum(unchanged(workspace, kind) for kind in kinds):
            twice = f"SELECT _raw FROM {familiar} GROUP BY 1 HAVING count(*) > 1"
            for kind in kinds:
                _read_again(workspace, origin, kind, f"_raw IN ({twice})")
        for kind in kinds:
            ids = f"SELECT trim(sourcedId) FROM {workspace.raw(kind)}"
            _read_again(workspace, origin, kind, f"sourcedId IN ({ids})")
    for kind in staging.kinds:
        gone(workspace, kind)
    for other in origins.keys() & staging.coverage.keys():
        for name, targets in KINDS[other].references.items():
            for kind in targets:
                if staging.coverage.get(kind) == "bulk":
                    which = _names(other, name, workspace.gone(kind))
                    _read_again(workspace, origins[other], other, which)


def _names(kind: str, name: str, gone: WorkTable) -> str:
    """SQL: whether a field names a record that is gone."""
    ids = f"SELECT sourcedId FROM {gone}"
    if not columns(kind)[name].endswith("[]"):
        return f"{quoted(name)} IN ({ids})"
    return f"list_has_any({quoted(name)}, (SELECT coalesce(list(sourcedId), []) FROM ({ids})))"


def stale(workspace: Workspace, kind: str, origin: Origin | None = None) -> None:
    """Make `stale_KIND`, see `set_apart`; without an origin nothing is as it was."""
    familiar = workspace.familiar(origin.table) if origin else ""
    apart = f"ANTI JOIN {familiar} f ON b._raw = f._raw" if origin else ""
    where = f"FROM {workspace.published(kind)} b {apart} WHERE status = 'active'"
    workspace.sql(f"CREATE TEMP TABLE {workspace.stale(kind)} AS SELECT sourcedId {where}")


def gone(workspace: Workspace, kind: str) -> None:
    """Make `gone_KIND`, see `set_apart`."""
    workspace.sql(
        f"CREATE TEMP TABLE {workspace.gone(kind)} AS SELECT sourcedId FROM ("
        f"SELECT sourcedId FROM {workspace.stale(kind)} UNION ALL "
        f"SELECT sourcedId FROM {workspace.published(kind)} WHERE status <> 'active') b "
        f"ANTI JOIN (SELECT trim(sourcedId) AS id FROM {workspace.raw(kind)}) r "
        "ON b.sourcedId = r.id"
    )


def unchanged(workspace: Workspace, kind: str) -> int:
    """How many records of a kind stand as they were published, by rows that are as they were."""
    return workspace.number(
        f"SELECT (SELECT count(*) FROM {workspace.published(kind)} WHERE status = 'active') - "
        f"(SELECT count(*) FROM {workspace.stale(kind)})"
    )


def _kept(workspace: Workspace, kind: str) -> bool:
    """Whether there are hashes of a kind. One whose records form a tree of their own is checked
    whole each time: a circle is seen only by who sees all of it."""
    tree = any(
        kind in targets and not columns(kind)[name].endswith("[]")
        for name, targets in KINDS[kind].references.items()
    )
    there = not tree and workspace.has(workspace.published(kind))
    return there and workspace.number(f"{_known(workspace, kind)} LIMIT 1") > 0


def _known(workspace: Workspace, kind: str) -> str:
    """SQL: the hashes of the rows that may come again as they were."""
    published = workspace.published(kind)
    return f"SELECT _raw FROM {published} WHERE status = 'active' AND _raw IS NOT NULL"


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


def _read_again(workspace: Workspace, origin: Origin, kind: str, which: str) -> None:
    """Read once more the rows, as they were, of published records for which SQL says so, into
    `raw_KIND`."""
    raw, stale, recalled = workspace.raw(kind), workspace.stale(kind), workspace.recalled
    workspace.sql(
        f"CREATE OR REPLACE TEMP TABLE {recalled} AS SELECT sourcedId, _raw "
        f"FROM {workspace.published(kind)} b WHERE ({which}) AND status = 'active' "
        f"AND _raw IS NOT NULL AND NOT EXISTS (FROM {stale} s WHERE s.sourcedId = b.sourcedId)"
    )
    if not workspace.number(f"SELECT count(*) FROM {recalled}"):
        return
    there = workspace.columns_of(raw)
    taken = ", ".join(quoted(name) for name in there if name in origin.fields)
    workspace.sql(
        f"INSERT INTO {raw} (_file, _line, _raw, {taken}) "
        f"SELECT {text_literal(origin.file)}, _line, _raw, {taken} "
        f"FROM ({_numbered(origin)}) WHERE _raw IN (SELECT _raw FROM {recalled})"
    )
    familiar = workspace.familiar(origin.table)
    workspace.sql(f"DELETE FROM {familiar} WHERE _raw IN (SELECT _raw FROM {recalled})")
    workspace.sql(f"INSERT INTO {stale} SELECT sourcedId FROM {recalled}")
