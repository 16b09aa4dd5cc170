"""The records that an instance of a consumer has read and not yet delivered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from bus.consume.buffer import Buffer
from bus.consume.delivered_index import DeliveredIndex
from bus.consume.dependency_order import DependencyOrder, KindRecords
from bus.consume.feed import Feed
from bus.consume.retries import Retries
from bus.consume.worker_state import Clock
from bus.delivery import Position
from bus.registry.subjects import schema_lookup
from bus.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Message


class Backlog:
    """Keeps records from reading until delivery. Not thread-safe.

    A record that was read is first unordered: it is meant for the next batch. If it refers to a
    record that has not been delivered, it waits instead.

    feed:         the topics, and how to read their records.
    hold_seconds: see `DependencyOrder`.
    delivered:    the index of delivered records.
    folder:       where the group keeps that index between two runs; None: it is not kept.
    """

    def __init__(
        self,
        settings: Settings,
        feed: Feed,
        hold_seconds: float,
        clock: Clock,
        folder: Path | None = None,
    ) -> None:
        self.delivered = DeliveredIndex(settings, feed, folder)
        self._clock = clock
        self._buffer = Buffer(feed, schema_lookup(settings), clock=clock)
        self._ordering = DependencyOrder(self.delivered, hold_seconds, feed.owner)
        self._batch: dict[str, list[Message]] = {}

    @property
    def unordered(self) -> int:
        """The number of records for the next batch."""
        return len(self._buffer)

    @property
    def since(self) -> float:
        """When the first of the unordered records was read, by the clock."""
        return self._buffer.since

    @property
    def waiting(self) -> int:
        """The number of records that wait for a record to which they refer."""
        return len(self._ordering)

    @property
    def waiting_kinds(self) -> Iterable[str]:
        """The kinds of the records that wait."""
        return self._ordering.kinds

    def add(self, messages: Sequence[Message]) -> dict[Position, int]:
        """Keep messages. Return for each partition the offset after its last message."""
        return self._buffer.add(messages)

    def take(
        self,
        retries: Retries,
        delivered_up_to: Callable[[int], float],
        ask_what_is_published: Callable[[], object],
    ) -> tuple[dict[str, KindRecords], list[tuple[Message, str]]]:
        """Return the next batch, and the messages that cannot be delivered.

        The batch holds the records that may be delivered now, by kind in dependency order. A
        message that cannot be delivered comes as (message, reason): it does not decode, or it has
        waited too long.

        retries:               tries again when the schema registry does not answer.
        delivered_up_to:       see `DependencyOrder.take`.
        ask_what_is_published: called when a record refers to a kind that was not published when
                               this was last called.
        """
        taken = self._buffer.take()
        self.delivered.took(taken)
        records, undecodable = retries.persist(lambda: self._buffer.decoded(taken))
        if any(
            self.delivered.refers_to_unpublished(kind, kind_records.records)
            for kind, kind_records in records.items()
        ):
            ask_what_is_published()
        ready, given_up = self._ordering.take(records, self._clock(), delivered_up_to)
        self._batch = {kind: kind_records.messages for kind, kind_records in ready.items()}
        return ready, undecodable + given_up

    def confirm(self, left_out: Collection[Message]) -> None:
        """Remember that the batch is delivered, except for these messages."""
        self.delivered.confirm(self._batch, left_out)
        self._batch = {}

    def give_up(self) -> None:
        """Forget the batch and all other records, which are read again."""
        self.delivered.give_up()
        self._batch = {}
        self._buffer.take()
        self._ordering.clear()

    def drop(self, partitions: Set[Position]) -> None:
        """Forget the records of these partitions: another instance has them now."""
        self._buffer.drop(partitions)
        self._ordering.drop(partitions)

    def delivered_to(self, read_to: Mapping[Position, int]) -> dict[Position, int]:
        """Return for each partition the offset before which no record waits.

        read_to: for each partition, the offset after the last record that was read.
        """
        first = self._ordering.first_offsets()
        return {place: first.get(place, offset) for place, offset in read_to.items()}
