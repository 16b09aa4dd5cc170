"""The contract of a source: the code that reads a student information system (SIS).

A source is one file in `producers/` that ends in `SOURCE = Source(…)`, and one line in
pyproject.toml under `[project.entry-points."schoolbus.producers"]`. A third-party package adds the
same line to its own pyproject.toml. Like every other source, `bus produce NAME` then has the
options `--source` and `--json`, the guards and the quarantine.

There are three ways of reading. A source declares one of them as its `reader`:

* `Extracts`: the SIS or a person exports files. `bus produce NAME PATH` reads one extract.
  With `--watch`, PATH is a folder, and the bus reads each extract that arrives in it once.
* `Polled`: the source queries the SIS. `bus produce NAME` queries it once, or repeatedly with
  `--watch`.
* `Streamed`: the SIS sends each change. `bus produce NAME` runs until it is stopped.

Extracts and polls fill a `Staging`: tables of a DuckDB database, one for each kind, with text
columns. The bus does the rest (`bus.ingest.pipeline`). It checks and converts the text by the
standard, finds what is new, changed or missing, stops before a mass withdrawal, and publishes the
changes. A poll may return all records or only those that changed since the last poll. `coverage`
says which, for each kind. DuckDB processes whole columns, which is much faster than a Python loop
over rows.

A stream yields `ChangeBatch` objects, which hold some records of the standard each.

A `position` says where a poll or a stream continues. It is a text that only the source understands,
such as a cursor or a time. The bus publishes it in the same Kafka transaction as the events. If the
source is killed, it continues at the position up to which everything is published.

A reader raises `bus.errors.RetryLater` if the system does not answer now, and `bus.errors.Stop` if
a person must act first. A wrong row is a `Fault`, not an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from bus.settings import registered_name
from bus.standard.fault_codes import FaultCode

if TYPE_CHECKING:
    import duckdb

Coverage = Literal["bulk", "delta"]
"""bulk: the table holds all records of the kind, so a record that is missing was deleted. delta:
the table holds only changes; all other records stay as they are."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the input, for the quarantine; it holds no value, only its class.

    file:        the file inside the extract, such as "users.csv".
    line:        the line on which the row begins (1 is the header); 0 for the whole file.
    column:      the column, by the standard's name; "" for the whole row or file.
    value_class: the sort of value, such as "empty", "text of 12 characters" or "a date"; never the
                 value.
    reason:      what is wrong and what to do, for a person.
    fatal:       True: the row was left out. False: the row was read without this value.
    kind:        the kind of the row's record, or "" if it has none.
    code:        what is wrong, for a program: one of `bus.standard.fault_codes`, or a code of the
                 source. It stays the same when the reason is reworded.
    count:       how many rows the fault covers. If more than one, `line` is that of the first row,
                 or 0.
    """

    file: str
    line: int
    column: str
    value_class: str
    reason: str
    fatal: bool = True
    kind: str = ""
    code: str = FaultCode.OTHER
    count: int = 1


@dataclass(slots=True)
class Staging:
    """Where a source puts an extract.

    con:      a DuckDB connection for this run only. For each kind in the extract, the source
              creates the table `raw_<kind>` (`raw_student`, `raw_academicSession`). Its columns are
              `_file VARCHAR`, `_line BIGINT` (the line on which the row begins) and any fields of
              the kind, by the standard's names. Fields are VARCHAR with the source's own text,
              trimmed or not. NULL or '' means no value. Commas separate several values. Leave out
              fields that the source does not have. The table must have no other column except `_raw
              UBIGINT`, which `bus.ingest.row_hashes.load` creates: a source that loads its files
              with that function skips rows whose text has not changed.
    folder:   a folder for temporary files of this run. It is removed at the end.
    coverage: for each kind in the extract, bulk or delta.
    faults:   the faults that the source itself found, such as unreadable files, rows with too few
              values and unknown columns.
    position: where a poll begins. The source sets it to where the poll ended; see `Polled`.
    expected: kinds that the extract should have but that are not in the coverage, because a file
              could not be read or holds none of them now. References to these kinds are checked. A
              reference to a kind that is neither here nor in the coverage, and that the source has
              never published, is kept unchecked (see `bus.ingest.integrity`).
    """

    con: duckdb.DuckDBPyConnection
    folder: Path
    coverage: dict[str, Coverage] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    position: str = ""
    expected: set[str] = field(default_factory=set)

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds in this extract."""
        return tuple(self.coverage)


class NoSettings(BaseModel):
    """The settings of a source that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Extracts:
    """A reader of extracts: files that the SIS or a person exports.

    read: fills the staging from the extract at a path, with the source's settings. It is called
          once for each extract, and again for the same extract after a failure. It raises `Stop` if
          the extract cannot or must not be read. A file that cannot be read is a fault, and its
          kinds are not in the coverage.
    what: describes an extract for `--help`: "A zip or a folder with a OneRoster CSV extract."
    """

    read: Callable[[Path, Any, Staging], None]
    what: str


@dataclass(frozen=True, slots=True)
class Polled:
    """A reader that queries the system, once or repeatedly.

    read:  fills the staging from the system, with the source's settings. `staging.position` says
           where the last published poll ended; it is "" at first. Set it to where this poll ends.
    every: how many seconds `--watch` waits between the end of a poll and the next one, unless the
           operator chooses another interval.
    """

    read: Callable[[Any, Staging], None]
    every: float


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """Changes that a stream yields together, published in one transaction with their position.

    records:  for each kind, the new states in their order, as JSON documents of the standard
              (`bus.standard.json`). A withdrawn record has the status `tobedeleted`.
    position: where the stream continues after these records.
    """

    records: Mapping[str, Sequence[Mapping[str, Any]]]
    position: str


@dataclass(frozen=True, slots=True)
class Streamed:
    """A reader that follows a system which sends each change.

    follow: takes the source's settings, a position ("" at first) and the function `stopped`, and
            yields changes after that position until `stopped()` returns True. While nothing
            happens, it yields a `ChangeBatch` without records now and then, so that it can be
            stopped.
    """

    follow: Callable[[Any, str, Callable[[], bool]], Iterator[ChangeBatch]]


@dataclass(frozen=True, slots=True)
class Source:
    """A connector that reads one type of student information system.

    name:     the name on the command line (`bus produce NAME`) and in `[producers.NAME]`. The
              source also publishes under this name unless `--source` gives another. It has
              lowercase letters and digits, with single dashes or underscores between them.
    help:     what `bus produce NAME --help` prints, in Markdown.
    reader:   how the source reads.
    settings: a pydantic model. It is filled from `[producers.NAME]` in bus.toml and from the
              environment (`BUS_PRODUCERS__NAME__FIELD`). Secrets are `SecretStr`.
    rules:    the version of the source's reading rules. Raise it when the source reads the same
              text as something else, so that unchanged rows are read again.
    """

    name: str
    help: str
    reader: Extracts | Polled | Streamed
    settings: type[BaseModel] = NoSettings
    rules: str = "1"

    def __post_init__(self) -> None:
        registered_name("source", self.name)
