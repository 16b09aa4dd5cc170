"""What a projection returns: the states that a vendor receives, in columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import NamedTuple

from bus.standard.kinds import KINDS, Record
from bus.vendors.scope import Columns, records_of

ORDER = {kind: number for number, kind in enumerate(KINDS)}
"""The number of each kind: a record refers only to kinds with smaller numbers."""
FIRST, LAST = -1, 2 * len(KINDS)


class Projected(NamedTuple):
    """A state that the vendor receives.

    kind, id: the record; the id is the real one.
    owner:    the real id by which the record is placed in a partition.
    record:   what the vendor sees, with its own ids; None: the record is deleted.
    order:    states with a smaller number are sent first.
    """

    kind: str
    id: str
    owner: str
    record: Record | None
    order: int


@dataclass(slots=True)
class ProjectedBatch:
    """States of one kind that the vendor receives, with the same order, as columns.

    The fields are those of `Projected`.

    columns: what the vendor sees of the records, with its own ids; None: the records are deleted.
    """

    kind: str
    order: int
    ids: list[str]
    owners: list[str]
    columns: Columns | None

    def __iter__(self) -> Iterator[Projected]:
        kind, order = self.kind, self.order
        records = repeat(None) if self.columns is None else records_of(self.columns)
        for id_, owner, record in zip(self.ids, self.owners, records, strict=False):
            yield Projected(kind, id_, owner, record, order)


@dataclass(slots=True)
class Outcome:
    """The result of some changes.

    batches: what must be sent, in this order: referenced records first, deletions last.
    entered: the students who entered the cohort; the record of disclosures needs them first.
    left:    the students about whom the vendor has no records any more, or only withdrawn ones.
    held:    how many students the guard held back.
    """

    batches: list[ProjectedBatch] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    held: int = 0

    @property
    def sent(self) -> list[Projected]:
        """What must be sent, one by one."""
        return [one for batch in self.batches for one in batch]
