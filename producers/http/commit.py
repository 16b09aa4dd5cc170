"""Group commit: what arrives while one Kafka transaction commits goes into the next one together.

One thread does nothing but transactions. A request's events are all in one transaction, so readers
of committed data have all of them or none, and the request is answered only when Kafka has
committed. Under load a transaction takes more requests instead of there being more transactions:
after one with several requests the next begins no sooner than an `interval` later, as a transaction
costs Kafka and its readers as much as dozens of records do.

When Kafka cannot be reached, a transaction is aborted and tried again with whatever still waits;
those who waited too long are told so and leave. A commit that was not confirmed is asked about
again until it is known (librdkafka, "Transactional producer API": retriable, abortable and fatal
errors). When the producer itself is lost, as when the broker died in the middle of a commit, its
successor first asks Kafka what became of the transaction (`producers.http.fate`). A producer whose
connection broke is replaced before the next transaction (`bus.kafka.connection_watch`). So nothing
is lost or published twice, and nobody needs to start the service again after an outage.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from uuid import uuid4

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from bus.errors import RetryLater, Stop
from bus.kafka.connection_watch import ConnectionWatch
from bus.kafka.kafka_errors import explained
from bus.kafka.transactions import fence, producer_settings
from bus.settings import Settings
from producers.http.fate import committed, mark
from producers.http.work import Event, Full, Work

log = structlog.get_logger("bus.http")

TRANSACTION_EVENTS = 10_000
"""At how many events a transaction takes no further request."""
TRANSACTION_SECONDS = 60.0
"""After so long Kafka aborts a transaction of which it hears nothing, and fences its producer."""
MESSAGE_SECONDS = 10.0
"""Less than a transaction's: a dead broker is noticed while aborting still works."""
BUSY = 5
"""After a transaction with so many requests the next one waits its interval for more to come."""
STALLED = 3.0
"""Seconds after which a transaction that is under way says that Kafka does not take anything."""
BACKOFF = (0.1, 0.2, 0.5, 1.0, 2.0)


class GroupCommit:
    """Publishes works in transactions, from a thread of its own.

    `submit` and `close` are for the thread of `loop`; `stopped` is called in it when no more can be
    published until a person has acted.
    """

    def __init__(
        self,
        settings: Settings,
        transactional_id: str,
        *,
        queue_records: int,
        interval: float,
        loop: asyncio.AbstractEventLoop,
        stopped: Callable[[Stop], None],
        committed: Callable[[float, int], None] = lambda seconds, works: None,
    ) -> None:
        self._loop = loop
        self._stopped = stopped
        self._committed = committed
        self._most = queue_records
        self._interval = interval
        self._next = 0.0  # when the next transaction may begin (`time.monotonic`)
        self._waiting: deque[Work] = deque()
        self._records = 0
        self._changed = threading.Condition()
        self._closing = False
        self._down = False
        self._since: float | None = None
        self._asked = (0.0, True)
        self._settings = settings
        self._name = transactional_id
        self._producer = self._new_producer()
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)

    def open(self) -> None:
        """Fence off an earlier process of this name and begin; raises `RetryLater` or `Stop`."""
        with explained("start publishing"):
            fence(self._producer)
        self._thread.start()

    def _new_producer(self) -> Producer:
        self._doubt = ConnectionWatch()
        return Producer(
            producer_settings(self._settings, self._name, self._doubt)
            | {
                "linger.ms": 0,
                "transaction.timeout.ms": int(TRANSACTION_SECONDS * 1000),
                "message.timeout.ms": int(MESSAGE_SECONDS * 1000),
                "socket.nagle.disable": True,
            }
        )

    @property
    def taking(self) -> bool:
        """Whether Kafka takes events, as far as the transactions tell."""
        since = self._since
        stalled = since is not None and time.monotonic() - since > STALLED
        return not (self._down or stalled or self._closing)

    @property
    def queued(self) -> int:
        """How many events wait."""
        return self._records

    def reachable(self) -> bool:
        """Whether the cluster answers; blocks for up to two seconds, and asks at most every two."""
        when, answer = self._asked
        if time.monotonic() - when > 2:
            try:
                self._producer.list_topics(timeout=2)
                answer = True
            except KafkaException:
                answer = False
            self._asked = (time.monotonic(), answer)
        return answer and self.taking

    def submit(self, events: Sequence[Event]) -> Work:
        """Put a request's events in the queue; raises `Full` when there is no room."""
        work = Work(events, self._loop.create_future())
        with self._changed:
            if self._records and self._records + len(events) > self._most:
                raise Full
            self._waiting.append(work)
            self._records += len(events)
            self._changed.notify()
        return work

    def close(self, seconds: float = 15.0) -> None:
        """Publish what waits and end; blocks. What cannot be published by then is told so."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while batch := self._take():
            self._since = time.monotonic()
            failure: RetryLater | Stop | None
            try:
                failure = self._publish(batch)
            except Stop as stop:
                failure = stop
            except Exception as error:  # a fault of ours must not leave requests without an answer
                failure = Stop(f"publishing failed ({type(error).__name__}); start again")
            self._since = None
            if failure is not None:
                self._end(batch, failure)
                return

    def _take(self) -> list[Work]:
        """All that waits, or what of it fits in a transaction; nothing when it is time to end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
        if not self._closing and (early := self._next - time.monotonic()) > 0:
            time.sleep(early)
        batch: list[Work] = []
        events = 0
        with self._changed:
            while self._waiting and events < TRANSACTION_EVENTS:
                work = self._waiting.popleft()
                self._records -= len(work.events)
                events += len(work.events)
                batch.append(work)
        if len(batch) >= BUSY:
            self._next = time.monotonic() + self._interval
        return batch

    def _publish(self, batch: list[Work]) -> RetryLater | None:
        """Try until the batch is published or nobody waits for it, and tell those who do.

        Gives what to tell the rest when the service is ending and Kafka does not take it.
        """
        begun = time.monotonic()
        for attempt in count():
            left = [work for work in batch if work.abandoned]
            batch = [work for work in batch if not work.abandoned]
            self._tell(left, RetryLater("Kafka did not take it in time"))
            if not batch:
                self._wait_for_kafka()
                return None
            identity = uuid4().bytes
            began = time.time()
            try:
                self._leave_no_doubt()
                error = self._transaction(batch, identity)
            except KafkaException as lost:
                error = self._succeed(lost.args[0], identity, began)
            if error is None:
                self._down = False
                self._tell(batch, None)
                self._call(self._committed, time.monotonic() - begun, len(batch))
                return None
            if not self._down:
                log.warning("kafka takes nothing", error=error.name(), requests=len(batch))
            self._down = True
            if self._closing:
                break
            time.sleep(BACKOFF[min(attempt, len(BACKOFF) - 1)])
        return RetryLater("the service is ending and Kafka takes nothing")

    def _transaction(self, batch: list[Work], identity: bytes) -> KafkaError | None:
        """One transaction with all of the batch: None when committed, or why it was aborted.

        Raises `KafkaException` when this producer can do no more; what became of the transaction
        is then not known.
        """
        producer = self._producer
        try:
            producer.begin_transaction()
            for work in batch:
                for event in work.events:
                    self._produce(event)
            self._produce(mark(self._settings, self._name, identity))
        except KafkaException as error:
            return self._abort(error.args[0])
        while True:
            try:
                producer.commit_transaction()
                return None
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if reason.txn_requires_abort():
                    return self._abort(reason)
                if not reason.retriable():
                    raise

    def _succeed(self, lost: KafkaError, identity: bytes, began: float) -> KafkaError | None:
        """A new producer in the lost one's place: None when the transaction was committed after
        all, else why it was not.

        Raises `Stop` when this service has no place any more, or when it is ending.
        """
        fenced = lost.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED)
        # Kafka says the same of a transaction that it has aborted for its age, as after an outage.
        if fenced and time.time() - began < TRANSACTION_SECONDS:
            raise Stop(
                "another service took this one's place in Kafka; give each an `instance` of its "
                "own in [producers.http], or run only one"
            )
        log.warning("producer lost", error=lost.name())
        self._down = True
        while True:
            self._replace()
            try:
                return None if committed(self._settings, self._name, identity, began) else lost
            except RetryLater:
                time.sleep(BACKOFF[-1])

    def _leave_no_doubt(self) -> None:
        """Let no transaction begin while an earlier one's end may be on its way to Kafka."""
        self._producer.poll(0)
        if self._doubt:
            log.info("producer replaced: its connection broke")
            self._replace()

    def _replace(self) -> None:
        """A new producer in this one's place, as soon as Kafka gives it; all that this one may have
        on its way is void then. Raises `Stop` when the service ends meanwhile."""
        self._producer.purge()
        while True:
            try:
                self._producer = self._new_producer()
                with explained("publish again"):
                    fence(self._producer)
                return
            except RetryLater:
                if self._closing:
                    raise Stop(
                        "the service ended before Kafka was back; nothing answered with 202 is lost"
                    ) from None
                time.sleep(BACKOFF[-1])

    def _wait_for_kafka(self) -> None:
        """After a failure, with nobody waiting: nothing is taken again before Kafka answers."""
        while self._down and not self._closing:
            try:
                self._producer.list_topics(timeout=2)
                self._down = False
            except KafkaException:
                time.sleep(BACKOFF[-1])

    def _produce(self, event: Event) -> None:
        while True:
            try:
                self._producer.produce(
                    event.topic,
                    event.value,
                    event.key,
                    event.partition,
                    headers=event.headers,
                )
                return
            except BufferError:  # librdkafka's own queue is full: let some of it go
                self._producer.poll(0.01)

    def _abort(self, reason: KafkaError) -> KafkaError:
        """Abort the transaction, as often as it takes."""
        if reason.fatal():
            raise KafkaException(reason)
        while True:
            try:
                self._producer.abort_transaction(5.0)
                return reason
            except KafkaException as error:
                again: KafkaError = error.args[0]
                if not again.retriable() or self._closing:
                    raise

    def _end(self, batch: list[Work], failure: RetryLater | Stop) -> None:
        with self._changed:
            self._down = self._closing = True
            batch = [*batch, *self._waiting]
            self._waiting.clear()
            self._records = 0
        self._tell(batch, failure)
        if isinstance(failure, Stop):
            self._call(self._stopped, failure)

    def _tell(self, works: list[Work], outcome: RetryLater | Stop | None) -> None:
        if works:
            self._call(_settle, works, outcome)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return  # the loop has ended: nobody is left to tell


def _settle(works: list[Work], outcome: RetryLater | Stop | None) -> None:
    for work in works:
        if not work.outcome.done():
            work.outcome.set_result(outcome)
