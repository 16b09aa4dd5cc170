"""Loads a CSV file into a table of text, with the line on which each row begins.

There are two readers. DuckDB's reader is for files in which every line is a row. Python's reader is
for all others: line ends inside quotes, rows of the wrong length, stray quotes. It continues after
a row that cannot be read. For valid files both give the same result. OneRoster 1.1 and 1.2 CSV
Binding refer to RFC 4180: quotes inside quotes are doubled, and a line end inside quotes is part of
the value.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO

import duckdb

from bus.ingest import row_hashes
from bus.ingest.coercion import is_blank, text_literal
from bus.ingest.columns import quoted
from bus.source import Fault, Staging
from bus.standard.fault_codes import FaultCode
from producers.oneroster_csv.columns import File, Match, match
from producers.oneroster_csv.encoding import NOTED, UNREADABLE, Text

DELIMITERS = ",;\t|"

LONGEST_LINE = 1024**2
"""Maximum characters of a line. The longest real rows have a few thousand."""

SEPARATOR = re.compile(r'"?sep=([^"\w \r\n])"?[,;\t|]*\s*', re.IGNORECASE)
"""A first line that tells Excel how columns are separated. It is not part of CSV (RFC 4180)."""

MOST = 1_000
"""How many faults of one sort in one file are listed one by one. The rest are only counted."""

UNCLOSED = "has a quotation mark that is not closed or is in the wrong place"
UNREADABLE_ROW = "has bytes that are not text in UTF-8 or Windows-1252"
CORRECT_ROW = "the row was left out; correct it in the SIS and send the extract again"


class Row(NamedTuple):
    """A row.

    line:   the line on which it begins, from 1.
    lines:  how many lines it takes.
    fields: its values, or None when it cannot be read.
    """

    line: int
    lines: int
    fields: list[str] | None


def load(
    staging: Staging, file: File, text: Text, table: str, *, skip_unchanged: bool = True
) -> bool:
    """Make a table with `_file`, `_line`, `_raw` and the fields that the file has, all text.

    skip_unchanged: whether unchanged rows are left out (see `bus.ingest.row_hashes`).

    Faults of the file and its rows are added to `staging.faults`. Returns False, and makes no
    table, when the file could not be read at all.
    """
    name = f"{file.name}.csv"
    for note in text.notes:
        staging.faults.append(
            Fault(name, 0, "", "", note, fatal=False, kind=file.kind, code=NOTED[note])
        )
    head = _head(file, text)
    if head is None:
        reason = f"has no header with a column {file.key}; the file was not read"
        staging.faults.append(
            Fault(name, 1, file.key, "", reason, kind=file.kind, code=FaultCode.NO_HEADER)
        )
        return False
    if head.separator:
        reason = "the line sep=, which only Excel understands, was skipped; remove it"
        code = FaultCode.SEPARATOR_LINE
        staging.faults.append(
            Fault(name, 1, "", "", reason, fatal=False, kind=file.kind, code=code)
        )
    if head.delimiter != ",":
        reason = "the columns are not separated by commas; the file was read with another delimiter"
        code = FaultCode.OTHER_DELIMITER
        staging.faults.append(
            Fault(name, 1, "", "", reason, fatal=False, kind=file.kind, code=code)
        )
    for column_note in head.match.notes:
        staging.faults.append(
            Fault(
                name,
                1,
                column_note.field,
                column_note.value_class,
                column_note.reason,
                fatal=False,
                kind=file.kind,
                code=column_note.code,
            )
        )
    kinds = file.kinds if skip_unchanged else ()
    if not _load_fast(staging, file, kinds, text, head, table):
        _load_carefully(staging, file, kinds, text, head, table)
    return True


@dataclass(frozen=True, slots=True)
class _Head:
    """The header of a file.

    row:       where it is, and its values.
    width:     how many columns it has.
    delimiter: the character between columns.
    match:     the fields that were found in it.
    separator: whether the file begins with a line for Excel; see `SEPARATOR`.
    """

    row: Row
    width: int
    delimiter: str
    match: Match
    separator: bool


def _head(file: File, text: Text) -> _Head | None:
    """Return the header, read with the delimiter with which the most fields are found."""
    with text.path.open(encoding="utf-8-sig", newline="") as source:
        separator = SEPARATOR.fullmatch(source.readline(LONGEST_LINE))
    best: _Head | None = None
    for delimiter in dict.fromkeys(DELIMITERS + (separator[1] if separator else "")):
        with text.path.open(encoding="utf-8-sig", newline="") as source:
            if separator:
                source.readline()
            row = next(filter(_has_content, rows(source, delimiter)), None)
        if row is None or row.fields is None:
            continue
        found = match(file, row.fields)
        if file.key not in found.positions:
            continue
        if best is None or len(found.positions) > len(best.match.positions):
            place = row._replace(line=row.line + 1) if separator else row
            best = _Head(place, len(row.fields), delimiter, found, bool(separator))
    return best


def _has_content(row: Row) -> bool:
    """Return whether a row has a value or cannot be read.

    Spreadsheets write rows that have only delimiters.
    """
    return row.fields is None or any(map(str.strip, row.fields))


def _load_fast(
    staging: Staging, file: File, kinds: Sequence[str], text: Text, head: _Head, table: str
) -> bool:
    """Load a file in which every line is a row.

    Returns False, and makes no table, when the file has other lines.
    """
    plain = text.regular and not text.unreadable and head.row.line == head.row.lines == 1
    if not plain or head.width < 2 or text.lines < 2:
        return False
    positions = sorted(head.match.positions.items())
    taken = ", ".join(f"c{at} AS {quoted(field)}" for field, at in positions)
    relation = f"SELECT {taken} FROM {_read_csv(text.path, head.width, head.delimiter)}"
    fields = [field for field, _ in positions]
    name = f"{file.name}.csv"
    try:
        number = row_hashes.load(staging, table, relation, fields, file=name, kinds=kinds)
    except duckdb.InvalidInputException:
        return False  # rows of the wrong length, stray quotes: the careful reader reports them
    if number != text.lines - 1:
        row_hashes.forget(staging, table)
        return False
    empty = " AND ".join(is_blank(quoted(f)) for f in head.match.positions)
    staging.con.execute(f"DELETE FROM {quoted(table)} WHERE {empty}")
    return True


def _load_carefully(
    staging: Staging, file: File, kinds: Sequence[str], text: Text, head: _Head, table: str
) -> None:
    """Load a file row by row, and report rows that cannot be read."""
    positions = sorted(head.match.positions.items())
    faults = _Faults(staging, file)
    # JSON, because DuckDB's CSV reader does not read all line ends inside quotes.
    clean = staging.folder / f"{table}.ndjson"
    clean.touch(mode=0o600)
    dump = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
    with (
        text.path.open(encoding="utf-8-sig", newline="") as source,
        clean.open("w", encoding="utf-8", newline="") as target,
    ):
        found = rows(source, head.delimiter, head.match.width)
        for row in found:
            if row.line <= head.row.line:
                continue
            if fields := _valid_fields(row, head, faults, text.unreadable):
                values = {name: fields[at] for name, at in positions}
                target.write(dump({"_line": row.line, **values}) + "\n")
    faults.end()
    types = ", ".join(f"{text_literal(name)}: 'VARCHAR'" for name, _ in positions)
    relation = (
        f"FROM read_json({text_literal(str(clean))}, format = 'newline_delimited', "
        f"compression = 'none', hive_partitioning = false, "
        f"columns = {{'_line': 'BIGINT', {types}}})"
    )
    fields, name = [field for field, _ in positions], f"{file.name}.csv"
    row_hashes.load(staging, table, relation, fields, file=name, kinds=kinds, numbered=True)


def _valid_fields(row: Row, head: _Head, faults: _Faults, unreadable: bool) -> list[str] | None:
    """Return the values of a row. Return None when it is empty or was reported as a fault."""
    if row.fields is None:
        faults.report(row.line, "a row that cannot be read", UNCLOSED, FaultCode.BROKEN_QUOTES)
    elif not _has_content(row):
        return None
    elif unreadable and any(UNREADABLE in value for value in row.fields):
        what, code = UNREADABLE_ROW, FaultCode.UNREADABLE_BYTES
        faults.report(row.line, "bytes that are not text", what, code)
    elif len(row.fields) < head.match.width or any(map(str.strip, row.fields[head.width :])):
        few = len(row.fields) < head.match.width
        what = f"has {'fewer' if few else 'more'} values than columns"
        code = FaultCode.TOO_FEW_VALUES if few else FaultCode.TOO_MANY_VALUES
        faults.report(row.line, f"a row of {len(row.fields)} values", what, code)
    else:
        return row.fields
    return None


@dataclass(slots=True)
class _Faults:
    """Faults of rows. After `MOST` of one sort they are only counted."""

    staging: Staging
    file: File
    numbers: Counter[tuple[FaultCode, str]] = field(default_factory=Counter)

    def report(self, line: int, value_class: str, what: str, code: FaultCode) -> None:
        """Report that a row was left out."""
        self.numbers[code, what] += 1
        if self.numbers[code, what] <= MOST:
            self._add(line, value_class, f"{what}; {CORRECT_ROW}", code)

    def end(self) -> None:
        """Report how many more faults of each sort there were."""
        for (code, what), number in self.numbers.items():
            if (left := number - MOST) > 0:
                more = f"{left:,} more rows with the same fault: {what}; {CORRECT_ROW}"
                self._add(0, "", more, code, left)

    def _add(
        self, line: int, value_class: str, reason: str, code: FaultCode, count: int = 1
    ) -> None:
        name, kind = f"{self.file.name}.csv", self.file.kind
        self.staging.faults.append(
            Fault(name, line, "", value_class, reason, kind=kind, code=code, count=count)
        )


def rows(source: TextIO, delimiter: str, width: int = 0) -> Iterator[Row]:
    """Yield the rows of a CSV file, without empty lines.

    After a row that cannot be read, reading continues with the line after the first line of that
    row. So an unclosed quote costs one row, not the rest of the file.

    width: how many values a row should have, or 0 when that is not known.
    """
    lines = _Lines(source)
    # Ids of earlier rows, because the id of the current row may be damaged.
    before: deque[str] = deque(maxlen=5)
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        lines.taken.clear()
        first = lines.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield Row(first, 1, None)
            lines.back()
            continue
        taken = len(lines.taken)
        if taken > 1 and width and _run_together(lines.taken, fields, delimiter, width, before):
            yield Row(first, 1, None)
            lines.back()
        elif fields:
            if taken == 1 and len(fields) == width:
                before.append(fields[0])
            yield Row(first, taken, fields)


def _run_together(
    taken: deque[str], fields: list[str], delimiter: str, width: int, before: Iterable[str]
) -> bool:
    """Return whether a row of several lines is probably several rows that stray quotes join.

    That is so when one of the further lines would be a valid row, and its id resembles the id of
    the first line or one of the ids in `before`.
    """
    if len(fields) != width:
        return True
    ids = [fields[0], *before]
    for line in islice(taken, 1, None):
        try:
            alone = next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error:
            continue
        if len(alone) == width and any(_alike(alone[0], id_) for id_ in ids):
            return True
    return False


def _alike(one: str, other: str) -> bool:
    """Return whether two texts may both be ids in the same file."""
    return bool(one) and not re.search(r"\s", one) and abs(len(one) - len(other)) <= 1


@dataclass(slots=True)
class _Lines:
    """Lines for the csv module, which can be returned and read again."""

    source: TextIO
    number: int = 0
    taken: deque[str] = field(default_factory=deque)
    returned: deque[str] = field(default_factory=deque)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.returned.popleft() if self.returned else self.source.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        if len(line) == LONGEST_LINE:
            while len(line) == LONGEST_LINE and line[-1] not in "\r\n":
                line = self.source.readline(LONGEST_LINE)
            raise csv.Error("the line is too long")
        return line

    def back(self) -> None:
        """Return all lines that were read since `taken` was cleared, except the first."""
        while len(self.taken) > 1:
            self.returned.appendleft(self.taken.pop())
            self.number -= 1


def _read_csv(path: Path, width: int, delimiter: str) -> str:
    """Return a DuckDB table function that reads the rows as columns c0, c1 and so on."""
    columns = ", ".join(f"'c{at}': 'VARCHAR'" for at in range(width))
    return (
        f"read_csv({text_literal(str(path))}, auto_detect = false, columns = {{{columns}}}, "
        f"delim = {text_literal(delimiter)}, quote = '\"', escape = '\"', comment = '', "
        f"header = false, skip = 1, strict_mode = true, "
        f"max_line_size = {8 * LONGEST_LINE}, compression = 'none', hive_partitioning = false)"
    )
