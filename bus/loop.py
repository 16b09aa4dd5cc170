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

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as Error

from bus import siblings, topics
from bus.deadletters import DeadLetters
from bus.delivery import Batch, Delivery, Position, Refusal
from bus.event import attributes, header
from bus.failures import BusError, Stop
from bus.intake import Intake
from bus.metrics import Metrics
from bus.ordering import Lot, Ordering
from bus.product import Product
from bus.references import Delivered
from bus.registry import schema_lookup
from bus.retries import Retries
from bus.scan import some
from bus.settings import Settings, kafka_client
from bus.standard import KINDS
from bus.telemetry import span
from bus.translation import translate

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

POLL_RECORDS = 10_000
ASKED_AGAIN = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between questions to Kafka that must be answered before a partition can be read."""
IDLE_SECONDS = 60.0
"""While nothing comes, what depends on the day alone is looked after so often."""
BEHIND_SECONDS = 1.0
"""A partition that is read for so long without coming to an end is behind: see `Loop._gate`."""
QUIET_SECONDS = 0.5
"""A batch is not filled any longer when nothing has come for so long."""
FRESH_SAMPLES = 500
"""Of a larger part, freshness is measured on this many records, evenly spread."""


@dataclass(slots=True)
class Outcome:
    """What a run of the loop did: records delivered by kind, and dead letters."""

    delivered: Counter[str] = field(default_factory=Counter)
    dead_lettered: int = 0


class Loop:
    """Runs one product's consumer. `run` on one thread; `stop`, `live`, `ready` from any."""

    def __init__(
        self, settings: Settings, product: Product, delivery: Delivery, metrics: Metrics
    ) -> None:
        self.outcome = Outcome()
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
        self._intake = Intake(self._kinds, self._writer_schema)
        self._delivered = Delivered(settings, product.kinds)
        self._ordering = Ordering(self._delivered, self._how.hold_seconds)
        topics.ensure(settings, [*self._kinds, topics.deadletters(settings, product.name)])
        self._letters = DeadLetters(settings, product.name)
        self._consumer = Consumer(group_settings(settings, product.name))
        # While the consumer tells of a rebalance, another client answers what is asked meanwhile:
        # a call to the consumer itself would, on a second rebalance in the same poll, end the
        # program (confluent-kafka 2.16, CallState_get).
        self._inquiry = Consumer(
            group_settings(settings, product.name) | {"enable.partition.eof": False}
        )
        self._unannounced: dict[Position, int] = {}
        self._in_hand: set[Position] = set()  # the partitions of the batch that is being delivered
        self._stale = False
        self._joined = False
        self._unanswered: KafkaException | None = None
        self._next: dict[Position, int] = {}  # up to where each assigned partition was taken
        self._behind: set[Position] = set()  # not at their end, when assigned or for a while since
        self._unended: dict[Position, float] = {}  # since when they have been read without an end
        self._paused: set[Position] = set()
        self._oldest = 0.0
        self._goal: dict[Position, int] = {}  # where the topics ended at the moment `_goal_set`
        self._goal_set = 0.0
        self._delivered_up_to: dict[int, float] = {}  # see `_look_round`
        self._hold_all = False
        self._dirty = False
        self._hurry = False
        self._last_refresh = 0.0

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

    def run(self, *, until_caught_up: bool = False) -> Outcome:
        """Deliver until `stop`, or until all is delivered that was there when it began.

        Raises `Stop` when a person must act, also when Kafka's own errors are fatal.
        """
        self._hurry = until_caught_up
        try:
            goal = self._ends() if until_caught_up else {}
            self._consumer.subscribe(
                list(self._kinds),
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._revoked,
            )
            while not self._stopping.is_set():
                self._turn()
                if until_caught_up and self._joined and not (self._behind or len(self._intake)):
                    self._settle()
                    if not len(self._ordering) and not len(self._intake) and self._reached(goal):
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

    def _ends(self) -> dict[Position, int]:
        """Where each partition of the product's topics ends now, if there is anything in it."""
        there = self._inquiry.list_topics(timeout=30).topics
        places = [Position(name, p) for name in self._kinds for p in there[name].partitions]
        marks = {
            place: self._inquiry.get_watermark_offsets(TopicPartition(*place), timeout=30)
            for place in places
        }
        return {place: high for place, (low, high) in marks.items() if high > low}

    def _reached(self, goal: Mapping[Position, int]) -> bool:
        """Whether other copies, too, have delivered all that there was.

        One that was killed has its partitions until its time in the group is over; then they come
        to us.
        """
        others = [TopicPartition(*place) for place in goal if place not in self._next]
        if not others:
            return True
        committed = self._inquiry.committed(others, timeout=30)
        return all(p.offset >= goal[Position(p.topic, p.partition)] for p in committed)

    # ---- one turn -----------------------------------------------------------------------------

    def _turn(self) -> None:
        self._turned = time.monotonic()
        room = max(1, min(POLL_RECORDS, self._product.batch_records - len(self._intake)))
        read = some(self._consumer, room, self._patience())
        self._answered()
        if self._unannounced:
            # So that the group's lag counts what it has not begun to read, from the first moment.
            untouched = {p: o for p, o in self._unannounced.items() if self._next.get(p) == o}
            self._unannounced = {} if self._commit(untouched) else untouched
        self._take(read)
        self._gate()
        full = len(self._intake) >= self._product.batch_records
        quiet = not self._behind and (not read or self._hurry)
        due = len(self._intake) and (quiet or self._left() <= 0)
        if full or due or (len(self._ordering) and not read):
            self._deliver()
        elif not read and not (self._behind or len(self._intake)):
            self._dirty |= time.monotonic() - self._settled > IDLE_SECONDS
            self._settle()

    def _patience(self) -> float:
        """How long the next poll may wait for a message, in seconds."""
        if not len(self._intake):
            return 0.2 if len(self._ordering) or self._dirty or self._behind else 1.0
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
        ends = self._intake.add(records)
        self._next |= ends
        now = time.monotonic()
        for place in ends:
            since = self._unended.setdefault(place, now)
            if now - since > BEHIND_SECONDS and place not in self._paused:
                self._behind.add(place)
        for event in events:  # after the records, as an end lies behind what was read
            self._event(event)

    def _event(self, message: Message) -> None:
        error = message.error()
        if error.code() == Error._PARTITION_EOF:  # type: ignore[union-attr]
            place = Position(message.topic(), message.partition())  # type: ignore[arg-type]
            if place in self._next:
                # Beyond the last record lie only transaction markers: nothing to deliver.
                end = max(self._next[place], message.offset() or 0)
                self._dirty |= place in self._behind or end > self._next[place]
                self._next[place] = end
                self._behind.discard(place)
                self._unended.pop(place, None)
        elif error.fatal() or "AUTHORIZATION" in error.name():  # type: ignore[union-attr]
            raise KafkaException(error)
        else:
            log.debug("kafka", error=error.name())  # type: ignore[union-attr]

    # ---- which partitions are read -------------------------------------------------------------

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._joined = True
        asked = [Position(p.topic, p.partition) for p in partitions]
        own = self._inquire(lambda: self._locate(asked))
        if own is None:
            return
        consumer.incremental_assign([TopicPartition(*place, self._next[place]) for place in asked])
        self._unannounced |= {place: self._next[place] for place in asked}
        self._dirty = True
        self._inquire(lambda: self._refresh(own))
        self._gate()
        self._metrics.assigned.labels(self._product.name).set(len(self._next))

    def _inquire(self, question: Callable[[], Answer]) -> Answer | None:
        """What Kafka answers while it tells of a rebalance; None when it does not for long, and
        then `_answered` raises.

        Nothing of Kafka's may be raised here: out of the poll would come a bare `KafkaError`, which
        is no exception, so nothing catches it (confluent-kafka 2.16).
        """
        for seconds in ASKED_AGAIN:
            try:
                answer = question()
                self._unanswered = None
                return answer
            except KafkaException as error:
                log.info("asked again in a rebalance", error=error.args[0].name())
                self._unanswered = error
            if "AUTHORIZATION" in self._unanswered.args[0].name():
                return None
            if self._stopping.wait(seconds):
                self._unanswered = None
                return None
        return None

    def _answered(self) -> None:
        """Raises what `_inquire` could not."""
        if self._unanswered is not None:
            raise self._unanswered

    def _locate(self, asked: list[Position]) -> dict[Position, int]:
        """Find where to go on in these partitions; what the delivery itself stands for of them."""
        partitions = [TopicPartition(*place) for place in asked]
        committed = {
            Position(p.topic, p.partition): p.offset
            for p in (self._inquiry.committed(partitions, timeout=30) if partitions else [])
        }
        own = self._delivery.resume(self._inquiry.list_topics(timeout=30).cluster_id or "", asked)
        for place in asked:
            low, high = self._inquiry.get_watermark_offsets(TopicPartition(*place), timeout=30)
            offset = own.get(place, committed[place])
            if offset < low or offset > high:  # nothing committed yet, or the topic was made anew
                offset = low
            self._next[place] = offset
            if offset < high:
                self._behind.add(place)
        return {place: own[place] for place in asked if place in own}

    def _rewind(self) -> None:
        """Go back to what is delivered, after a batch was given up that is partly another's now."""
        log.info("a batch is read again: some of its partitions are another copy's now")
        ours = list(self._next)
        self._intake.take()
        self._ordering.drop(set(ours))
        self._refresh(self._locate(ours))
        for place in ours:
            self._consumer.seek(TopicPartition(*place, self._next[place]))
        self._gate()

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget what was taken of these and not delivered: who has them now reads it again."""
        gone = {Position(p.topic, p.partition) for p in partitions}
        self._stale |= bool(gone & self._in_hand)
        try:
            self._delivery.release(gone)
        except BusError as error:  # who has them now takes them anyway
            log.info("partitions not released", why=str(error))
        for place in gone:
            self._next.pop(place, None)
            self._unended.pop(place, None)
        self._behind -= gone
        self._paused -= gone
        self._ordering.drop(gone)
        self._intake.drop(gone)
        self._metrics.assigned.labels(self._product.name).set(len(self._next))

    def _gate(self) -> None:
        """Read references before referrers, nothing while the product is down, no flood of holds.

        While a topic is behind, those that refer to it wait: so a first day of eight million
        enrollments does not have to be held in memory until the classes have been read.
        """
        level = {place: KINDS[self._kinds[place.topic]].level for place in self._next}
        if self._hold_all:
            pause = set(self._next)
        elif self._behind:
            lowest = min(level[place] for place in self._behind)
            pause = {place for place in self._next if level[place] > lowest}
        elif len(self._ordering) >= self._how.hold_records:
            held = min(KINDS[kind].level for kind in self._ordering.kinds)
            pause = {place for place in self._next if level[place] >= held}
        else:
            pause = set()
        if more := pause - self._paused:
            self._consumer.pause([TopicPartition(*place) for place in more])
        if fewer := (self._paused - pause) & self._next.keys():
            self._consumer.resume([TopicPartition(*place) for place in fewer])
        self._paused = pause
        self._metrics.behind.labels(self._product.name).set(len(self._behind))

    def _refresh(self, own: Mapping[Position, int] | None = None) -> None:
        """Learn what all copies of this consumer have delivered.

        own: offsets that the delivery itself stands for; they may be ahead of the committed ones.
        """
        self._last_refresh = time.monotonic()
        places = [
            TopicPartition(topic, number)
            for topic, meta in self._inquiry.list_topics(timeout=30).topics.items()
            if self._kinds.get(topic) in self._delivered.kinds
            for number in meta.partitions
        ]
        done = {
            Position(p.topic, p.partition): p.offset
            for p in (self._inquiry.committed(places, timeout=30) if places else [])
            if p.offset > 0
        }
        for place, offset in (own or {}).items():
            if offset > done.get(place, 0):
                done[place] = offset
        self._delivered.refresh(done)
        if len(self._ordering):
            self._look_round(done)

    def _look_round(self, done: Mapping[Position, int]) -> None:
        """Learn up to when all copies have delivered what was in the topics, level by level: only
        then has a record waited in vain for one of a lower level.

        done: up to where other copies have committed; of our own partitions what was read counts.
        """
        if not self._goal:
            self._goal_set, self._goal = time.monotonic(), self._ends()
        short = [
            KINDS[self._kinds[place.topic]].level
            for place, end in self._goal.items()
            if self._kinds[place.topic] in self._delivered.kinds
            and self._next.get(place, done.get(place, 0)) < end
        ]
        lowest = min(short, default=max(kind.level for kind in KINDS.values()))
        self._delivered_up_to |= dict.fromkeys(range(lowest + 1), self._goal_set)
        if not short:
            self._goal = {}

    # ---- delivering ----------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Order, translate, deliver and commit what was taken."""
        self._in_hand, self._stale = set(self._next), False
        try:
            self._deliver_batch()
        except _Stale:
            self._rewind()
        finally:
            self._in_hand = set()

    def _deliver_batch(self) -> None:
        if len(self._ordering) and time.monotonic() - self._last_refresh > 1.0:
            self._refresh()
        taken = self._intake.take()
        lots, undecodable = self._retries.persist(lambda: self._intake.decoded(taken))
        ready, given_up = self._ordering.take(
            lots, time.monotonic(), lambda level: self._delivered_up_to.get(level, -math.inf)
        )
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

    def _outlived(self, ready: dict[str, Lot]) -> dict[str, set[int]]:
        """For each kind the records whose withdrawal the product must not hear of."""
        found = {}
        for kind, fields in self._product.siblings.items():
            if kind in ready:
                topic = topics.topic(self._settings, kind)
                ends = {p.partition: o for p, o in self._next.items() if p.topic == topic}
                found[kind] = siblings.outlived(
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
        return {place: held.get(place, offset) for place, offset in self._next.items()}

    def _commit(self, offsets: Mapping[Position, int]) -> bool:
        """Commit these, but for partitions that another copy has been given meanwhile.

        Whether it went: not so while the group is being divided anew. What is not committed is
        delivered again, which the deliveries bear, so going on is safe.
        """
        ours = [TopicPartition(*p, offset) for p, offset in offsets.items() if p in self._next]
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
                self._answered()
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


def group_settings(settings: Settings, product: str) -> dict[str, Any]:
    """librdkafka's settings for a copy of a product's consumer."""
    return {
        "session.timeout.ms": 10_000,
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": 65_536,
        **kafka_client(settings),
        "group.id": f"{settings.topic_prefix}.{product}",
        "partition.assignment.strategy": "cooperative-sticky",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "max.poll.interval.ms": 900_000,
        "logger": logging.getLogger("bus.kafka"),
    }
