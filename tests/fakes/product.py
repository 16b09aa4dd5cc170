"""A product with its delivery, which keeps what is delivered and fails when a test requires it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from confluent_kafka import Message

from tests.fakes.clock import Stuck

if TYPE_CHECKING:
    from tests.fakes.harness import Batch, Position, Refusal

UNTRANSLATABLE = datetime(1970, 1, 1, tzinfo=UTC)
"""A record that was modified at this time has no row; see `harness.PRODUCT`."""
Key = tuple[str, str]
"""The kind and the id of a record."""


class Killed(BaseException):
    """The process ends here. The code under test must not catch this."""


class FakeProduct:
    """What the product has, and how it received it.

    records:    the state of each record, by kind and id.
    delivered_rows: (message, kind, record) in the order of delivery, repeats included.
    batches:    the ids of each batch that was taken.
    failures:   what the next calls of `deliver` or `redeliver` raise, in order.
    aftermath:  what calls raise after they have taken the batch.
    journal:    the offsets that the product keeps, which `resume` returns; None if it keeps none.
    live:       up to where the live consumer has delivered.
    before:     called with each batch before it is taken.
    overtake:   called when a replay brings a batch, before it is compared with `live`.
    """

    unlocked = False

    def __init__(self) -> None:
        self.records: dict[Key, Any] = {}
        self.delivered_rows: list[tuple[Message, str, Any]] = []
        self.batches: list[list[str]] = []
        self.failures: list[BaseException] = []
        self.aftermath: list[BaseException] = []
        self.journal: dict[Position, int] | None = None
        self.live: dict[Position, int] = {}
        self.settled = 0
        self.overtaken = 0
        self.released: list[Position] = []
        self.overtake: Callable[[], object] = lambda: None
        self.before: Callable[[Batch], object] = lambda _: None

    # ---- the contract of a delivery ------------------------------------------------------------

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Return the offsets of the journal."""
        return {p: self.journal[p] for p in partitions if p in self.journal} if self.journal else {}

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Take a batch of the live consumer."""
        refusals = self._take(batch)
        self.live |= {p: max(at, self.live.get(p, 0)) for p, at in batch.offsets.items()}
        if self.journal is not None:
            self.journal |= batch.offsets
        if self.aftermath:
            raise self.aftermath.pop(0)
        return refusals

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]:
        """Take a batch of a replay, unless the live consumer is ahead of the replay."""
        from tests.fakes.harness import Overtaken

        self.overtake()
        if not self.unlocked and any(self.live.get(p, 0) > at for p, at in seen.items()):
            self.overtaken += 1
            if self.overtaken > 1_000:
                raise Stuck("it is called again and again, and never reads further")
            raise Overtaken
        refusals = self._take(batch)
        if self.aftermath:
            raise self.aftermath.pop(0)
        return refusals

    def settle(self) -> None:
        """Count the call."""
        self.settled += 1

    def release(self, partitions: Iterable[Position]) -> None:
        """Remember the partitions."""
        self.released += partitions

    def close(self) -> None:
        """Do nothing."""

    def _take(self, batch: Batch) -> list[Refusal]:
        from tests.fakes.harness import Refusal, fate

        self.before(batch)
        if self.failures:
            raise self.failures.pop(0)
        refusals, taken = [], []
        for part in batch.parts:
            for row, message in zip(part.rows, part.messages, strict=True):
                if fate(message) == "refused":
                    refusals.append(Refusal(message, "the lunch lady says no"))
                    continue
                taken.append(row["sourcedId"])
                self.delivered_rows.append((message, part.kind, row))
                self.records[part.kind, row["sourcedId"]] = row
        self.batches.append(taken)
        return refusals

    # ---- for tests -----------------------------------------------------------------------------

    @property
    def ids(self) -> list[str]:
        """The ids that were delivered, in order."""
        return [record["sourcedId"] for _, _, record in self.delivered_rows]
