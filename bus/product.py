"""The contract of a product: its translation, and how its delivery is opened.

A product is one file in `consumers/` that ends in `PRODUCT = Product(…)`, and one line in
pyproject.toml under `[project.entry-points."schoolbus.products"]`. A third-party package adds the
same line to its own pyproject.toml.

A translation is a set of tables. Each table mirrors a table of the product's own documentation: a
name, the columns in their order, and for each kind a function that turns a record into a row. Such
a function

* sees one record and nothing else, so a row cannot hold a value of another record;
* is pure: the same record gives the same row, without I/O, clock, random numbers or logging;
* is called for each record in any process, and again whenever the record is delivered again;
* returns a dict whose keys are exactly `Table.columns`, in that order (deliveries write
  `row.values()` unchanged), or None if the product does not receive this record;
* for a delivery of whole sets of files, returns a list of such dicts: all rows of the record in the
  set. An empty list removes the rows that the record had;
* raises `bus.errors.Never` if the product cannot hold the record. The message is the reason in the
  dead letter. Any other exception counts as `Never` too, with its type as the reason.

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
            `owner` must be one of them, so that equivalent records lie in one partition.
    last:   the field with a record's last day, or "".
    first:  the field with a record's first day, or "".

    The rule considers active records only. The record with the latest last day wins; a missing last
    day is the latest. If that does not decide, the one with the latest first day wins, and then the
    one with the greatest sourcedId.

    The product receives the winning record with the earliest first day of all active records; a
    missing first day is the earliest. So a later record does not take away what an earlier one
    gave. The product receives it again only when this result changes. When no record is active any
    more, the product receives the withdrawal.
    """

    fields: tuple[str, ...]
    last: str = ""
    first: str = ""


@dataclass(frozen=True, slots=True)
class Product:
    """A product: its tables, its settings and its delivery.

    name:          the name on the command line and the last part of the consumer group. It has
                   lowercase letters and digits, with single dashes or underscores between them.
    tables:        the tables in the product's own import order: referenced things come first.
    settings:      a pydantic model. It is filled from `[products.NAME]` in bus.toml, the
                   environment (`BUS_PRODUCTS__NAME__FIELD`), and the options `--out` and `--url` of
                   `bus consume` (the fields `out` and `url`). Secrets are `SecretStr`. Its
                   validators find the bus's home in their context: {"home": Path}.
    open:          opens the delivery with the settings. It may raise `Stop` and say what is
                   missing.
    batch_records: the greatest number of records in one batch.
    batch_seconds: how many seconds the consumer may wait to fill a batch. It stops waiting when no
                   more events arrive.
    tells_time:    whether each delivered item says which event it is and when the event happened,
                   so that the product can distinguish older from newer states. If not, a replay
                   never delivers an older state (`bus.replay.latest`).
    export:        for a product with an API: downloads what the product has into a folder, for `bus
                   reconcile`. It takes the settings and the folder, and returns the path of a
                   folder or zip with the files. It may raise `Stop` and `RetryLater`.
    siblings:      kinds whose records can be equivalent, with the rule that picks one:
                   {"enrollment": Equivalent(("classSourcedId", "userSourcedId", "role"),
                   last="endDate", first="beginDate")}.
    unique:        for each kind, the field whose value only one record may have at the product:
                   {"student": "username"}. Values are compared across all of these kinds and
                   without regard to case. A record whose value another record still has is
                   delivered with None in this field. It is delivered again with its value once the
                   other record has given the value up (`bus.consume.unique_values`).
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
