"""The CSV files of a batch, and the zip that holds them.

If several rows are the same thing to the product, only the last one is kept. Products import a file
in pieces and in parallel, so the order within a file decides nothing (Canvas:
instructure/canvas-lms, lib/sis/csv/import_refactored.rb, `rows_for_parallel`). Within a piece,
Canvas deletes at the end (lib/sis/enrollment_importer.rb, `enrollments_to_delete`).
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from bus.delivery import Part, Row, Table

if TYPE_CHECKING:
    from confluent_kafka import Message

Cell = Callable[[str], str]
"""A function from a cell's text to the text that is written."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a product wants its CSV files.

    cells:   for each column that is written in another form, the function that converts a cell.
    parents: for each table whose rows refer to rows of the same table, the referring column. A
             parent comes before its children. Such a table must have exactly one column in
             `Table.key`.
    """

    cells: Mapping[str, Cell] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Sheet:
    """One CSV file: rows[i] is line i + 2 of the file and was made from messages[i]."""

    table: Table
    rows: list[Row]
    messages: list[Message]


def sheets(parts: Iterable[Part], layout: Layout) -> list[Sheet]:
    """Return the files of a batch, in the order of its parts; files without rows are left out."""
    found: dict[str, Sheet] = {}
    for part in parts:
        sheet = found.setdefault(part.table.name, Sheet(part.table, [], []))
        sheet.rows += part.rows
        sheet.messages += part.messages
    for name, sheet in found.items():
        if sheet.table.key:
            key = itemgetter(*sheet.table.key)
            last = {key(row): at for at, row in enumerate(sheet.rows)}
            if len(last) < len(sheet.rows):
                _take(sheet, sorted(last.values()))
        if name in layout.parents:
            _take(sheet, _parents_first(sheet, layout.parents[name]))
    return [sheet for sheet in found.values() if sheet.rows]


def _take(sheet: Sheet, places: list[int]) -> None:
    sheet.rows = [sheet.rows[at] for at in places]
    sheet.messages = [sheet.messages[at] for at in places]


def _parents_first(sheet: Sheet, column: str) -> list[int]:
    """Return the indexes of the rows, parents before children.

    The rows of a circle are kept; one of them comes before its parent.
    """
    (own,) = sheet.table.key
    place = {row[own]: at for at, row in enumerate(sheet.rows)}
    order: dict[int, None] = {}
    for start in range(len(sheet.rows)):
        line: dict[int, None] = {}
        at: int | None = start
        while at is not None and at not in order and at not in line:
            line[at] = None
            at = place.get(sheet.rows[at][column])
        order.update(dict.fromkeys(reversed(line)))
    return list(order)


def text(sheet: Sheet, layout: Layout) -> str:
    """Return the text of a file: a header and one line for each row, each ended by LF.

    A line break within a value becomes a space. Products give a line number in their errors, and
    this way it is the same whether they count lines or rows.
    """
    columns = sheet.table.columns
    cells = [(at, layout.cells[c]) for at, c in enumerate(columns) if c in layout.cells]
    lines: Iterable[Iterable[Any]] = (row.values() for row in sheet.rows)
    if cells:
        lines = _with(cells, lines)
    written = _csv(columns, lines)
    if written.count("\n") != len(sheet.rows) + 1 or "\r" in written:
        flat = (
            [" ".join(str("" if v is None else v).splitlines()) for v in row.values()]
            for row in sheet.rows
        )
        written = _csv(columns, _with(cells, flat))
    return written


def _with(cells: list[tuple[int, Cell]], lines: Iterable[Iterable[Any]]) -> Iterator[list[Any]]:
    for line in lines:
        values = list(line)
        for at, cell in cells:
            values[at] = cell(values[at])
        yield values


def _csv(columns: Sequence[str], lines: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return file.getvalue()


def pack(found: Iterable[Sheet], layout: Layout) -> bytes:
    """Return the zip of the files; the same rows always give the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for sheet in found:
            entry = zipfile.ZipInfo(sheet.table.name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, text(sheet, layout).encode())
    return file.getvalue()
