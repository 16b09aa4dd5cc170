"""The contract of a product: its translation, and how its delivery is opened.

Here a product is the code that connects a product such as Canvas. It is one file in `consumers/`
that ends in `PRODUCT = Product(…)`, and one line in pyproject.toml under
`[project.entry-points."schoolbus.products"]`. A third-party package adds the same line to its own
pyproject.toml.

A translation is a set of tables. Each table mirrors a table of the product's own documentation: a
name, the columns in their order, and for each kind a function that turns a record into a row. Such
a function

* sees one record and nothing else, so it cannot take a value from another record (only the consumer
  changes a record before the function sees it: see `Equivalent` and `Product.unique`);
* is pure: the same record gives the same row, without I/O, clock, random numbers or logging;
* is called for each record in any process, and again whenever the record is delivered again;
* for most deliveries, returns a dict whose keys are exactly `Table.columns`, in that order
  (deliveries write `row.values()` unchanged);
* for a delivery of whole sets of files, returns a list of such dicts instead: all rows of the
  record in the set. An empty list removes the rows that the record had;
* for any delivery, returns None if the product does not receive this record. The delivery then gets
  nothing, so rows of an earlier state of the record stay at the product;
* raises `bus.errors.Never` if the product cannot hold the record. The message is the reason in the
  dead letter. Any other exception counts as `Never` too. The reason is then its type, the missing
  key if the code names it, and the file and line, but not its text, which may hold personal data.

The consumer (`bus.consume.worker`) does everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bus.delivery import Delivery, Table, Translate
from bus.settings import registered_name
from bus.standard import KINDS


@dataclass(frozen=True, slots=True)
class Equivalent:
    """The rule that picks one of several records that are one thing to a product.

    For example, a student who left a class and came back has two enrollments in it. To Canvas they
    are one enrollment.

    fields: record fields. Records with equal values in all of them are equivalent. The kind's
            `owner` must be one of them, so that equivalent records are in one partition.
    last:   the field with a record's last day, or "".
    first:  the field with a record's first day, or "".

    The rule considers active records only. A record without a last day wins over any record with
    one. Among records with a last day, the one with the latest wins. If that does not decide, the
    one with the latest first day wins, and then the one with the greatest sourcedId.

    The product receives the winning record, with its first day replaced by the earliest first day
    among all active equivalent records; a missing first day is the earliest. So the first day does
    not move to a later date when a later record wins. The product receives the record again only
    when this result changes. When no record is active any more, the product receives the
    withdrawal.
    """

    fields: tuple[str, ...]
    last: str = ""
    first: str = ""


@dataclass(frozen=True, slots=True)
class Product:
    """A product: its tables, its settings and its delivery.

    name:          the name on the command line and the last part of the consumer group. It has
                   lowercase letters and digits, with single dashes or underscores between them.
    tables:        the tables in the product's own import order: referenced records come first.
    settings:      a pydantic model. It is filled from `[products.NAME]` in bus.toml, the
                   environment (`BUS_PRODUCTS__NAME__FIELD`), and the options `--out` and `--url` of
                   `bus consume` (the fields `out` and `url`). Secrets are `SecretStr`. Its
                   validators find the bus's home in pydantic's validation context:
                   {"home": Path}. Under an agreement with a vendor, they also find
                   {"terms": bus.delivery.Terms}.
    open:          opens the delivery with the settings. It may raise `Stop` and say what is
                   missing.
    batch_records: the greatest number of records in one batch.
    batch_seconds: how many seconds the consumer waits at most to fill a batch. It delivers the
                   batch earlier when events stop arriving.
    tells_time:    whether each delivered item carries the id and the time of its event, so that the
                   product can distinguish older from newer states. If not, a replay to the place of
                   the live consumer delivers a state only if it is the newest of its record in the
                   topics (`bus.replay.latest`).
    export:        for a product with an API: downloads what the product has into a folder, for `bus
                   reconcile`. It takes the settings and the folder, and returns the path of a
                   folder or zip with the files. It may raise `Stop` and `RetryLater`.
    siblings:      kinds whose records can be equivalent, with the rule that picks one. The name has
                   nothing to do with brothers and sisters:
                   {"enrollment": Equivalent(("classSourcedId", "userSourcedId", "role"),
                   last="endDate", first="beginDate")}.
    unique:        for each kind, the field whose value only one record may have at the product:
                   {"student": "username"}. Values are compared across all of these kinds and
                   without regard to case. Two records may have one value in the topics. The record
                   that has it at the product keeps it. The other record is delivered with None in
                   this field. It is delivered again with its value once the first record no longer
                   has the value at the product (`bus.consume.unique_values`).
    """

    name: str
    tables: tuple[Table, ...]
    settings: type[BaseModel]
    open: Callable[[Any], Delivery]
    batch_records: int = 50_000
    batch_seconds: float = 1.0
    tells_time: bool = False
    export: Callable[[Any, Path], Path] | None = None
    siblings: Mapping[str, Equivalent] = field(default_factory=dict)
    unique: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        registered_name("product", self.name)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that this product takes, in dependency order."""
        wanted = {kind for table in self.tables for kind in table.rows}
        return tuple(kind for kind in KINDS if kind in wanted)

    def translations(self, kind: str) -> Sequence[tuple[Table, Translate]]:
        """Return the tables that take records of this kind, each with its function."""
        return [(table, table.rows[kind]) for table in self.tables if kind in table.rows]
