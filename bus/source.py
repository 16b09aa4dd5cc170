"""The contract of a source that brings whole extracts, and the place where it puts them.

A source reads an extract (a folder of CSV, a database) into tables of a DuckDB database, one table
for each kind of record, as text; the bus does the rest: it checks and converts the text by the
standard (`bus.ingest.integrity`), finds what is new, changed or gone (`bus.ingest.diff`) and
publishes that (`bus.kafka.transactions`). DuckDB, because this is set work on columns, not a loop
over rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import duckdb

Coverage = Literal["bulk", "delta"]
"""bulk: the table holds all records of the kind, so a record that is not in it is gone.
delta: it holds only changes; what is not in it stands as it was."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the input, for the quarantine; it carries no value, only its class.

    file:        the file inside the extract ("users.csv").
    line:        the line on which the row begins, 1 for the header; 0: the whole file.
    column:      the column as the standard names it; "": the row or the file.
    value_class: what kind of value it was ("empty", "text of 12 characters", "a date"), never it.
    reason:      what is wrong and what to do, for a person.
    fatal:       whether the row was left out (True), or read without this value (False).
    kind:        the kind of record of the row, or "" when that could not be told.
    """

    file: str
    line: int
    column: str
    value_class: str
    reason: str
    fatal: bool = True
    kind: str = ""


@dataclass(slots=True)
class Staging:
    """Where a source puts an extract.

    con:      a DuckDB connection of this run alone. For each kind that the extract has, the source
              makes the table `raw_<kind>` (`raw_student`, `raw_academicSession`) with the columns
              `_file VARCHAR`, `_line BIGINT` (the line on which the row begins) and any of the
              kind's fields, by the standard's names, all VARCHAR holding the source's own text
              (trimmed or not; NULL or '' for nothing; several values separated by commas).
              Fields that the source does not have are left out. Columns that the standard does not
              have must not be there, but `_raw UBIGINT`, which `bus.ingest.row_hashes.load` makes:
              a source that reads its tables by that does not read again what is as it was.
    folder:   a folder for temporary files of this run, removed when it ends.
    coverage: for each kind in the extract, bulk or delta.
    faults:   what the source itself found wrong: files, rows of the wrong length, columns that it
              does not know.
    """

    con: duckdb.DuckDBPyConnection
    folder: Path
    coverage: dict[str, Coverage] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds in this extract."""
        return tuple(self.coverage)
