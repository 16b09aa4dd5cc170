"""Death at a chosen step: of a producer or of a consumer, in this process, so that it can be drawn.

A `Life` counts the steps at which a kill would leave something half done: before and after each
call to Kafka, to the delivery, to the cache. When its number is up it raises `Killed`, and whatever
is called after that, such as to abort a transaction or to release partitions, does nothing, as of
one who is dead. Nothing of the product is replaced but its ends: the Kafka client, the delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from bus.consume.worker import Worker
from bus.delivery import Batch, Delivery, Position, Refusal
from bus.ingest import pipeline, snapshot
from bus.kafka import transactions


class Killed(BaseException):
    """As by kill -9: nothing catches it."""


@dataclass(slots=True)
class Life:
    """steps: how many are left; None: it does not end."""

    steps: int | None = None
    dead: bool = field(default=False, init=False)

    def step(self) -> None:
        """One more; the last one kills."""
        if self.steps is not None:
            self.steps -= 1
            if self.steps < 0:
                self.dead = True
                raise Killed


class MortalProducer:
    """A Kafka producer whose process may die before and after each call."""

    def __init__(self, real: Producer, life: Life) -> None:
        self._real = real
        self._life = life

    def produce(self, *arguments: Any, **named: Any) -> None:
        """As the real one's."""
        self._life.step()
        self._real.produce(*arguments, **named)

    def commit_transaction(self, *arguments: Any) -> None:
        """As the real one's."""
        self._life.step()
        self._real.commit_transaction(*arguments)
        self._life.step()

    def abort_transaction(self, *arguments: Any) -> None:
        """As the real one's; who is dead aborts nothing."""
        if self._life.dead:
            raise KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        self._real.abort_transaction(*arguments)

    def purge(self) -> None:
        """As the real one's; what a dead process had in hand is gone in the same way."""
        self._real.purge()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def mortal_producer(life: Life, transaction_records: int) -> Iterator[Callable[[str], None]]:
    """While it lasts, `bus.ingest.pipeline.produce` may die; gives its `progress`.

    transaction_records: of how many records a transaction is at most, or of one change of a kind.
    """

    def dying(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            life.step()
            function(*arguments)
            life.step()

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transactions, "Producer", lambda how: MortalProducer(Producer(how), life))
        patch.setattr(pipeline, "TRANSACTION_RECORDS", transaction_records)
        patch.setattr(snapshot, "remember", dying(snapshot.remember))
        yield lambda _: life.step()


class MortalDelivery:
    """A delivery whose process may die before and after each call."""

    def __init__(self, real: Delivery, life: Life) -> None:
        self._real = real
        self._life = life

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """As the real one's."""
        return self._real.resume(cluster, partitions)

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """As the real one's."""
        self._life.step()
        refusals = self._real.deliver(batch)
        self._life.step()
        return refusals

    def settle(self) -> None:
        """As the real one's."""
        self._life.step()
        self._real.settle()
        self._life.step()

    def release(self, partitions: Iterable[Position]) -> None:
        """As the real one's; who is dead releases nothing."""
        if not self._life.dead:
            self._real.release(partitions)

    def close(self) -> None:
        """As the real one's: its files are closed when a process dies, too."""
        self._real.close()


class MortalLoop(Worker):
    """A consumer's loop whose process may die before and after each commit."""

    life = Life()

    def _commit(self, offsets: Mapping[Position, int]) -> bool:
        self.life.step()
        went = super()._commit(offsets)
        self.life.step()
        return went
