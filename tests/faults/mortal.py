"""Death of a producer or a consumer at a chosen step, within this process.

Hypothesis can therefore draw the step. A `Life` counts the steps at which a kill would leave
something half done: before and after each call to Kafka, to the delivery and to the cache. At the
last step it raises `Killed`. Later calls, such as to abort a transaction or to release partitions,
then do nothing, as after a real kill. The tests replace only the edges of the bus: the Kafka client
and the delivery.
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
    """A death like that of kill -9: the code under test does not catch it."""


@dataclass(slots=True)
class Life:
    """The life of a process.

    steps: how many steps are left; None means that it never dies.
    """

    steps: int | None = None
    dead: bool = field(default=False, init=False)

    def step(self) -> None:
        """Count a step; die if none was left."""
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
        """Produce a message, as the real producer does."""
        self._life.step()
        self._real.produce(*arguments, **named)

    def commit_transaction(self, *arguments: Any) -> None:
        """Commit the transaction, as the real producer does."""
        self._life.step()
        self._real.commit_transaction(*arguments)
        self._life.step()

    def abort_transaction(self, *arguments: Any) -> None:
        """Abort the transaction, as the real producer does; a dead process aborts nothing."""
        if self._life.dead:
            raise KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        self._real.abort_transaction(*arguments)

    def purge(self) -> None:
        """Drop the messages in memory, as the real producer does; death drops them too."""
        self._real.purge()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def mortal_producer(life: Life, transaction_records: int) -> Iterator[Callable[[str], None]]:
    """Make `bus.ingest.pipeline.produce` mortal while the block runs; yield its `progress`.

    transaction_records: the largest number of records in a transaction. A transaction of only one
        change of a kind may have more.
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
        """Return where to resume, as the real delivery does."""
        return self._real.resume(cluster, partitions)

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Deliver a batch, as the real delivery does."""
        self._life.step()
        refusals = self._real.deliver(batch)
        self._life.step()
        return refusals

    def settle(self) -> None:
        """Settle, as the real delivery does."""
        self._life.step()
        self._real.settle()
        self._life.step()

    def release(self, partitions: Iterable[Position]) -> None:
        """Release partitions, as the real delivery does; a dead process releases nothing."""
        if not self._life.dead:
            self._real.release(partitions)

    def close(self) -> None:
        """Close the files, as the real delivery does; the death of a process closes them too."""
        self._real.close()


class MortalLoop(Worker):
    """A consumer's loop whose process may die before and after each commit."""

    life = Life()

    def _commit(self, offsets: Mapping[Position, int]) -> bool:
        self.life.step()
        went = super()._commit(offsets)
        self.life.step()
        return went
