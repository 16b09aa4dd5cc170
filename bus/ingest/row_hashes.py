"""Skip rows whose source text has not changed since they were last published.

Most rows of an extract are the same as in the last one. When a row is published without any fault,
the cache keeps a hash of its text (`_raw`, see `bus.ingest.snapshot`). The same text means the same
record again, unless a record that it refers to no longer exists, or its id occurs twice. So `load`
recognizes such a row by its hash while it reads the file, and keeps nothing else of it. `set_apart`
reads the exceptions again. `dateLastModified` is not part of the hash, as some systems put a new
date on all rows every night.

A hash has 64 bits. If 100,000 rows change each night and 10 million are published, a changed row
has the hash of a published one by chance once in 18 million nights.
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
    """Where the rows of a table can be read again, see `load`."""

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
    """Make a table from a file, without the rows that have not changed.

    Its columns are `_file`, `_line`, `_raw` and the fields.

    relation: SQL that gives the fields as text, in the order of the file. It is read again if
              skipped rows are needed after all.
    kinds:    the kinds of record that the rows become.
    numbered: whether the relation has the column `_line`. If not, each row is one line, starting
              with the second.

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
    # Rows are inserted in their order, so `rowid` gives the line without an extra column.
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
    """Store where the rows of these kinds come from."""
    workspace.sql(
        f"CREATE TEMP TABLE IF NOT EXISTS {workspace.origin} (kind VARCHAR, place VARCHAR, "
        "relation VARCHAR, fields VARCHAR[], file VARCHAR, numbered BOOLEAN)"
    )
    rest = [origin.table, origin.relation, list(origin.fields), origin.file, origin.numbered]
    for kind in kinds:
        workspace.sql(f"INSERT INTO {workspace.origin} VALUES (?, ?, ?, ?, ?, ?)", [kind, *rest])


def _origins(workspace: Workspace) -> dict[str, Origin]:
    """Return the kinds that have skipped rows, and where those rows can be read again."""
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
    """Make two tables for each kind in the extract, from the published records of the kind.

    stale_KIND(sourcedId): the active records whose row has changed or is absent;
    gone_KIND(sourcedId):  the records, active or withdrawn, that have no row.

    Skipped rows are read again into `raw_KIND` if they occur twice, if other rows have the same id,
    or if they refer to a record that is absent from the extract.
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
    """Return SQL that is true if a field refers to a record in `gone_KIND`."""
    ids = f"SELECT sourcedId FROM {gone}"
    if not columns(kind)[name].endswith("[]"):
        return f"{quoted(name)} IN ({ids})"
    return f"list_has_any({quoted(name)}, (SELECT coalesce(list(sourcedId), []) FROM ({ids})))"


def stale(workspace: Workspace, kind: str, origin: Origin | None = None) -> None:
    """Make `stale_KIND`, see `set_apart`. Without an origin, all active records are in it."""
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
    """Return how many active records of a kind have a row that has not changed."""
    return workspace.number(
        f"SELECT (SELECT count(*) FROM {workspace.published(kind)} WHERE status = 'active') - "
        f"(SELECT count(*) FROM {workspace.stale(kind)})"
    )


def _kept(workspace: Workspace, kind: str) -> bool:
    """Return whether there are hashes of a kind.

    A kind whose records refer to a parent of the same kind is always checked as a whole: a circle
    is found only when all of its records are read.
    """
    tree = any(
        kind in targets and not columns(kind)[name].endswith("[]")
        for name, targets in KINDS[kind].references.items()
    )
    there = not tree and workspace.has(workspace.published(kind))
    return there and workspace.number(f"{_known(workspace, kind)} LIMIT 1") > 0


def _known(workspace: Workspace, kind: str) -> str:
    """Return SQL for the hashes of the rows that can be skipped."""
    published = workspace.published(kind)
    return f"SELECT _raw FROM {published} WHERE status = 'active' AND _raw IS NOT NULL"


def _print(fields: Collection[str]) -> str:
    """Return SQL for a hash of a row of source text."""
    compared = sorted(name for name in fields if name not in NOT_COMPARED)
    values = ", ".join(map(quoted, compared))
    return f"hash(row({text_literal(' '.join(compared))}, {values}))"


def _numbered(origin: Origin) -> str:
    """Return SQL for the origin's rows with `_line` and `_raw`."""
    line = "_line" if origin.numbered else f"row_number() OVER () + {FIRST - 1} AS _line"
    named = ", ".join(map(quoted, origin.fields))
    return f"SELECT {line}, {_print(origin.fields)} AS _raw, {named} FROM ({origin.relation})"


def _read_again(workspace: Workspace, origin: Origin, kind: str, which: str) -> None:
    """Read the skipped rows of some published records again, into `raw_KIND`.

    which: the SQL condition for those records.
    """
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
