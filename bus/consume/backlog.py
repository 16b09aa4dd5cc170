"""What an instance of a consumer has read and not yet delivered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from bus.consume.buffer import Buffer
from bus.consume.delivered_index import DeliveredIndex
from bus.consume.dependency_order import DependencyOrder, KindRecords
from bus.consume.retries import Retries
from bus.consume.worker_state import Clock
from bus.delivery import Position
from bus.registry.subjects import schema_lookup
from bus.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Message


class Backlog:
    """Keeps what was read until it is delivered. Not for several threads.

    A record is first unordered: read, to be part of the next batch. If that batch must not have it
    yet, it waits for what it refers to.

    kinds:     for each topic the kind of its records.
    delivered: which records a record need not wait for.
    folder:    where the group keeps what it knows between two runs.
    """

    def __init__(
        self,
        settings: Settings,
        kinds: Mapping[str, str],
        hold_seconds: float,
        clock: Clock,
        folder: Path | None = None,
    ) -> None:
        self.delivered = DeliveredIndex(settings, kinds.values(), folder)
        self._clock = clock
        self._buffer = Buffer(kinds, schema_lookup(settings), clock=clock)
        self._ordering = DependencyOrder(self.delivered, hold_seconds)
        self._batch: dict[str, list[Message]] = {}

    @property
    def unordered(self) -> int:
        """How many records are for the next batch."""
        return len(self._buffer)

    @property
    def since(self) -> float:
        """When the first of those was read."""
        return self._buffer.since

    @property
    def waiting(self) -> int:
        """How many records wait for what they refer to."""
        return len(self._ordering)

    @property
    def waiting_kinds(self) -> Iterable[str]:
        """The kinds of those."""
        return self._ordering.kinds

    def add(self, messages: Sequence[Message]) -> dict[Position, int]:
        """Keep what was read; for each partition the offset after its last."""
        self.delivered.took(messages)
        return self._buffer.add(messages)

    def take(
        self,
        retries: Retries,
        delivered_up_to: Callable[[int], float],
        ask_what_is_carried: Callable[[], object],
    ) -> tuple[dict[str, KindRecords], list[tuple[Message, str]]]:
        """The next batch: records that may be delivered, by kind in dependency order; and
        (message, reason) for what does not decode and for what has waited too long.

        delivered_up_to:     see `DependencyOrder.take`.
        ask_what_is_carried: called when a record names one of a kind that was not carried when it
                             was last asked.
        """
        taken = self._buffer.take()
        records, undecodable = retries.persist(lambda: self._buffer.decoded(taken))
        if any(self.delivered.names_uncarried(kind, lot.records) for kind, lot in records.items()):
            ask_what_is_carried()
        ready, given_up = self._ordering.take(records, self._clock(), delivered_up_to)
        self._batch = {kind: lot.messages for kind, lot in ready.items()}
        return ready, undecodable + given_up

    def confirm(self, left_out: Collection[Message]) -> None:
        """The batch is delivered, but for these messages."""
        self.delivered.confirm(self._batch, left_out)
        self._batch = {}

    def give_up(self) -> None:
        """The batch is not delivered: forget it and all else, which is read again."""
        self.delivered.give_up()
        self._batch = {}
        self._buffer.take()
        self._ordering.clear()

    def drop(self, partitions: Set[Position]) -> None:
        """Forget what came of these partitions: another instance has them now."""
        self._buffer.drop(partitions)
        self._ordering.drop(partitions)

    def delivered_to(self, read_to: Mapping[Position, int]) -> dict[Position, int]:
        """For each partition the offset before which nothing waits.

        read_to: for each partition the offset after the last record that was read.
        """
        first = self._ordering.first_offsets()
        return {place: first.get(place, offset) for place, offset in read_to.items()}
