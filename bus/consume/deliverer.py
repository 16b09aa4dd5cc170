"""Delivers one batch of records, for a consumer and for a replay alike.

    decide which of several equivalent records counts → withhold unique values that other records
        have → translate → write dead letters → hand over, with retries
        → write dead letters of what the product refuses
        → remember what the product has → deliver records whose unique value is now free

The first dead letters are written before the batch is handed over. The reason: a delivery that
keeps its own offsets stores an offset behind a record that it never gets. If the dead letter were
written afterwards, a kill in between would lose it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from bus.consume.deadletters import DeadLetters, place
from bus.consume.dependency_order import KindRecords
from bus.consume.equivalents import Equivalents
from bus.consume.feed import Feed, district_feed
from bus.consume.retries import Retries
from bus.consume.translation import translate
from bus.consume.unique_values import UniqueValues
from bus.delivery import Batch, Part, Position, Refusal
from bus.kafka.cloudevents import attributes, header
from bus.observe.metrics import ConsumerMetrics
from bus.observe.telemetry import span
from bus.product import Product
from bus.settings import Settings
from bus.standard.fault_codes import Reason, code_of

if TYPE_CHECKING:
    from confluent_kafka import Message

log = structlog.get_logger(__name__)

FRESH_SAMPLES = 500
"""Freshness is measured on at most this many records of a part, evenly spread."""

HandOver = Callable[[Batch], Sequence[Refusal]]
"""Hands a batch to the product; see `bus.delivery`. The function of a replay removes rows that are
no longer current from the batch. They do not count as delivered."""
Failures = list[tuple["Message", str]]
"""Messages that the product does not get, each with the reason. The reason has a code if it is a
`Reason`."""


@dataclass(frozen=True, slots=True)
class DeliveryOutcome:
    """The result of one batch.

    delivered:     how many records the product has got, by kind.
    left_out:      the messages that it has not got and will not get.
    dead_lettered: how many of those became dead letters; 0 if dead letters are not written.
    """

    delivered: Counter[str]
    left_out: tuple[Message, ...]
    dead_lettered: int


class Deliverer:
    """Delivers batches of one product.

    hand_over:    hands over one batch; called until it no longer raises `RetryLater`.
    dead_letters: writes the dead letters. If it is None, no dead letters are written.
    equivalents:  decides which of several equivalent records the product gets.
    feed:         what the consumer reads; by default the district's topics.
    unique:       decides which records are delivered without a value that another record has. If it
                  is None, every record is delivered with its value.
    origin:       the text with which the reason of each dead letter begins.
    """

    def __init__(
        self,
        settings: Settings,
        product: Product,
        hand_over: HandOver,
        retries: Retries,
        dead_letters: DeadLetters | None,
        equivalents: Equivalents,
        metrics: ConsumerMetrics,
        *,
        unique: UniqueValues | None = None,
        feed: Feed | None = None,
        origin: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._product = product
        self._hand_over = hand_over
        self._retries = retries
        self._dead_letters = dead_letters
        self._equivalents = equivalents
        self._unique = unique
        self._metrics = metrics
        self._origin = origin
        self._clock = clock
        feed = feed or district_feed(settings, product)
        self._name, self._kinds = feed.name, feed.topics

    def deliver(
        self,
        ready: Mapping[str, KindRecords],
        offsets: Mapping[Position, int],
        *,
        failures: Failures,
        read_to: Mapping[Position, int] | None = None,
    ) -> DeliveryOutcome:
        """Deliver these records, and write dead letters for those that fail.

        Some records are neither delivered nor dead letters when this returns: those for which the
        translation returns None, those that lose to an equivalent record, and those that
        `hand_over` removes. Without `dead_letters`, failures are only counted and logged.

        ready:    records by kind, in the order in which the product must have them.
        offsets:  for each partition, the offset up to which this batch and all before it account
                  for everything.
        failures: messages that are known to fail before they come here.
        read_to:  see `translated`.
        """
        parts, delivered, untranslated = self.translated(ready, failures, read_to)
        left_out = failures + untranslated
        self._write(left_out)
        if parts or left_out:
            batch = Batch(parts, offsets)
            rows = len(batch)
            refusals = self._persist(batch)
            if len(batch) < rows:
                delivered = _records(batch.parts)
            delivered.subtract(self._kinds[refusal.message.topic() or ""] for refusal in refusals)
            refused: Failures = [(one.message, Reason(one.reason, one.code)) for one in refusals]
            self._write(refused)
            left_out = left_out + refused
        for kind, number in (delivered := +delivered).items():
            self._metrics.delivered.labels(self._name, kind).inc(number)
        self._retries.persist(lambda: self._equivalents.delivered(offsets))
        messages = tuple(message for message, _ in left_out)
        if unique := self._unique:
            self._retries.persist(lambda: unique.delivered(offsets, messages))
            self.deliver_freed()
        return DeliveryOutcome(delivered, messages, len(messages) if self._dead_letters else 0)

    def translated(
        self,
        records: Mapping[str, KindRecords],
        failures: Failures,
        read_to: Mapping[Position, int] | None = None,
    ) -> tuple[list[Part], Counter[str], Failures]:
        """Translate the records that the product gets.

        failures: messages that go to the dead letters instead.
        read_to:  in a replay of latest states, for each partition, the offset up to which the
                  replay has read the partition.

        Returns what `bus.consume.translation.translate` returns.
        """
        chosen = self._retries.persist(lambda: self._equivalents.decide(records, failures, read_to))
        if unique := self._unique:
            chosen = self._retries.persist(lambda: unique.decide(chosen))
        return translate(self._product, chosen)

    def deliver_freed(self) -> None:
        """Deliver records again whose unique value no other record has any more."""
        if (unique := self._unique) is None or not unique.lacks_values:
            return
        if freed := self._retries.persist(unique.freed):
            parts, _, untranslated = translate(self._product, freed)
            refusals = self._persist(Batch(parts, {})) if parts else ()
            refused: Failures = [(one.message, Reason(one.reason, one.code)) for one in refusals]
            self._write(untranslated + refused)
            self._retries.persist(lambda: unique.delivered_with_values(freed))

    def _persist(self, batch: Batch) -> Sequence[Refusal]:
        """Hand over the batch, and repeat until it succeeds. Return what the product refuses."""
        name = self._name
        traces = (header(part.messages[0], "traceparent") for part in batch.parts)
        with span(f"deliver {name}", parents=(t for t in traces if t), consumer=True):
            began = self._clock()
            refusals = self._retries.persist(lambda: self._hand_over(batch))
        self._metrics.delivery.labels(name).observe(self._clock() - began)
        self._metrics.batch.labels(name).observe(len(batch))
        now = datetime.now(UTC)
        for part in batch.parts:
            freshness = self._metrics.freshness.labels(name, part.kind)
            for message in part.messages[:: len(part.messages) // FRESH_SAMPLES + 1]:
                freshness.observe((now - attributes(message).time).total_seconds())
        return refusals

    def _write(self, failures: Failures) -> None:
        """Write dead letters and return when Kafka has them.

        After a failure, all of them are written again, because it is unknown which of them Kafka
        has. So a dead letter may be in the topic twice.
        """
        if not failures:
            return
        if (sink := self._dead_letters) is None:
            self._log(failures)
            return
        attempts = self._retries.attempts

        def write() -> None:
            for message, reason in failures:
                sink.add(message, self._origin + reason, attempts, code_of(reason))
            sink.flush()

        self._retries.persist(write)
        for message, _ in failures:
            kind = self._kinds[message.topic() or ""]
            self._metrics.dead.labels(self._name, kind).inc()

    def _log(self, failures: Failures) -> None:
        """Log failures that get no dead letters: each code with its number and an example."""
        for code, number in Counter(code_of(reason) for _, reason in failures).items():
            message, reason = next(one for one in failures if code_of(one[1]) == code)
            log.warning(
                "records could not be delivered",
                code=code,
                records=number,
                example=f"{self._origin}{reason}",
                place=place(message),
            )


def _records(parts: Sequence[Part]) -> Counter[str]:
    """Count the records of each kind in these parts. A record in several tables counts once."""
    found: dict[str, set[int]] = {}
    for part in parts:
        found.setdefault(part.kind, set()).update(map(id, part.messages))
    return Counter({kind: len(messages) for kind, messages in found.items()})
