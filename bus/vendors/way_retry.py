"""Delivers the records of a way's dead letters again, each in its current state.

The current state is the newest message in the agreement's topic. So a retry respects each opt-out,
deletion and change of the agreement since then, and never replaces a newer state with an older one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from bus.consume.buffer import Buffer
from bus.consume.deadletters import DeadLetters
from bus.consume.deliverer import Deliverer
from bus.consume.equivalents import Equivalents
from bus.consume.feed import hand_over
from bus.consume.retries import Retries, in_steps
from bus.delivery import Delivery
from bus.errors import RetryLater, Stop
from bus.kafka.reader import scan
from bus.observe.metrics import ConsumerMetrics
from bus.product import Product
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard import KINDS
from bus.vendors.ways import Way

if TYPE_CHECKING:
    from confluent_kafka import Message


def retry(
    settings: Settings,
    product: Product,
    way: Way,
    delivery: Delivery,
    records: Mapping[str, Collection[str]],
) -> None:
    """Deliver the current state of records; write dead letters for those that fail again.

    records: ids by kind. A record that the topic no longer has is skipped.

    Waits and tries again while the product does not answer. Raises `Stop` if the agreement is no
    longer active, or if the product cannot distinguish an older state from a newer one.
    """
    if not product.tells_time:
        raise Stop(
            f"{product.name} cannot distinguish older from newer states, so its dead letters "
            "cannot be retried under an agreement; the next change of each record is delivered"
        )
    watch = way.watch

    def pause(seconds: float) -> None:
        with suppress(RetryLater):
            watch.check()
        time.sleep(seconds)

    metrics = ConsumerMetrics()
    lookup = schema_lookup(settings)
    retries = Retries(
        settings.consumer, way.feed.name, metrics, lambda seconds: in_steps(seconds, 0.5, pause)
    )
    deliverer = Deliverer(
        settings,
        product,
        lambda batch: hand_over(delivery, batch, watch),
        retries,
        DeadLetters(settings, way.feed.name),
        Equivalents(settings, product, lookup, None),
        metrics,
        feed=way.feed,
    )
    found = present(settings, way, records)
    decoded, undecodable = retries.persist(lambda: Buffer(way.feed, lookup).decoded(found))
    ready = {kind: decoded[kind] for kind in KINDS if kind in decoded}
    deliverer.deliver(ready, {}, failures=undecodable)


def present(
    settings: Settings, way: Way, records: Mapping[str, Collection[str]]
) -> dict[str, list[Message]]:
    """Return the newest message of each of these records, by kind.

    A record that has moved to another partition has a deletion in the earlier partition. That
    deletion is ignored.
    """
    found: dict[str, list[Message]] = {}
    for topic, kind in way.feed.topics.items():
        wanted = {id_.encode() for id_ in records.get(kind, ())}
        newest: dict[tuple[bytes, int | None], Message] = {}
        for message in scan(settings, topic) if wanted else ():
            if (key := message.key() or b"") in wanted:
                newest[key, message.partition()] = message
        chosen: dict[bytes, Message] = {}
        for (key, _), message in newest.items():
            if key not in chosen or message.value() is not None:
                chosen[key] = message
        if chosen:
            found[kind] = list(chosen.values())
    return found
