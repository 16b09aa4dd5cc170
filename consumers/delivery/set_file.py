"""One file of a whole set, written from the rows of a `SetMirror`: its rows and their order.

A file is valid if no row refers to something that is not in the set. Otherwise the row or the
reference is left out (`Reference`). It comes back when the missing row is in the set again. A table
may require that another row names its rows (`named_by`): for example, a user without a role and
without a relationship is left out. Rows that are the same thing to the product (`Table.key`) are
written once. A value that only one row may have (`Unique`) stays with the first row. Rows are
sorted by key.

DuckDB makes the text of each line, and it hands over a batch of lines as one block of memory. The
block is written to the file unchanged, so no Python code runs for each row.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bus.delivery import Table
from consumers.delivery.disk import private

if TYPE_CHECKING:
    import duckdb
    import pyarrow

LINES = 50_000
"""The number of lines that are in memory at once."""
TIES = 'kind, id, owner, "at"'
"""The order of rows with the same key; the first one counts."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A column that refers to rows of an earlier table, or of its own table when not required.

    required: if the referenced row is not in the set, a required reference leaves the row out; any
              other becomes an empty cell.
    many:     the cell holds several ids, separated by commas; ids that are not in the set are
              removed.
    kind:     only rows that were made from records of this kind count; "" for any kind.
    lenient:  an empty cell is valid, and while the set has no row of the other table, any id is
              valid. For products that may get a table without the table to which it refers.
    """

    column: str
    to: str
    required: bool = True
    many: bool = False
    kind: str = ""
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class Unique:
    """A column whose value only one row of the set may have, without regard to case.

    The first row, by key, keeps the value. The other rows get the value of another of their
    columns.

    instead: that other column; "" for an empty cell.
    kinds:   only rows that were made from records of these kinds count; () for any kind.
    """

    column: str
    instead: str = ""
    kinds: tuple[str, ...] = ()


def write_file(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    table: Table,
    references: Iterable[Reference],
    today: str,
    named_by: Sequence[tuple[Table, Sequence[Reference]]] = (),
    unique: Sequence[Unique] = (),
) -> tuple[dict[str, Any], int]:
    """Write a file; return its entry for set.json and the number of rows that were left out.

    con:      DuckDB with the rows in the schema `mirror` (`consumers.delivery.set_mirror`).
    path:     where to write the file.
    today:    the district's day in ISO 8601; rows whose last day is before it are not written.
    named_by: tables, each with all of its references. A row of `table` is left out unless a row of
              one of these tables names it. These tables come later than `table`, and refer to no
              table that comes later than `table`. `table` must have one key column.

    A temporary table with the name of `table` gets the ids that are in the file, for the files that
    refer to it. So all files must be written in the order of `FullSet.tables`, on one connection.
    """
    current = f"(last_day IS NULL OR last_day >= {_text(today)})"
    shown, conditions = _valid(con, table, references)
    where = " AND ".join([current, *conditions])
    source = f'mirror."{table.name}"'
    con.execute(f'CREATE OR REPLACE TEMP TABLE "{table.name}" (id VARCHAR, kind VARCHAR)')
    if len(table.key) == 1:
        key = _cell(table, table.key[0])
        con.execute(
            f'INSERT INTO temp."{table.name}" SELECT {key}, kind FROM {source} WHERE {where}'
        )
        if named_by:
            _leave_out_unnamed(con, table, named_by, current)
            where += f" AND ({key}, kind) NOT IN (FROM unnamed)"
    ((all_current,),) = con.execute(f"SELECT count(*) FROM {source} WHERE {current}").fetchall()
    keys = [table.columns.index(name) for name in table.key]
    # Sort by the shown cell where it is the mirror's cell: DuckDB then carries it only once.
    order = ", ".join(f"s{at}" if shown[at] == f"c{at}" else f"c{at}" for at in keys)
    if len(keys) < len(shown):  # else rows with the same key have the same line
        order += f", {TIES}"
    if unique:
        shown = _made_unique(con, table, unique, shown, where)
    cells = ", ".join(f"{sql} AS s{at}" for at, sql in enumerate(shown))
    rows = f"SELECT {cells} FROM {source} WHERE {where} ORDER BY {order}"
    # Where all columns belong to the key, rows with the same key have the same line.
    compared = [f"s{at}" for at in keys] if len(keys) < len(shown) else []
    query = f"SELECT {', '.join([_line(len(shown)), *compared])} FROM ({rows})"
    digest = hashlib.sha256()
    read = written = 0
    before: list[str] | None = None
    with private(path) as file:
        header = io.StringIO()
        csv.writer(header).writerow(table.columns)  # RFC 4180: CRLF
        data: bytes | memoryview = header.getvalue().encode()
        digest.update(data)
        file.write(data)
        for batch in con.sql(query).to_arrow_reader(LINES):
            lines, before = _first_lines(batch, before)
            data = _bytes(lines)
            digest.update(data)
            file.write(data)
            read += len(batch)
            written += len(lines)
    return {"rows": written, "sha256": digest.hexdigest()}, all_current - read


def _first_lines(
    batch: pyarrow.RecordBatch, before: list[str] | None
) -> tuple[pyarrow.StringArray, list[str] | None]:
    """Return the lines of a batch without those whose key is that of the line before.

    DuckDB could compare them too, with `lag`, but only in one thread.

    batch:  the lines, and the columns of the key. Without these, the lines themselves are compared.
    before: the last key of the batch before; None at the beginning.

    Returns the lines, and the last key of this batch.
    """
    import pyarrow
    from pyarrow import compute

    lines, *columns = batch.columns
    columns = columns or [lines]
    if not len(lines):
        return lines, before
    first = [column[0].as_py() for column in columns]
    again = [compute.equal(column[1:], column[:-1]) for column in columns]
    same = reduce(compute.and_, again)
    if same.true_count:
        lines = lines.filter(pyarrow.concat_arrays([pyarrow.array([True]), compute.invert(same)]))
    if first == before:
        lines = lines[1:]
    return lines, [column[-1].as_py() for column in columns]


def _bytes(texts: pyarrow.StringArray) -> memoryview:
    """Return the bytes of all texts, one after the other, as they are in memory."""
    _, places, data = texts.buffers()
    if not data or not len(texts):
        return memoryview(b"")
    offsets = memoryview(places).cast("i")
    return memoryview(data)[offsets[texts.offset] : offsets[texts.offset + len(texts)]]


def _line(columns: int) -> str:
    """Return the SQL of a line of CSV, made of its cells s0, s1 and so on.

    A cell is quoted if it holds a comma, a quote or a line break, as in Python's csv module. Few
    cells do, so the SQL first checks the row as a whole.
    """
    cells = [f"s{at}" for at in range(columns)]
    if columns == 1:  # an empty line would not count as a row
        cells = ["if(s0 = '', '\"\"', s0)"]
    quoted = [
        f"if(regexp_matches(s{at}, '[,\"\\r\\n]'), "
        f"'\"' || replace(s{at}, '\"', '\"\"') || '\"', {cell})"
        for at, cell in enumerate(cells)
    ]
    # `concat` of many texts takes a third of the time of `||` between them.
    row = f"concat({', '.join(f's{at}' for at in range(columns))})"
    special = " OR ".join(f"contains({row}, chr({ord(one)}))" for one in ',"\r\n')
    plain, other = (", ',', ".join(some) for some in (cells, quoted))
    line_break = "chr(13), chr(10)"
    return f"if({special}, concat({other}, {line_break}), concat({plain}, {line_break}))"


def _made_unique(
    con: duckdb.DuckDBPyConnection,
    table: Table,
    unique: Iterable[Unique],
    shown: Sequence[str],
    where: str,
) -> list[str]:
    """Return the SQL of each column with which each value of `Unique` is left to one row.

    Few rows share a value, and only these are compared. So the other rows need not be sorted twice.

    shown: the SQL of each column before that. A key column must be the mirror's.
    where: the condition on the rows that are written.

    Python lowercases the values that are not ASCII: DuckDB's `lower` maps one character to one
    character only.
    """
    shown = list(shown)
    source = f'mirror."{table.name}"'
    keys = ", ".join(_cell(table, name) for name in table.key)
    con.create_function("small", lambda text: text.lower(), ["VARCHAR"], "VARCHAR")
    for number, one in enumerate(unique):
        at = table.columns.index(one.column)
        cell = shown[at]
        small = f"if(strlen({cell}) = length({cell}), lower({cell}), small({cell}))"
        meant = f"{cell} <> ''"
        if one.kinds:
            meant += f" AND kind IN ({', '.join(map(_text, one.kinds))})"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE shared AS SELECT {small} AS value "
            f"FROM {source} WHERE {meant} GROUP BY ALL HAVING count(*) > 1"
        )
        if not con.execute("FROM shared LIMIT 1").fetchall():
            continue
        con.execute(
            "CREATE OR REPLACE TEMP TABLE near AS "
            f"SELECT *, {small} AS value, {meant} AS is_meant, rowid AS place FROM {source} "
            f"WHERE ({keys}) IN (SELECT ({keys}) FROM {source} "
            f"WHERE {meant} AND {small} IN (FROM shared))"
        )
        # Of rows with one key, only the first is written. So only that one can have the value.
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE losing{number} AS SELECT place FROM ("
            f"FROM near WHERE {where} "
            f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {TIES}) = 1) "
            "WHERE is_meant AND value IN (FROM shared) "
            f"QUALIFY row_number() OVER (PARTITION BY value ORDER BY {keys}, {TIES}) > 1"
        )
        instead = shown[table.columns.index(one.instead)] if one.instead else "''"
        shown[at] = f"if(rowid IN (FROM losing{number}), {instead}, {cell})"
    con.remove_function("small")
    return shown


def _leave_out_unnamed(
    con: duckdb.DuckDBPyConnection,
    table: Table,
    named_by: Iterable[tuple[Table, Sequence[Reference]]],
    current: str,
) -> None:
    """Remove from the table's temporary table the ids that no row in the set names.

    They are then in the temporary table `unnamed`. DuckDB has the ids of only one reference in
    memory at a time.
    """
    ids = f'temp."{table.name}"'
    con.execute(f"CREATE OR REPLACE TEMP TABLE unnamed AS FROM {ids}")
    for other, references in named_by:
        for reference in references:
            if reference.to == table.name:
                # A cell that equals an id refers to a row of the table. So only the row's other
                # references can be broken.
                others = [one for one in references if one is not reference]
                where = " AND ".join([current, *_valid(con, other, others)[1]])
                said = f'SELECT {_cell(other, reference.column)} FROM mirror."{other.name}"'
                kind = f"kind <> {_text(reference.kind)} OR " if reference.kind else ""
                con.execute(
                    "CREATE OR REPLACE TEMP TABLE unnamed AS "
                    f"FROM unnamed WHERE {kind}id NOT IN ({said} WHERE {where})"
                )
    con.execute(f"DELETE FROM {ids} WHERE (id, kind) IN (FROM unnamed)")


def _valid(
    con: duckdb.DuckDBPyConnection, table: Table, references: Iterable[Reference]
) -> tuple[list[str], list[str]]:
    """Return the SQL of each column, and the conditions on a row.

    With both, no reference of a written row is broken.
    """
    shown = {name: _cell(table, name) for name in table.columns}
    conditions = []
    for reference in references:
        if reference.lenient and reference.to != table.name and _is_empty(con, reference):
            continue
        cell = _cell(table, reference.column)
        present = f'(SELECT id FROM temp."{reference.to}"'
        present += f" WHERE kind = {_text(reference.kind)})" if reference.kind else ")"
        if reference.many:
            ids = f"string_split({cell}, ',')"
            shown[reference.column] = (
                "(SELECT coalesce(string_agg(id, ',' ORDER BY number), '') FROM "
                f"(SELECT unnest({ids}) AS id, generate_subscripts({ids}, 1) AS number) "
                f"WHERE id IN {present})"
            )
        elif reference.required:
            empty = f"{cell} = '' OR " if reference.lenient else ""
            conditions.append(f"({empty}{cell} IN {present})")
        else:
            shown[reference.column] = f"if({cell} IN {present}, {cell}, '')"
    return list(shown.values()), conditions


def _is_empty(con: duckdb.DuckDBPyConnection, reference: Reference) -> bool:
    """Return whether no row of the referenced table is in the set."""
    return not con.execute(f'FROM temp."{reference.to}" LIMIT 1').fetchall()


def _cell(table: Table, column: str) -> str:
    """Return the mirror's name of a column."""
    return f"c{table.columns.index(column)}"


def _text(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
