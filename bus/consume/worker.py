"""The one loop that every consumer runs in: poll, decode, order, translate, deliver, commit.

    poll → decode → (references before referrers) → translate → deliver → commit

A product's group is `PREFIX.PRODUCT`; several copies share its partitions (cooperative rebalancing,
KIP-429). Offsets are committed here and nowhere else, only after the delivery has taken what lies
before them: killed at any moment, what was not committed is read and delivered again.

A product that is down costs nothing but time: its partitions are paused, the batch in hand is tried
again with backoff and jitter, and nothing is lost. After some failures in a row the circuit counts
as open, which readiness and metrics show.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as Error

from bus.consume import equivalents
from bus.consume.assignment import Assignment
from bus.consume.buffer import Buffer
from bus.consume.deadletters import DeadLetters
from bus.consume.delivered_index import DeliveredIndex
from bus.consume.dependency_order import DependencyOrder, KindRecords
from bus.consume.group_progress import GroupProgress
from bus.consume.retries import Retries
from bus.consume.translation import translate
from bus.delivery import Batch, Delivery, Position, Refusal
from bus.errors import BusError, Stop
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.kafka.cloudevents import attributes, header
from bus.kafka.offsets import Offsets
from bus.kafka.reader import some
from bus.observe.metrics import ConsumerMetrics
from bus.observe.telemetry import span
from bus.product import Product
from bus.registry.subjects import schema_lookup
from bus.settings import Settings

log = structlog.get_logger(__name__)

POLL_RECORDS = 10_000
IDLE_SECONDS = 60.0
"""While nothing comes, what depends on the day alone is looked after so often."""
COPIES_SECONDS = 1.0
"""While something waits, what all copies have delivered is asked for so often."""
QUIET_SECONDS = 0.5
"""A batch is not filled any longer when nothing has come for so long."""
FRESH_SAMPLES = 500
"""Of a larger part, freshness is measured on this many records, evenly spread."""


@dataclass(slots=True)
class WorkerOutcome:
    """What a run of the loop did: records delivered by kind, and dead letters."""

    delivered: Counter[str] = field(default_factory=Counter)
    dead_lettered: int = 0


class Worker:
    """Runs one product's consumer. `run` on one thread; `stop`, `live`, `ready` from any."""

    def __init__(
        self, settings: Settings, product: Product, delivery: Delivery, metrics: ConsumerMetrics
    ) -> None:
        self.outcome = WorkerOutcome()
        self._settings = settings
        self._how = settings.consumer
        self._product = product
        self._delivery = delivery
        self._metrics = metrics
        self._stopping = threading.Event()
        self._stopping_since = 0.0
        self._turned = time.monotonic()
        self._settled = time.monotonic()
        self._retries = Retries(self._how, product.name, metrics, self._stay)
        self._kinds = {topics.topic(settings, kind): kind for kind in product.kinds}
        self._writer_schema = schema_lookup(settings)
        self._intake = Buffer(self._kinds, self._writer_schema)
        self._delivered = DeliveredIndex(settings, product.kinds)
        self._ordering = DependencyOrder(self._delivered, self._how.hold_seconds)
        topics.ensure(settings, [*self._kinds, topics.deadletters(settings, product.name)])
        self._letters = DeadLetters(settings, product.name)
        group = group_settings(settings, product.name)
        self._consumer = Consumer(group)
        self._inquiry = Offsets(group, self._stopping.wait)
        self._partitions = Assignment(self._consumer, self._inquiry, self._kinds)
        self._copies = GroupProgress(self._inquiry, self._partitions, self._delivered, self._kinds)
        self._in_hand: set[Position] = set()  # the partitions of the batch that is being delivered
        self._stale = False
        self._joined = False
        self._oldest = 0.0
        self._hold_all = False
        self._dirty = False
        self._hurry = False

    # ---- from outside -------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the loop to end: it finishes the batch in hand, commits, leaves its group."""
        self._stopping_since = time.monotonic()
        self._stopping.set()

    def live(self) -> str:
        """What is wrong with the loop, or ""."""
        idle = time.monotonic() - self._turned
        return f"the loop has not turned for {idle:.0f} s" if idle > 300 else ""

    def ready(self) -> str:
        """Why the consumer does not deliver now, or ""."""
        if not self._joined:
            return "not in its group yet"
        return self._retries.open

    def run(self, *, until_caught_up: bool = False) -> WorkerOutcome:
        """Deliver until `stop`, or until all is delivered that was there when it began.

        Raises `Stop` when a person must act, also when Kafka's own errors are fatal.
        """
        self._hurry = until_caught_up
        try:
            goal = self._inquiry.ends(self._kinds) if until_caught_up else {}
            self._consumer.subscribe(
                list(self._kinds),
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._revoked,
            )
            while not self._stopping.is_set():
                self._turn()
                if until_caught_up and self._joined and self._all_taken():
                    self._settle()  # which, if it has to wait, takes what comes meanwhile
                    nothing_waits = not len(self._ordering) and self._all_taken()
                    if nothing_waits and self._copies.reached(goal):
                        break
            self._deliver()
            self._settle()
        except _Drained:
            log.warning("stopped with a batch undelivered; it is delivered at the next start")
        except KafkaException as error:
            raise Stop(_told(self._product.name, error)) from None
        finally:
            self._consumer.close()
            self._inquiry.close()
        return self.outcome

    def _all_taken(self) -> bool:
        """Whether the topics have been read to their ends, and nothing of that is in the intake."""
        return not (self._partitions.behind or len(self._intake))

    # ---- one turn -----------------------------------------------------------------------------

    def _turn(self) -> None:
        self._turned = time.monotonic()
        room = max(1, min(POLL_RECORDS, self._product.batch_records - len(self._intake)))
        read = some(self._consumer, room, self._patience())
        self._inquiry.answered()
        # So that the group's lag counts what it has not begun to read, from the first moment.
        if (untouched := self._partitions.untouched()) and self._commit(untouched):
            self._partitions.announced()
        self._take(read)
        self._gate()
        full = len(self._intake) >= self._product.batch_records
        quiet = not self._partitions.behind and (not read or self._hurry)
        due = len(self._intake) and (quiet or self._left() <= 0)
        if full or due or (len(self._ordering) and not read):
            self._deliver()
        elif not read and self._all_taken():
            self._dirty |= time.monotonic() - self._settled > IDLE_SECONDS
            self._settle()

    def _patience(self) -> float:
        """How long the next poll may wait for a message, in seconds."""
        if not len(self._intake):
            busy = len(self._ordering) or self._dirty or self._partitions.behind
            return 0.2 if busy else 1.0
        return max(0.0, min(QUIET_SECONDS, self._left()))

    def _left(self) -> float:
        """How long the batch in hand may still be filled, in seconds."""
        return self._oldest + self._product.batch_seconds - time.monotonic()

    def _take(self, messages: Iterable[Message]) -> None:
        """Keep what was read."""
        records: list[Message] = []
        events: list[Message] = []
        for message in messages:
            (records if message.error() is None else events).append(message)
        if records and not len(self._intake):
            self._oldest = time.monotonic()
        self._partitions.took(self._intake.add(records))
        for event in events:  # after the records, as an end lies behind what was read
            self._event(event)

    def _event(self, message: Message) -> None:
        error = message.error()
        if error.code() == Error._PARTITION_EOF:  # type: ignore[union-attr]
            place = Position(message.topic() or "", message.partition() or 0)
            self._dirty |= self._partitions.ended(place, message.offset() or 0)
        elif error.fatal() or "AUTHORIZATION" in error.name():  # type: ignore[union-attr]
            raise KafkaException(error)
        else:
            log.debug("kafka", error=error.name())  # type: ignore[union-attr]

    # ---- partitions come and go ----------------------------------------------------------------

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._joined = True
        asked = [Position(p.topic, p.partition) for p in partitions]
        own = self._inquiry.insist(lambda: self._locate(asked))
        if own is None:
            return
        self._partitions.assign(asked)
        self._dirty = True
        self._inquiry.insist(lambda: self._copies.ask(own, waiting=len(self._ordering) > 0))
        self._gate()
        self._count_assigned()

    def _locate(self, asked: list[Position]) -> dict[Position, int]:
        """Find where to go on in these partitions; what the delivery itself stands for of them."""
        own = self._delivery.resume(self._inquiry.cluster(), asked)
        self._partitions.locate(asked, own)
        return {place: own[place] for place in asked if place in own}

    def _rewind(self) -> None:
        """Go back to what is delivered, after a batch was given up that is partly another's now."""
        log.info("a batch is read again: some of its partitions are another copy's now")
        ours = list(self._partitions.next)
        self._intake.take()
        self._ordering.drop(set(ours))
        self._copies.ask(self._locate(ours), waiting=False)
        self._partitions.seek()
        self._gate()

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget what was taken of these and not delivered: who has them now reads it again."""
        gone = {Position(p.topic, p.partition) for p in partitions}
        self._stale |= bool(gone & self._in_hand)
        try:
            self._delivery.release(gone)
        except BusError as error:  # who has them now takes them anyway
            log.info("partitions not released", why=str(error))
        self._partitions.revoke(gone)
        self._ordering.drop(gone)
        self._intake.drop(gone)
        self._count_assigned()

    def _count_assigned(self) -> None:
        self._metrics.assigned.labels(self._product.name).set(len(self._partitions.next))

    def _gate(self) -> None:
        full = len(self._ordering) >= self._how.hold_records
        self._partitions.gate(shut=self._hold_all, waiting=self._ordering.kinds if full else ())
        self._metrics.behind.labels(self._product.name).set(self._partitions.behind)

    # ---- delivering ----------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Order, translate, deliver and commit what was taken."""
        self._in_hand, self._stale = set(self._partitions.next), False
        try:
            self._deliver_batch()
        except _Stale:
            self._rewind()
        finally:
            self._in_hand = set()

    def _deliver_batch(self) -> None:
        if len(self._ordering):
            self._copies.ask_again(COPIES_SECONDS, waiting=True)
        taken = self._intake.take()
        lots, undecodable = self._retries.persist(lambda: self._intake.decoded(taken))
        ready, given_up = self._ordering.take(lots, time.monotonic(), self._copies.delivered_up_to)
        offsets = self._offsets()
        self._metrics.waiting.labels(self._product.name).set(len(self._ordering))
        outlived = self._retries.persist(lambda: self._outlived(ready))
        parts, told, untranslated = translate(self._product, ready, outlived)
        # Before the delivery, as one that keeps offsets would else stand for what is in no letter.
        letters = undecodable + given_up + untranslated
        self._bury(letters)
        refused = untranslated
        if parts or letters:
            refusals = self._hand_over(Batch(parts, offsets))
            turned_away = [(refusal.message, refusal.reason) for refusal in refusals]
            self._bury(turned_away)
            refused = untranslated + turned_away
            told.subtract(self._kinds[refusal.message.topic() or ""] for refusal in refusals)
        for message, _ in refused:
            self._delivered.discard(
                self._kinds[message.topic() or ""],
                (message.key() or b"").decode("utf-8", "replace"),
            )
        self._commit(offsets)
        self.outcome.delivered.update(told)
        for kind, number in told.items():
            self._metrics.delivered.labels(self._product.name, kind).inc(number)

    def _hand_over(self, batch: Batch) -> Sequence[Refusal]:
        traces = (header(part.messages[0], "traceparent") for part in batch.parts)
        name = self._product.name
        with span(f"deliver {name}", parents=(t for t in traces if t), consumer=True):
            began = time.monotonic()
            refusals = self._retries.persist(lambda: self._delivery.deliver(batch))
        self._dirty = True
        self._metrics.delivery.labels(name).observe(time.monotonic() - began)
        self._metrics.batch.labels(name).observe(len(batch))
        now = datetime.now(UTC)
        for part in batch.parts:
            freshness = self._metrics.freshness.labels(name, part.kind)
            for message in part.messages[:: len(part.messages) // FRESH_SAMPLES + 1]:
                freshness.observe((now - attributes(message).time).total_seconds())
        return refusals

    def _settle(self) -> None:
        """Let the delivery write what it has put off; nothing that was taken is undelivered now."""
        if self._dirty:
            offsets = self._offsets()
            self._retries.persist(self._delivery.settle)
            # Once more when it did not go: other copies wait for these offsets, and lag shows them.
            self._dirty = not self._commit(offsets)
            self._settled = time.monotonic()

    def _outlived(self, ready: dict[str, KindRecords]) -> dict[str, set[int]]:
        """For each kind the records whose withdrawal the product must not hear of."""
        found = {}
        for kind, fields in self._product.siblings.items():
            if kind in ready:
                topic = topics.topic(self._settings, kind)
                ends = {
                    p.partition: o for p, o in self._partitions.next.items() if p.topic == topic
                }
                found[kind] = equivalents.outlived(
                    self._settings, kind, fields, ready[kind], self._writer_schema, ends
                )
        return found

    def _bury(self, letters: list[tuple[Message, str]]) -> None:
        """Write dead letters, and be sure that they are there."""
        if not letters:
            return
        attempts = self._retries.attempts

        def write() -> None:
            for message, reason in letters:
                self._letters.add(message, reason, attempts)
            self._letters.flush()

        self._retries.persist(write)
        self.outcome.dead_lettered += len(letters)
        for message, _ in letters:
            kind = self._kinds[message.topic() or ""]
            self._metrics.dead.labels(self._product.name, kind).inc()

    def _offsets(self) -> dict[Position, int]:
        """For each partition the offset before which all that was taken is not waiting."""
        held = self._ordering.first_offsets()
        return {place: held.get(place, offset) for place, offset in self._partitions.next.items()}

    def _commit(self, offsets: Mapping[Position, int]) -> bool:
        """Commit these, but for partitions that another copy has been given meanwhile.

        Whether it went: not so while the group is being divided anew. What is not committed is
        delivered again, which the deliveries bear, so going on is safe.
        """
        ours = [
            TopicPartition(*p, offset)
            for p, offset in offsets.items()
            if p in self._partitions.next
        ]
        try:
            if ours:
                self._consumer.commit(offsets=ours, asynchronous=False)
        except KafkaException as error:
            log.info("offsets are committed with the next batch", error=error.args[0].name())
            return False
        return True

    # ---- waiting -------------------------------------------------------------------------------

    def _stay(self, seconds: float) -> None:
        """Wait without leaving the group: poll, with everything paused."""
        self._hold_all = True
        self._gate()
        until = time.monotonic() + seconds
        try:
            while (left := until - time.monotonic()) > 0:
                self._turned = time.monotonic()
                if self._stopping.is_set() and (
                    self._retries.open
                    or self._turned - self._stopping_since > self._how.drain_seconds
                ):
                    raise _Drained
                message = self._consumer.poll(min(left, 0.5))
                self._inquiry.answered()
                if self._stale:
                    self._stale = False
                    raise _Stale
                if message is not None:
                    self._take([message])
        finally:
            self._hold_all = False
            self._gate()


class _Stale(Exception):  # noqa: N818
    """The batch in hand holds records of partitions that another copy has now, which delivers them;
    delivered later by this one, they would come after newer ones."""


class _Drained(Exception):  # noqa: N818
    """The time to drain is over; what is in hand stays uncommitted."""


def _told(product: str, error: KafkaException) -> str:
    """What a person is told of an error of Kafka's that ends the loop."""
    name = error.args[0].name()
    if "AUTHORIZATION" in name:
        return (
            f"Kafka does not let this user consume for {product} ({name}); it needs the ACLs READ "
            "on the topics and on the group under topic_prefix. Nothing is lost"
        )
    return f"Kafka says {name}; nothing is lost, start again"
