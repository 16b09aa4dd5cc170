"""The contract of a product: its translation (pure) and how its delivery is opened.

A product is one file in `consumers/` that ends in `PRODUCT = Product(…)`, and one line in
pyproject.toml under `[project.entry-points."schoolbus.products"]`. A third party's package adds the
same line to its own pyproject.toml.

A translation is written as a set of tables, each the twin of a table in the product's own
documentation: a name, the columns in their order, and for each kind of record the function that
makes a row of it. Such a function

* sees one record and nothing else, so a row cannot have a value from another record;
* is pure: the same record gives the same row; no I/O, no clock, no random numbers, no logging;
* is called once for each record, in any process, and again whenever a record is delivered again;
* returns a dict whose keys are exactly `Table.columns`, in that order (the deliveries write
  `row.values()` as they come), or None when the product is not told about this record; for a
  delivery of whole sets a list of such dicts, all that the record has in the set: [] takes back
  what it had;
* raises `bus.errors.Never` when the record cannot be told to this product; the message is the
  reason in the dead letters. Any other exception counts as Never too, with its type as the reason.

The loop (`bus.consume.worker`) does everything else.
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
    """When several records of one kind are one thing to a product, and which of them counts.

    A student who left a class and came back has two enrollments in it. To Canvas they are one.

    fields: record fields; records that agree in all of them are one thing. The kind's `owner` is
            among them, so that all of these records lie in one partition.
    last:   the field with a record's last day, or "".
    first:  the field with a record's first day, or "".

    The rule. Of the active records the one with the latest last day counts; no last day is the
    latest. If that does not decide, the latest first day does, and then the greatest sourcedId. The
    product is told that record, with the earliest first day of all active ones (no first day is the
    earliest), so that a later one does not take away what an earlier one gives. It is told again
    only when this result changes. When none is active any more, it is told the withdrawal.
    """

    fields: tuple[str, ...]
    last: str = ""
    first: str = ""


@dataclass(frozen=True, slots=True)
class Product:
    """A product: its tables in the order in which it must get them, its settings, its delivery.

    name:          the name on the command line, and the consumer group's last part: small letters
                   and digits, with dashes or underscores between them.
    tables:        in the product's own import order: what is referred to comes first.
    settings:      a pydantic model; filled from `[products.NAME]` in bus.toml, the environment
                   (`BUS_PRODUCTS__NAME__FIELD`) and the options `--out` and `--url` of
                   `bus consume` (as fields `out` and `url`). Secrets are `SecretStr`. Its
                   validators find the bus's home in their context: {"home": Path}.
    open:          makes the delivery from the settings; may raise `Stop` with what is missing.
    batch_records: how many records at most are delivered at once.
    batch_seconds: how long the loop may wait to fill a batch, in seconds; it waits no longer when
                   nothing comes any more.
    tells_time:    whether what is delivered says of itself which event it is and when that was, so
                   that the product can tell an older state from a newer one. Else a replay never
                   brings it an older state (`bus.replay.latest`).
    export:        for a product with an API: fetches what the product has, by its settings, as
                   files in a folder, for `bus reconcile`; the path of the folder or zip. It may
                   raise `Stop` and `RetryLater`.
    siblings:      kinds whose records can be the same thing to the product, and how it is decided
                   which of them counts: {"enrollment": Equivalent(("classSourcedId",
                   "userSourcedId", "role"), last="endDate", first="beginDate")}.
    unique:        kinds with the field whose value only one record may have at the product, of
                   whichever of these kinds, without regard to case: {"student": "username"}. A
                   record whose value another one still has comes with None there, and again with
                   its value when the other one has another (`bus.consume.unique_values`).
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
        """The kinds of record that this product takes, in dependency order."""
        wanted = {kind for table in self.tables for kind in table.rows}
        return tuple(kind for kind in KINDS if kind in wanted)

    def translations(self, kind: str) -> Sequence[tuple[Table, Translate]]:
        """The tables that take records of this kind, with their functions."""
        return [(table, table.rows[kind]) for table in self.tables if kind in table.rows]
