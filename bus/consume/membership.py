"""Handles partitions that the group assigns to an instance of a consumer or revokes from it.

Kafka calls these handlers inside of a poll, so also while a batch is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import structlog
from confluent_kafka import Consumer, TopicPartition
from prometheus_client import Gauge

from bus.consume.assignment import Assignment
from bus.consume.backlog import Backlog
from bus.consume.delivered_index import DeliveredIndex
from bus.consume.equivalents import Equivalents
from bus.consume.gate import Gate
from bus.consume.group_progress import GroupProgress
from bus.consume.unique_values import UniqueValues
from bus.consume.worker_state import BatchInHand, Unsettled
from bus.delivery import Delivery, Position
from bus.errors import BusError
from bus.kafka.offsets import Offsets

log = structlog.get_logger(__name__)


class LostPartition(Exception):  # noqa: N818
    """Another instance has a partition of the batch in hand now."""


class Membership:
    """Keeps what was read consistent with the partitions that this instance has.

    indexes:  what keeps track of this instance's partitions, besides the backlog.
    assigned: the metric for the number of those partitions.
    ask:      calls a request to Kafka until Kafka answers it. It polls while it waits.
    """

    def __init__(
        self,
        delivery: Delivery,
        offsets_client: Offsets,
        partitions: Assignment,
        backlog: Backlog,
        progress: GroupProgress,
        gate: Gate,
        indexes: Sequence[DeliveredIndex | Equivalents | UniqueValues],
        unsettled: Unsettled,
        assigned: Gauge,
        ask: Callable[[Callable[[], object]], object],
    ) -> None:
        self._delivery = delivery
        self._offsets_client = offsets_client
        self._partitions = partitions
        self._backlog = backlog
        self._progress = progress
        self._gate = gate
        self._indexes = indexes
        self._unsettled = unsettled
        self._assigned = assigned
        self._ask = ask
        self._in_hand: BatchInHand | None = None

    @contextmanager
    def batch_in_hand(self) -> Iterator[None]:
        """Deliver a batch inside of this context.

        The batch is given up when `check` finds that another instance has a part of it.
        """
        self._in_hand = BatchInHand(set(self._partitions.next))
        try:
            yield
        except LostPartition:
            self._rewind()
        finally:
            self._in_hand = None

    def check(self) -> None:
        """Raise `LostPartition` when another instance has a part of the batch in hand."""
        if self._in_hand and self._in_hand.lost:
            raise LostPartition

    def assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Start to read these partitions. A callback for `Consumer.subscribe`."""
        asked = [Position(p.topic, p.partition) for p in partitions]
        own = self._offsets_client.insist(lambda: self._locate(asked))
        if own is None:
            return
        self._partitions.assign(asked)
        self._unsettled.note()
        waiting = self._backlog.waiting > 0
        self._offsets_client.insist(lambda: self._progress.ask(own, waiting=waiting))
        self._gate.update()
        self._assigned.set(len(self._partitions.next))

    def revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget what was read of these partitions and not delivered. For `Consumer.subscribe`.

        The instance that has them now reads it again.
        """
        lost = {Position(p.topic, p.partition) for p in partitions}
        if self._in_hand:
            self._in_hand.lose(lost)
        try:
            self._delivery.release(lost)
        except BusError as error:  # the new owner takes them anyway
            log.info("the delivery did not release its partitions", why=str(error))
        self._partitions.revoke(lost)
        for index in self._indexes:
            index.revoked(lost)
        self._backlog.drop(lost)
        self._assigned.set(len(self._partitions.next))

    def _locate(self, asked: Collection[Position]) -> dict[Position, int]:
        """Find where to go on in these partitions. Return the offsets that the delivery keeps."""
        own = self._delivery.resume(self._offsets_client.cluster(), asked)
        self._partitions.locate(asked, own)
        for index in self._indexes:
            index.assigned({place: self._partitions.next[place] for place in asked})
        return {place: own[place] for place in asked if place in own}

    def _rewind(self) -> None:
        """Give up the batch in hand, and read again all partitions that this instance still has.

        Another instance has a part of the batch and delivers that part. If this instance delivered
        it later, it would come after newer records.
        """
        log.info("a batch is read again: another instance has some of its partitions now")
        self._in_hand = None  # or `check` would end the waiting for Kafka's answer
        self._backlog.give_up()
        self._ask(self._locate_all)
        self._partitions.seek()
        self._gate.update()

    def _locate_all(self) -> None:
        """Find where to go on in all partitions, and what the group has delivered of them."""
        self._progress.ask(self._locate(list(self._partitions.next)), waiting=False)
