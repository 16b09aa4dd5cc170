"""One file of a whole set, from the rows of a `SetState`: what is in it, in which order.

Valid means that nothing refers to what is not in the set: such a row is left out, or the reference
is (`Reference`), and it comes back with what it refers to. A table may ask that something names its
rows (`named_by`): a user without a role and without a relationship is left out. Rows that are the
same thing to the product (`Table.key`) are written once. A value that only one row may have
(`Unique`) is the first one's. Order of rows: by key.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from bus.delivery import Table
from consumers.delivery.disk import private

LINES = 10_000
STANDING = "(last_day IS NULL OR last_day >= :today)"


@dataclass(frozen=True, slots=True)
class Reference:
    """A column that names rows of a table that comes before (or of its own, when not required).

    required: a row whose reference is not in the set is left out; else the cell is emptied.
    many:     the cell holds several ids, separated by commas; those not in the set are dropped.
    kind:     only rows that were made from records of this kind are meant; "" for any.
    """

    column: str
    to: str
    required: bool = True
    many: bool = False
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Unique:
    """A column whose value only one row of the set may have, without regard to case.

    The first row, by key, keeps it; the others have what another column of theirs has.

    instead: that column; "" for an empty cell.
    kinds:   only rows that were made from records of these kinds are meant; () for any.
    """

    column: str
    instead: str = ""
    kinds: tuple[str, ...] = ()


def write_file(
    sql: sqlite3.Connection,
    path: Path,
    table: Table,
    references: Iterable[Reference],
    today: str,
    named_by: Sequence[tuple[Table, Sequence[Reference]]] = (),
    unique: Sequence[Unique] = (),
) -> tuple[dict[str, Any], int]:
    """Write it to `path`: its account for set.json, and how many rows were left out.

    named_by: the tables, each with all of its references, of which a row must name a row of this
              table, or that is left out. They come later, and refer to nothing that comes later
              than this table. Only a table with one key column can have them.

    A temporary table of its name has the ids that are in it, for the files that refer to it; so
    files come in the order of `FullSet.tables`, within one transaction.
    """
    cell = {name: f"json_extract(cells, '$[{at}]')" for at, name in enumerate(table.columns)}
    said = {"today": today}
    shown, where = _valid(cell, references)
    rows = f'FROM main."{table.name}" WHERE {" AND ".join(where)}'
    sql.execute(
        f'CREATE TEMP TABLE "{table.name}" (id, kind, PRIMARY KEY (id, kind)) WITHOUT ROWID'
    )
    if len(table.key) == 1:
        sql.execute(
            f'INSERT OR IGNORE INTO temp."{table.name}" SELECT {cell[table.key[0]]}, kind {rows}',
            said,
        )
    if named_by:
        _leave_out_unnamed(sql, table, named_by, said)
        rows += f' AND ({cell[table.key[0]]}, kind) IN (SELECT id, kind FROM temp."{table.name}")'
    (standing,) = sql.execute(
        f'SELECT count(*) FROM main."{table.name}" WHERE {STANDING}', said
    ).fetchone()
    order = ", ".join([*(cell[name] for name in table.key), "kind", "id", "owner", "at"])
    wanted = ", ".join([*shown.values(), "kind"] if unique else shown.values())
    found = sql.execute(f"SELECT {wanted} {rows} ORDER BY {order}", said)
    once = _Once(table, unique)
    key = itemgetter(*(table.columns.index(name) for name in table.key))
    digest = hashlib.sha256()
    read = written = 0
    last: Any = None
    with private(path) as file:
        lines: list[Sequence[str]] = [table.columns]
        while lines:
            text = io.StringIO()
            csv.writer(text).writerows(lines)  # RFC 4180: CRLF
            data = text.getvalue().encode()
            digest.update(data)
            file.write(data)
            some = list(islice(found, LINES))
            lines = []
            for line in some:
                if key(line) != last:
                    last = key(line)
                    lines.append(once.of(line) if unique else line)
            read += len(some)
            written += len(lines)
    return {"rows": written, "sha256": digest.hexdigest()}, standing - read


class _Once:
    """Gives each value of the columns of `Unique` to one row. Lines end with the record's kind."""

    def __init__(self, table: Table, unique: Iterable[Unique]) -> None:
        at = {name: number for number, name in enumerate(table.columns)}
        self._columns = [
            (at[one.column], at.get(one.instead), frozenset(one.kinds), set[int]())
            for one in unique
        ]

    def of(self, line: Sequence[str]) -> list[str]:
        """A line without its kind, as it goes into the file."""
        *cells, kind = line
        for at, instead, kinds, seen in self._columns:
            if not cells[at] or (kinds and kind not in kinds):
                continue
            if (mark := hash(cells[at].lower())) in seen:
                cells[at] = "" if instead is None else cells[instead]
            seen.add(mark)
        return cells


def _leave_out_unnamed(
    sql: sqlite3.Connection,
    table: Table,
    named_by: Iterable[tuple[Table, Sequence[Reference]]],
    said: Mapping[str, str],
) -> None:
    """Take out of the table's ids those that no row which is in the set names."""
    sql.execute("CREATE TEMP TABLE named (id, kind, PRIMARY KEY (id, kind)) WITHOUT ROWID")
    for other, references in named_by:
        cell = {name: f"json_extract(cells, '$[{at}]')" for at, name in enumerate(other.columns)}
        _, where = _valid(cell, references)
        for reference in references:
            if reference.to == table.name:
                kind = " AND kind = :kind" if reference.kind else ""
                sql.execute(
                    f'INSERT OR IGNORE INTO named SELECT id, kind FROM temp."{table.name}" '
                    f'WHERE id IN (SELECT {cell[reference.column]} FROM main."{other.name}" '
                    f"WHERE {' AND '.join(where)}){kind}",
                    {**said, "kind": reference.kind},
                )
    sql.execute(
        f'DELETE FROM temp."{table.name}" WHERE (id, kind) NOT IN (SELECT id, kind FROM named)'
    )
    sql.execute("DROP TABLE named")


def _valid(
    cell: Mapping[str, str], references: Iterable[Reference]
) -> tuple[dict[str, str], list[str]]:
    """The SQL of each column, and the conditions on a row, so that no reference is broken."""
    shown, where = dict(cell), [STANDING]
    for reference in references:
        name, present = reference.column, f'(SELECT id FROM temp."{reference.to}"'
        present += f" WHERE kind = '{reference.kind}')" if reference.kind else ")"
        if reference.many:
            listed = f"json_each('[' || replace(json_quote({cell[name]}), ',', '\",\"') || ']')"
            shown[name] = (
                f"(SELECT coalesce(group_concat(value, ','), '') FROM {listed}"
                f" WHERE value IN {present})"
            )
        elif reference.required:
            where.append(f"{cell[name]} IN {present}")
        else:
            shown[name] = f"iif({cell[name]} IN {present}, {cell[name]}, '')"
    return shown, where
