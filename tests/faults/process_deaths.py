"""Simulate the death of a producer or a consumer at a chosen step, within this process.

Hypothesis can therefore draw the step. A `Countdown` counts the steps at which a kill would leave
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
    """The process was killed, as by kill -9. The code under test does not catch this."""


@dataclass(slots=True)
class Countdown:
    """The number of steps until a process is killed.

    steps: how many steps are left; None means that it is never killed.
    """

    steps: int | None = None
    killed: bool = field(default=False, init=False)

    def step(self) -> None:
        """Count a step; raise `Killed` if none was left."""
        if self.steps is not None:
            self.steps -= 1
            if self.steps < 0:
                self.killed = True
                raise Killed


class KillableProducer:
    """A Kafka producer whose process may be killed before and after each call."""

    def __init__(self, real: Producer, countdown: Countdown) -> None:
        self._real = real
        self._countdown = countdown

    def produce(self, *arguments: Any, **named: Any) -> None:
        """Produce a message, as the real producer does."""
        self._countdown.step()
        self._real.produce(*arguments, **named)

    def commit_transaction(self, *arguments: Any) -> None:
        """Commit the transaction, as the real producer does."""
        self._countdown.step()
        self._real.commit_transaction(*arguments)
        self._countdown.step()

    def abort_transaction(self, *arguments: Any) -> None:
        """Abort the transaction, as the real producer does; a killed process aborts nothing."""
        if self._countdown.killed:
            raise KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        self._real.abort_transaction(*arguments)

    def purge(self) -> None:
        """Drop the messages in memory, as the real producer does; a kill drops them too."""
        self._real.purge()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def killable_producer(
    countdown: Countdown, transaction_records: int
) -> Iterator[Callable[[str], None]]:
    """Make `bus.ingest.pipeline.produce` killable while the block runs; yield its `progress`.

    transaction_records: the largest number of records in a transaction. A transaction of only one
        change of a kind may have more.
    """

    def killable(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            countdown.step()
            function(*arguments)
            countdown.step()

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            transactions, "Producer", lambda how: KillableProducer(Producer(how), countdown)
        )
        patch.setattr(pipeline, "TRANSACTION_RECORDS", transaction_records)
        patch.setattr(snapshot, "remember", killable(snapshot.remember))
        yield lambda _: countdown.step()


class KillableDelivery:
    """A delivery whose process may be killed before and after each call."""

    def __init__(self, real: Delivery, countdown: Countdown) -> None:
        self._real = real
        self._countdown = countdown

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Return where to resume, as the real delivery does."""
        return self._real.resume(cluster, partitions)

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Deliver a batch, as the real delivery does."""
        self._countdown.step()
        refusals = self._real.deliver(batch)
        self._countdown.step()
        return refusals

    def settle(self) -> None:
        """Settle, as the real delivery does."""
        self._countdown.step()
        self._real.settle()
        self._countdown.step()

    def release(self, partitions: Iterable[Position]) -> None:
        """Release partitions, as the real delivery does; a killed process releases nothing."""
        if not self._countdown.killed:
            self._real.release(partitions)

    def close(self) -> None:
        """Close the files, as the real delivery does; a kill closes them too."""
        self._real.close()


class KillableWorker(Worker):
    """A consumer's loop whose process may be killed before and after each commit."""

    countdown = Countdown()

    def _commit(self, offsets: Mapping[Position, int]) -> bool:
        self.countdown.step()
        committed = super()._commit(offsets)
        self.countdown.step()
        return committed
