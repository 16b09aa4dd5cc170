"""The contract of a source: how a student information system is read.

A source is one file in `producers/` that ends in `SOURCE = Source(…)`, and one line in
pyproject.toml under `[project.entry-points."schoolbus.producers"]`. A third party's package adds
the same line to its own pyproject.toml. `bus produce NAME` then has `--source`, `--json`, the
guards and the quarantine, and so has every other source.

There are three ways of reading. A source says which is its own by its `reader`:

* `Extracts`: somebody puts a file or a folder somewhere. `bus produce NAME PATH` reads it once;
  with `--watch`, PATH is a folder, and each extract that arrives in it is read once.
* `Polled`: the system is asked. `bus produce NAME` asks it once; with `--watch`, again and again.
* `Streamed`: the system tells of each change. `bus produce NAME` runs until it is stopped.

Extracts and polls fill a `Staging`: tables of a DuckDB database, one for each kind of record, all
text. The bus does the rest (`bus.ingest.pipeline`): it checks and converts the text by the
standard, finds what is new, changed or gone, stops before a mass withdrawal, and publishes the
changes. A poll may hold everything or only what has changed since the last one; `coverage` says
which, kind by kind. DuckDB, because this is set work on columns, not a loop over rows.

A stream gives `ChangeBatch`: records as the standard has them, some at a time.

Where a poll or a stream goes on is its `position`: a text that only the source understands, such
as a cursor or a time. The bus publishes it in the same Kafka transaction as the events. Killed at
any moment, the source goes on from the position up to which everything is published.

What a reader raises: `bus.errors.RetryLater` when the system does not answer now, `bus.errors.Stop`
when a person must act first. A single row that is wrong is a `Fault`, not an exception.
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
    code:        what is wrong, for a program: one of `bus.standard.fault_codes`, or one of the
                 source's own. It stays when the reason is worded anew.
    count:       how many rows it tells of; with more than one, `line` is that of the first, or 0.
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
    position: where a poll begins; the source sets it to where it ended. See `Polled`.
    expected: kinds that the extract should carry but that are not in the coverage: a file of it
              could not be read, or holds none of them now. What names a record of these is checked.
              What names a record of a kind that is neither here nor in the coverage, and that the
              source has never published, is kept as it is (see `bus.ingest.integrity`).
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
    """Reads extracts that somebody puts somewhere.

    read: fills `staging` from the extract at a path, with the source's settings. It is called once
          for an extract, and again for the same one after a failure. It raises `Stop` when the
          extract cannot or must not be read. A file of it that cannot be read is a fault, and its
          kinds are not in the coverage.
    what: names an extract for `--help`: "A zip or a folder with a OneRoster CSV extract."
    """

    read: Callable[[Path, Any, Staging], None]
    what: str


@dataclass(frozen=True, slots=True)
class Polled:
    """Asks the system, once or again and again.

    read:  fills `staging` from the system, with the source's settings. `staging.position` is where
           the last poll that was published ended, "" at first; set it to where this one ends.
    every: how many seconds `--watch` waits between the end of a poll and the next, unless the
           operator says otherwise.
    """

    read: Callable[[Any, Staging], None]
    every: float


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """What a stream gives at once, published in one transaction together with its position.

    records:  for each kind of record its new states in their order, as JSON documents of the
              standard (`bus.standard.json`): a withdrawn one has the status `tobedeleted`.
    position: where the stream goes on after these.
    """

    records: Mapping[str, Sequence[Mapping[str, Any]]]
    position: str


@dataclass(frozen=True, slots=True)
class Streamed:
    """Follows a system that tells of each change.

    follow: gives changes from a position on ("" at first), with the source's settings, for ever or
            until `stopped` answers True. It gives `ChangeBatch` without records now and then when
            nothing happens, so that it can be stopped.
    """

    follow: Callable[[Any, str, Callable[[], bool]], Iterator[ChangeBatch]]


@dataclass(frozen=True, slots=True)
class Source:
    """A connector to a kind of student information system.

    name:     on the command line (`bus produce NAME`), in `[producers.NAME]`, and the name under
              which it publishes unless `--source` gives another: small letters and digits,
              with dashes or underscores between them.
    help:     what `bus produce NAME --help` says, in Markdown.
    reader:   how it is read.
    settings: a pydantic model, filled from `[producers.NAME]` in bus.toml and the environment
              (`BUS_PRODUCERS__NAME__FIELD`). Secrets are `SecretStr`.
    rules:    the version of how it reads. Raise it when the same text is read as something else,
              so that rows that have not changed are read again.
    """

    name: str
    help: str
    reader: Extracts | Polled | Streamed
    settings: type[BaseModel] = NoSettings
    rules: str = "1"

    def __post_init__(self) -> None:
        registered_name("source", self.name)
