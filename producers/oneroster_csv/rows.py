"""A CSV file into a table of text, with the line on which each row begins.

Two ways that give the same of what keeps the rules: DuckDB's reader, for files in which every line
is a row, and Python's for all others (line ends inside quotes, rows of the wrong length, stray
quotes), which goes on after a row that cannot be read. OneRoster 1.1 and 1.2 CSV Binding name RFC
4180: quotes are doubled inside quotes, and a line end inside quotes is part of the value.
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
"""Characters; the longest real rows have a few thousand."""

SEPARATOR = re.compile(r'"?sep=([^"\w \r\n])"?[,;\t|]*\s*', re.IGNORECASE)
"""A first line that tells Excel how columns are separated. It is no part of CSV (RFC 4180)."""

MOST = 1_000
"""How many faults of one sort in one file are told one by one; of the rest, how many there are."""

UNCLOSED = "holds a quote that does not open or close a value as it should"
UNREADABLE_ROW = "holds bytes that are no text in UTF-8 or Windows-1252"
MEND = "the row was left out; mend it where it comes from and send the extract again"


class Row(NamedTuple):
    """A row.

    line:   on which it begins, from 1. lines: how many it takes.
    fields: its values, or None when it cannot be read.
    """

    line: int
    lines: int
    fields: list[str] | None


def load(staging: Staging, file: File, text: Text, table: str, *, apart: bool = True) -> bool:
    """Make a table with `_file`, `_line`, `_raw` and the fields that the file has, all text.

    apart: whether rows that are as they were are left out (see `bus.ingest.row_hashes`).

    Faults of the file and of rows are added to `staging.faults`. Returns False, and makes no table,
    when the file could not be read at all.
    """
    name = f"{file.name}.csv"
    for note in text.notes:
        staging.faults.append(
            Fault(name, 0, "", "", note, fatal=False, kind=file.kind, code=NOTED[note])
        )
    head = _head(file, text)
    if head is None:
        reason = f"has no header with a column {file.key}; nothing of the file was read"
        staging.faults.append(
            Fault(name, 1, file.key, "", reason, kind=file.kind, code=FaultCode.NO_HEADER)
        )
        return False
    if head.separator:
        reason = "the line sep=, which only Excel understands, was skipped; leave it out"
        code = FaultCode.SEPARATOR_LINE
        staging.faults.append(
            Fault(name, 1, "", "", reason, fatal=False, kind=file.kind, code=code)
        )
    if head.delimiter != ",":
        reason = "its columns are not separated by commas; it was read as they are"
        code = FaultCode.OTHER_DELIMITER
        staging.faults.append(
            Fault(name, 1, "", "", reason, fatal=False, kind=file.kind, code=code)
        )
    for told in head.match.notes:
        staging.faults.append(
            Fault(
                name,
                1,
                told.field,
                told.value_class,
                told.reason,
                fatal=False,
                kind=file.kind,
                code=told.code,
            )
        )
    kinds = file.kinds if apart else ()
    if not _load_fast(staging, file, kinds, text, head, table):
        _load_carefully(staging, file, kinds, text, head, table)
    return True


@dataclass(frozen=True, slots=True)
class _Head:
    """The header: where it is, how many columns it has and what they are.

    separator: whether the file begins with a line for Excel; see `SEPARATOR`.
    """

    row: Row
    width: int
    delimiter: str
    match: Match
    separator: bool


def _head(file: File, text: Text) -> _Head | None:
    """The header, read with the delimiter that makes most sense of it."""
    with text.path.open(encoding="utf-8-sig", newline="") as source:
        separator = SEPARATOR.fullmatch(source.readline(LONGEST_LINE))
    best: _Head | None = None
    for delimiter in dict.fromkeys(DELIMITERS + (separator[1] if separator else "")):
        with text.path.open(encoding="utf-8-sig", newline="") as source:
            if separator:
                source.readline()
            row = next(filter(_says_something, rows(source, delimiter)), None)
        if row is None or row.fields is None:
            continue
        found = match(file, row.fields)
        if file.key not in found.positions:
            continue
        if best is None or len(found.positions) > len(best.match.positions):
            place = row._replace(line=row.line + 1) if separator else row
            best = _Head(place, len(row.fields), delimiter, found, bool(separator))
    return best


def _says_something(row: Row) -> bool:
    """Whether a row has a value, or cannot be read; spreadsheets leave rows of separators alone."""
    return row.fields is None or any(map(str.strip, row.fields))


def _load_fast(
    staging: Staging, file: File, kinds: Sequence[str], text: Text, head: _Head, table: str
) -> bool:
    """Read a file in which every line is a row; False, with no table made, when it is no such."""
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
        return False  # rows of the wrong length, stray quotes: for the careful reader to tell
    if number != text.lines - 1:
        row_hashes.forget(staging, table)
        return False
    empty = " AND ".join(is_blank(quoted(f)) for f in head.match.positions)
    staging.con.execute(f"DELETE FROM {quoted(table)} WHERE {empty}")
    return True


def _load_carefully(
    staging: Staging, file: File, kinds: Sequence[str], text: Text, head: _Head, table: str
) -> None:
    """Read a file row by row, telling of those that cannot be read."""
    positions = sorted(head.match.positions.items())
    faults = _Faults(staging, file)
    # JSON, as DuckDB's CSV reader is not sure of itself with every line end inside quotes.
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
            if fields := _whole(row, head, faults, text.unreadable):
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


def _whole(row: Row, head: _Head, faults: _Faults, unreadable: bool) -> list[str] | None:
    """A row's values when it can be taken; None when it is empty, or told as a fault."""
    if row.fields is None:
        faults.tell(row.line, "a row that cannot be read", UNCLOSED, FaultCode.BROKEN_QUOTES)
    elif not _says_something(row):
        return None
    elif unreadable and any(UNREADABLE in value for value in row.fields):
        what, code = UNREADABLE_ROW, FaultCode.UNREADABLE_BYTES
        faults.tell(row.line, "bytes that are no text", what, code)
    elif len(row.fields) < head.match.width or any(map(str.strip, row.fields[head.width :])):
        few = len(row.fields) < head.match.width
        what = f"has {'fewer' if few else 'more'} values than columns"
        code = FaultCode.TOO_FEW_VALUES if few else FaultCode.TOO_MANY_VALUES
        faults.tell(row.line, f"a row of {len(row.fields)} values", what, code)
    else:
        return row.fields
    return None


@dataclass(slots=True)
class _Faults:
    """Faults of rows; after `MOST` of a sort they are only counted."""

    staging: Staging
    file: File
    numbers: Counter[tuple[FaultCode, str]] = field(default_factory=Counter)

    def tell(self, line: int, value_class: str, what: str, code: FaultCode) -> None:
        """A row was left out."""
        self.numbers[code, what] += 1
        if self.numbers[code, what] <= MOST:
            self._add(line, value_class, f"{what}; {MEND}", code)

    def end(self) -> None:
        """Tell how many more there were."""
        for (code, what), number in self.numbers.items():
            if (left := number - MOST) > 0:
                more = f"{left:,} more rows like those told: {what}; {MEND}"
                self._add(0, "", more, code, left)

    def _add(
        self, line: int, value_class: str, reason: str, code: FaultCode, count: int = 1
    ) -> None:
        name, kind = f"{self.file.name}.csv", self.file.kind
        self.staging.faults.append(
            Fault(name, line, "", value_class, reason, kind=kind, code=code, count=count)
        )


def rows(source: TextIO, delimiter: str, width: int = 0) -> Iterator[Row]:
    """The rows of a CSV file, without empty lines.

    After a row that cannot be read, reading goes on with the line after the one on which that row
    began: an unclosed quote costs one row, not the rest of the file.

    width: how many values a row should have; 0: not known.
    """
    lines = _Lines(source)
    before: deque[str] = deque(maxlen=5)  # ids, as that of a row itself may be damaged
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
    """Whether a row over several lines looks like several rows that stray quotes run together.

    Then a further line would be a row by itself, beginning with an id like that of the first, or
    like one of those `before`.
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
    """Whether two texts may both be ids of the same file."""
    return bool(one) and not re.search(r"\s", one) and abs(len(one) - len(other)) <= 1


@dataclass(slots=True)
class _Lines:
    """Lines for the csv module, which can be taken back."""

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
        """Take back all lines since `taken` was cleared, but the first."""
        while len(self.taken) > 1:
            self.returned.appendleft(self.taken.pop())
            self.number -= 1


def _read_csv(path: Path, width: int, delimiter: str) -> str:
    """A table function of DuckDB: the columns below the header as text, c0 to the last."""
    columns = ", ".join(f"'c{at}': 'VARCHAR'" for at in range(width))
    return (
        f"read_csv({text_literal(str(path))}, auto_detect = false, columns = {{{columns}}}, "
        f"delim = {text_literal(delimiter)}, quote = '\"', escape = '\"', comment = '', "
        f"header = false, skip = 1, strict_mode = true, "
        f"max_line_size = {8 * LONGEST_LINE}, compression = 'none', hive_partitioning = false)"
    )
