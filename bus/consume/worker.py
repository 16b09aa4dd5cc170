"""Runs the loop of a consumer.

    poll → decode → order (referenced records first) → translate → deliver → commit

A product's group is `PREFIX.PRODUCT`. Several instances share its partitions (cooperative
rebalancing, KIP-429). Only this module commits offsets. It commits an offset only after the
delivery has accepted all records before it. After a kill at any moment, what was not committed is
read and delivered again. `bus.consume.feed` describes the differences under an agreement.

A product that is down only causes delay. Its partitions are paused, the batch that is being
delivered (the "batch in hand") is tried again with backoff and jitter, and nothing is lost. After
some failures in a row the circuit breaker opens: the product counts as down, which readiness and
metrics show.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as Error

from bus.consume.assignment import Assignment
from bus.consume.backlog import Backlog
from bus.consume.deadletters import DeadLetters
from bus.consume.deliverer import Deliverer
from bus.consume.equivalents import Equivalents
from bus.consume.feed import Feed, district_feed, hand_over
from bus.consume.gate import Gate
from bus.consume.group_progress import GroupProgress
from bus.consume.membership import Membership
from bus.consume.retries import Retries, in_steps
from bus.consume.unique_values import UniqueValues
from bus.consume.worker_state import (
    Clock,
    Heartbeat,
    RunMode,
    StopRequest,
    Unsettled,
    WorkerOutcome,
)
from bus.delivery import Batch, Delivery, Position, Refusal
from bus.errors import RetryLater, Stop
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.kafka.offsets import Answer, Offsets, retryable
from bus.kafka.reader import position, some
from bus.observe.metrics import ConsumerMetrics
from bus.product import Product
from bus.registry.subjects import schema_lookup
from bus.settings import Settings

log = structlog.get_logger(__name__)

POLL_RECORDS = 10_000
IDLE_SECONDS = 60.0
"""While no messages arrive, the delivery settles once in this many seconds, even if nothing was
deferred. What it writes may depend on the date."""
FREED_SECONDS = 5.0
"""As long as some delivered record lacks its unique value, the worker looks for free values once in
this many seconds."""
GROUP_SECONDS = 1.0
"""As long as records wait, the worker asks Kafka once in this many seconds which offsets all
instances have committed."""
QUIET_SECONDS = 0.5
"""A batch is delivered before it is full when nothing has come for this many seconds."""
STUCK_SECONDS = 300.0
"""If the loop has not run for this many seconds, the liveness check `/livez` fails."""


class Worker:
    """Runs one product's consumer.

    Call `run` on one thread. Any thread may call `stop`, `live` and `ready`.

    feed:     what the consumer reads; by default the district's topics.
    brief:    whether it only runs until it has caught up. Then it asks Kafka more often.
    clock:    the monotonic clock. Tests replace this and the next two.
    event:    makes the event that waits.
    consumer: makes Kafka's client.
    """

    def __init__(
        self,
        settings: Settings,
        product: Product,
        delivery: Delivery,
        metrics: ConsumerMetrics,
        *,
        feed: Feed | None = None,
        brief: bool = False,
        clock: Clock = time.monotonic,
        event: Callable[[], threading.Event] = threading.Event,
        consumer: Callable[[dict[str, Any]], Consumer] = Consumer,
    ) -> None:
        self.outcome = WorkerOutcome()
        self._consumer_settings = settings.consumer
        self._product = product
        self._feed = feed = feed or district_feed(settings, product)
        if feed.under_agreement and (product.siblings or product.unique):
            raise Stop(
                f"{product.name} compares records of the whole district, so it cannot deliver "
                "under an agreement"
            )
        self._delivery = delivery
        self._metrics = metrics
        self._clock = clock
        self._stopping = StopRequest(clock, event())
        self._heartbeat = Heartbeat(clock)
        self._unsettled = Unsettled(clock)
        self._freed_checked_at = -math.inf
        self._mode = RunMode.FOLLOW
        self._kinds = feed.topics
        topics.ensure(settings, [*self._kinds, topics.deadletters(settings, feed.name)])
        self._retries = Retries(self._consumer_settings, feed.name, metrics, self._stay)
        folder = feed.folder(settings)
        self._equivalents = Equivalents(settings, product, schema_lookup(settings), folder)
        group = group_settings(settings, feed.name, fetch_wait_ms=20 if brief else 100)
        self._consumer = consumer(group)
        self._offsets_client = Offsets(group, self._stopping.wait)
        self._unique = UniqueValues(
            settings,
            product,
            schema_lookup(settings),
            folder,
            self._offsets_client,
        )
        self._deliverer = Deliverer(
            settings,
            product,
            self._hand_over,
            self._retries,
            DeadLetters(settings, feed.name),
            self._equivalents,
            metrics,
            unique=self._unique,
            feed=feed,
            clock=clock,
        )
        self._backlog = Backlog(
            settings,
            feed,
            self._consumer_settings.hold_seconds,
            clock,
            folder=folder,
        )
        self._partitions = Assignment(
            self._consumer, self._offsets_client, self._kinds, clock=clock
        )
        self._progress = GroupProgress(
            self._offsets_client,
            self._partitions,
            self._backlog.delivered,
            self._kinds,
            clock=clock,
        )
        behind = metrics.behind.labels(feed.name)
        self._gate = Gate(
            self._partitions, self._backlog, self._consumer_settings.hold_records, behind
        )
        self._membership = Membership(
            delivery,
            self._offsets_client,
            self._partitions,
            self._backlog,
            self._progress,
            self._gate,
            (self._backlog.delivered, self._equivalents, self._unique),
            self._unsettled,
            metrics.assigned.labels(feed.name),
            self._ask,
        )

    # ---- for callers --------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the loop to end. It delivers the current batch, commits, and leaves its group."""
        self._stopping.make()

    def live(self) -> str:
        """Return why the loop does not run, or "" if it runs; for `/livez`."""
        silence = self._heartbeat.silence
        return f"the loop has not run for {silence:.0f} s" if silence > STUCK_SECONDS else ""

    def ready(self) -> str:
        """Return why the consumer does not deliver now, or "" if it does; for `/readyz`."""
        if not self._partitions.joined:
            return "the consumer has not joined its group yet"
        return self._retries.open

    def run(self, *, until_caught_up: bool = False) -> WorkerOutcome:
        """Deliver until `stop` is called.

        until_caught_up: end before that, as soon as everything that was in the topics at the start
                         is delivered.

        Raises `Stop` when a person must act, and for Kafka's fatal errors.
        """
        if until_caught_up:
            self._mode = RunMode.CATCH_UP
        try:
            goal: Mapping[Position, int] = {}
            if until_caught_up:
                goal = self._ask(lambda: self._offsets_client.ends(self._kinds))
            self.outcome.had_events = bool(goal)
            self._join()
            while not self._stopping:
                self._turn()
                if until_caught_up and self._caught_up(goal):
                    break
            self._deliver()
            self._settle()
            permission = self._feed.permission
            if until_caught_up and permission is not None and not permission.complete():
                log.warning(
                    "the topics of the agreement do not hold all that it shares yet, so no "
                    "complete set is written; run this command again when `bus vendors run` has "
                    "written them"
                )
        except _StoppedUndelivered:
            log.warning(
                "stopped while a batch was not delivered yet; the next start delivers that batch"
            )
        except KafkaException as error:
            raise Stop(_explained(self._feed.name, error)) from None
        finally:
            self._consumer.close()
            self._backlog.delivered.close()
            self._equivalents.close()
            self._unique.close()
            self._offsets_client.close()
        return self.outcome

    def _join(self) -> None:
        """Join the consumer group."""
        revoked = self._membership.revoked
        self._consumer.subscribe(
            list(self._kinds),
            on_assign=self._membership.assigned,
            on_revoke=revoked,
            on_lost=revoked,
        )

    def _caught_up(self, goal: Mapping[Position, int]) -> bool:
        """Settle if all was read. Return whether all instances have delivered up to these offsets.

        If so, this also delivers records whose unique value is free now.
        """
        if not (self._partitions.joined and self._all_taken()):
            return False
        self._settle()  # while this waits, it may read new messages
        nothing_waits = not self._backlog.waiting and self._all_taken()
        if nothing_waits and self._ask(lambda: self._progress.reached(goal)):
            self._deliver_freed()  # an earlier process may have ended before it
            return True
        return False

    def _all_taken(self) -> bool:
        """Return whether all partitions were read to the end, and all records are in a batch."""
        return not (self._partitions.behind or self._backlog.unordered)

    # ---- one turn -----------------------------------------------------------------------------

    def _turn(self) -> None:
        """Read once, and deliver or settle if it is time."""
        self._heartbeat.beat()
        self._heed_agreement()
        room = max(1, min(POLL_RECORDS, self._product.batch_records - self._backlog.unordered))
        read = some(self._consumer, room, self._patience())
        self._offsets_client.answered()
        # Commit the start offsets of partitions from which nothing was read yet. Otherwise Kafka
        # reports no lag for them.
        if (untouched := self._partitions.untouched()) and self._commit(untouched):
            self._partitions.announced()
        self._take(read)
        self._gate.update()
        full = self._backlog.unordered >= self._product.batch_records
        quiet = not self._partitions.behind and (not read or self._mode is RunMode.CATCH_UP)
        due = self._backlog.unordered and (quiet or self._seconds_to_fill() <= 0)
        if full or due or (self._backlog.waiting and not read):
            self._deliver()
        elif not read and self._all_taken():
            if self._clock() - self._freed_checked_at > FREED_SECONDS:
                self._deliver_freed()
            self._unsettled.note_after(IDLE_SECONDS)
            self._settle()

    def _patience(self) -> float:
        """Return how long the next poll may wait for a message, in seconds."""
        if not self._backlog.unordered:
            busy = self._backlog.waiting or self._unsettled or self._partitions.behind
            return 0.2 if busy else 1.0
        return max(0.0, min(QUIET_SECONDS, self._seconds_to_fill()))

    def _seconds_to_fill(self) -> float:
        """Return how many more seconds the next batch may be filled."""
        return self._backlog.since + self._product.batch_seconds - self._clock()

    def _take(self, messages: Iterable[Message]) -> None:
        """Keep messages that were read, and handle events of Kafka."""
        records: list[Message] = []
        events: list[Message] = []
        for message in messages:
            (records if message.error() is None else events).append(message)
        self._partitions.took(self._backlog.add(records))
        for event in events:  # after the records: the end comes after them
            self._event(event)

    def _event(self, message: Message) -> None:
        """Handle the end of a partition, or an error."""
        error = message.error()
        if error.code() == Error._PARTITION_EOF:  # type: ignore[union-attr]
            place = position(message)
            if self._partitions.ended(place, message.offset() or 0):
                self._unsettled.note()
        elif error.fatal() or "AUTHORIZATION" in error.name():  # type: ignore[union-attr]
            raise KafkaException(error)
        else:
            log.debug("kafka", error=error.name())  # type: ignore[union-attr]

    # ---- delivering ----------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Order, translate, deliver and commit what was read."""
        if self._backlog.waiting:
            self._ask(lambda: self._progress.ask_again(GROUP_SECONDS, waiting=True))
        with self._membership.batch_in_hand():
            ready, failures = self._backlog.take(
                self._retries,
                self._progress.delivered_up_to,
                lambda: self._ask(self._progress.ask_what_is_published),
            )
            offsets = self._offsets()
            self._metrics.waiting.labels(self._feed.name).set(self._backlog.waiting)
            outcome = self._deliverer.deliver(ready, offsets, failures=failures)
            self._backlog.confirm(outcome.left_out)
            self.outcome.dead_lettered += outcome.dead_lettered
            self.outcome.delivered.update(outcome.delivered)
            self._commit(offsets)

    def _deliver_freed(self) -> None:
        """Deliver records whose unique value is free now.

        Another instance may have freed the value, or a process that was killed afterwards.
        """
        self._freed_checked_at = self._clock()
        if self._unique.lacks_values:
            with self._membership.batch_in_hand():
                self._deliverer.deliver_freed()

    def _hand_over(self, batch: Batch) -> Sequence[Refusal]:
        """Hand a batch to the delivery once. Return what it refuses."""
        refusals = hand_over(self._delivery, batch, self._feed.permission)
        self._unsettled.note()
        return refusals

    def _settle(self) -> None:
        """Let the delivery write what it has deferred.

        The caller makes sure that every record that was read is in a batch or waits.
        """
        permission = self._feed.permission
        if self._unsettled and (permission is None or permission.complete()):
            offsets = self._offsets()
            self._retries.persist(self._settle_once)
            self._equivalents.reached(offsets)
            # If the commit failed, try again: others wait for these offsets, and lag shows them.
            self._unsettled.settled(committed=self._commit(offsets))

    def _settle_once(self) -> None:
        if permission := self._feed.permission:
            permission.check()
        self._delivery.settle()

    def _heed_agreement(self) -> None:
        """Raise `Stop` if the agreement under which this consumer delivers is no longer active.

        While that is unknown, the consumer delivers nothing, but continues to read.
        """
        if permission := self._feed.permission:
            with suppress(RetryLater):
                permission.check()

    def _offsets(self) -> dict[Position, int]:
        """Return for each partition the offset before which no record waits."""
        return self._backlog.delivered_to(self._partitions.next)

    def _commit(self, offsets: Mapping[Position, int]) -> bool:
        """Commit these offsets, except for partitions that another instance now has.

        Returns whether the commit succeeded. It fails while the group rebalances. What is not
        committed is delivered again, which deliveries tolerate, so it is safe to go on.
        """
        ours = {p: offset for p, offset in offsets.items() if p in self._partitions.next}
        try:
            if ours:
                places = [TopicPartition(*p, offset) for p, offset in ours.items()]
                self._consumer.commit(offsets=places, asynchronous=False)
                self._backlog.delivered.committed(ours)
        except KafkaException as error:
            log.info("commit failed; the next batch commits again", error=error.args[0].name())
            return False
        return True

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        """Ask Kafka about offsets. Ask again while a broker does not answer."""

        def attempt() -> Answer:
            with retryable():
                return request()

        return self._retries.persist(attempt)

    # ---- waiting -------------------------------------------------------------------------------

    def _stay(self, seconds: float) -> None:
        """Wait without leaving the group: poll, with everything paused."""
        with self._gate.shut():
            in_steps(seconds, 0.5, self._poll_once, self._clock)

    def _poll_once(self, seconds: float) -> None:
        """Poll once. Raise `_StoppedUndelivered` or `LostPartition` to give up the batch."""
        self._heartbeat.beat()
        self._heed_agreement()
        overdue = self._stopping.older_than(self._consumer_settings.drain_seconds)
        if overdue or (self._stopping and self._retries.open):
            raise _StoppedUndelivered
        message = self._consumer.poll(seconds)
        self._offsets_client.answered()
        self._membership.check()
        if message is not None:
            self._take([message])


class _StoppedUndelivered(Exception):  # noqa: N818
    """The loop had to end before the current batch was delivered. The batch is not committed."""


def _explained(product: str, error: KafkaException) -> str:
    """Return a message for an error of Kafka that ends the loop."""
    name = error.args[0].name()
    if "AUTHORIZATION" in name:
        return (
            f"Kafka does not allow this user to consume for {product} ({name}); grant it READ on "
            "the topics and the group whose names begin with topic_prefix of bus.toml. Nothing is "
            "lost"
        )
    return f"Kafka says {name}; nothing is lost, start again"
