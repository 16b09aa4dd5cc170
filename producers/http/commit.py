"""Group commit: requests that arrive while a Kafka transaction commits share the next transaction.

One thread runs all transactions. All events of a request are in one transaction, so readers of
committed data see all of them or none. A request is answered only after Kafka has committed its
events.

A transaction costs Kafka and its readers as much as dozens of records. So under load a transaction
takes more requests, instead of more transactions being started. After a transaction with `BUSY` or
more requests began, the next one begins at least `interval` seconds later.

When Kafka cannot be reached, the transaction is aborted and tried again with the requests that
still wait. A request that waited too long is answered with an error (503) and leaves the batch. If
Kafka does not confirm a commit, the same commit is requested again until its result is known; its
events are not published again (librdkafka, "Transactional producer API": retriable, abortable and
fatal errors).

When the producer itself is lost, for example because the broker died during a commit, a new
producer replaces it. The service then first asks Kafka for the result of the transaction
(`producers.http.fate`). A producer whose connection broke is replaced before the next transaction
(`bus.kafka.connection_watch`). So no event is lost or published twice, and nobody has to restart
the service after an outage of Kafka. (A defect of the service does need a restart: see `_run`.)
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
from producers.http.fate import committed as was_committed
from producers.http.fate import mark
from producers.http.work import Event, Full, Work

log = structlog.get_logger("bus.http")

TRANSACTION_EVENTS = 10_000
"""A transaction with this many events takes no further request. It can have more: the events of its
last request are added whole."""
TRANSACTION_SECONDS = 60.0
"""Kafka aborts a transaction that is open for longer than this many seconds, and fences its
producer.
"""
MESSAGE_SECONDS = 10.0
"""Seconds after which an undelivered message fails. This timeout is shorter than
`TRANSACTION_SECONDS`, so that the service notices a dead broker while aborting still works.
"""
BUSY = 5
"""After a transaction with at least this many requests, the next one waits for the rest of the
interval.
"""
STALLED = 3.0
"""When a transaction has taken longer than this many seconds, the service assumes that Kafka
accepts no events.
"""
BACKOFF = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds to wait before each new attempt. The last value repeats."""


class GroupCommit:
    """Publishes the events of requests in transactions, in a separate thread.

    Call `submit` in the thread of `loop`. `close` blocks, so call it in another thread.

    queue_records: how many events the queue can hold. A single request with more events still
                   enters an empty queue.
    interval:      minimum number of seconds between the beginnings of two transactions under load.
    stopped:       called in the thread of `loop` when no more events can be published until a
                   person acts.
    committed:     called in the thread of `loop` after each commit, with the seconds since the
                   batch was first tried and the number of its requests.
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
        """Fence off an earlier process with the same transactional id, and start publishing.

        Raises `RetryLater` or `Stop`.
        """
        with explained("start publishing"):
            fence(self._producer)
        self._thread.start()

    def _new_producer(self) -> Producer:
        self._connection_watch = ConnectionWatch()
        return Producer(
            producer_settings(self._settings, self._name, self._connection_watch)
            | {
                "linger.ms": 0,
                "transaction.timeout.ms": int(TRANSACTION_SECONDS * 1000),
                "message.timeout.ms": int(MESSAGE_SECONDS * 1000),
                "socket.nagle.disable": True,
            }
        )

    @property
    def taking(self) -> bool:
        """Whether Kafka accepts (takes) events, judged by the transactions so far."""
        since = self._since
        stalled = since is not None and time.monotonic() - since > STALLED
        return not (self._down or stalled or self._closing)

    @property
    def queued(self) -> int:
        """How many events are in the queue."""
        return self._records

    def reachable(self) -> bool:
        """Return whether the cluster answers and accepts events.

        Blocks for up to two seconds, and asks the cluster at most every two seconds.
        """
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
        """Put a request's events into the queue. Raises `Full` when it has no room."""
        work = Work(events, self._loop.create_future())
        with self._changed:
            if self._records and self._records + len(events) > self._most:
                raise Full
            self._waiting.append(work)
            self._records += len(events)
            self._changed.notify()
        return work

    def close(self, seconds: float = 15.0) -> None:
        """Publish the events in the queue and end the thread. Blocks for at most `seconds`.

        Requests whose events cannot be published before the end fail with an error.
        """
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
            except Exception as error:  # a defect must not leave requests unanswered
                failure = Stop(f"publishing failed ({type(error).__name__}); restart the service")
            self._since = None
            if failure is not None:
                self._end(batch, failure)
                return

    def _take(self) -> list[Work]:
        """Wait for requests, and return those that fit into one transaction.

        Returns an empty list when the service ends and the queue is empty.
        """
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
        """Try to publish a batch until Kafka commits it, and report the result to its requests.

        Gives up when none of the batch's requests waits any more.

        Returns the error for the requests that remain when the service ends and Kafka accepts no
        events.
        """
        first_try = time.monotonic()
        for attempt in count():
            given_up = [work for work in batch if work.abandoned]
            batch = [work for work in batch if not work.abandoned]
            self._report(given_up, RetryLater("Kafka did not accept the events in time"))
            if not batch:
                self._wait_for_kafka()
                return None
            identity = uuid4().bytes
            began = time.time()
            try:
                self._replace_if_disconnected()
                error = self._transaction(batch, identity)
            except KafkaException as lost:
                error = self._replace_lost(lost.args[0], identity, began)
            if error is None:
                self._down = False
                self._report(batch, None)
                self._call(self._committed, time.monotonic() - first_try, len(batch))
                return None
            if not self._down:
                log.warning("kafka accepts no events", error=error.name(), requests=len(batch))
            self._down = True
            if self._closing:
                break
            time.sleep(BACKOFF[min(attempt, len(BACKOFF) - 1)])
        return RetryLater("the service is ending and Kafka accepts no events")

    def _transaction(self, batch: list[Work], identity: bytes) -> KafkaError | None:
        """Publish the batch in one transaction. Return None, or why the transaction was aborted.

        Raises `KafkaException` when this producer cannot continue. The result of the transaction is
        then unknown.
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

    def _replace_lost(self, lost: KafkaError, identity: bytes, began: float) -> KafkaError | None:
        """Replace a lost producer, and find out the result of its transaction.

        Returns None when the transaction was committed, and otherwise why it was not. Raises `Stop`
        when another service has taken over the transactional id, or when this service ends.
        """
        fenced = lost.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED)
        # Kafka reports the same error after it aborted a transaction after `TRANSACTION_SECONDS`.
        if fenced and time.time() - began < TRANSACTION_SECONDS:
            raise Stop(
                "another service uses the same name in Kafka; set a different `instance` for each "
                "service in [producers.http], or run only one"
            )
        log.warning("producer lost", error=lost.name())
        self._down = True
        while True:
            self._replace()
            try:
                return None if was_committed(self._settings, self._name, identity, began) else lost
            except RetryLater:
                time.sleep(BACKOFF[-1])

    def _replace_if_disconnected(self) -> None:
        """Replace a producer whose connection broke, before it begins a transaction.

        The end of an earlier transaction may still be on its way to Kafka over the old connection.
        """
        self._producer.poll(0)
        if self._connection_watch:
            log.info("producer replaced: its connection broke")
            self._replace()

    def _replace(self) -> None:
        """Replace the producer as soon as Kafka accepts a new one.

        Messages that the old producer has not sent yet are dropped: they never reach Kafka. Raises
        `Stop` when the service ends first.
        """
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
                        "the service ended before Kafka was available again; no request that was "
                        "answered with 202 is lost"
                    ) from None
                time.sleep(BACKOFF[-1])

    def _wait_for_kafka(self) -> None:
        """After a failure, when no request waits any more, wait until Kafka answers again.

        Until then the service accepts no requests.
        """
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
            except BufferError:  # the queue of librdkafka is full: let it send
                self._producer.poll(0.01)

    def _abort(self, reason: KafkaError) -> KafkaError:
        """Abort the transaction and return the reason. Try again until it works or `close`.

        Raises `KafkaException` when this producer cannot continue.
        """
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
        self._report(batch, failure)
        if isinstance(failure, Stop):
            self._call(self._stopped, failure)

    def _report(self, works: list[Work], outcome: RetryLater | Stop | None) -> None:
        if works:
            self._call(_answer, works, outcome)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return  # the loop has ended, so no request waits


def _answer(works: list[Work], outcome: RetryLater | Stop | None) -> None:
    for work in works:
        if not work.outcome.done():
            work.outcome.set_result(outcome)
