"""Reads topics once, from their start to their end as it is now, outside any group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Error

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka.client import client_settings
from bus.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Message


def reader(settings: Settings, more: Mapping[str, Any] | None = None) -> Consumer:
    """A consumer of committed data that is in no group and commits nothing.

    more: settings of librdkafka's besides.
    """
    return Consumer(
        client_settings(settings)
        | {
            "group.id": f"{settings.topic_prefix}.reader",  # asked for by librdkafka, never used
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            # The end of a partition is told with an answer; an empty one is held back so long.
            "fetch.wait.max.ms": 20,
            # A full queue is looked at again so soon; with librdkafka's own, a second, it is empty
            # long before.
            "fetch.queue.backoff.ms": 20,
            **(more or {}),
        }
    )


def some(consumer: Consumer, at_most: int, patience: float = 1.0) -> list[Message]:
    """What has been fetched by now, as soon as there is anything; nothing after `patience` seconds.

    (`Consumer.consume` alone would wait for its timeout whenever there is less than asked for.)
    """
    first = consumer.poll(patience)
    if first is None:
        return []
    more: list[Any] = consumer.consume(at_most - 1, timeout=0)  # no part is None here
    return [first, *more]


def scan(
    settings: Settings,
    topic: str,
    *,
    start: Mapping[int, int] | None = None,
    stop: Mapping[int, int] | None = None,
    at_once: int = 10_000,
) -> Iterator[Message]:
    """The messages of a topic, partition by partition in order; nothing for one that is not there.

    start, stop: for some partitions, the first offset and the one before which to end; a partition
                 that `stop` does not name is read to its end, or not at all where `stop` is given.
    """
    consumer = reader(settings)
    with _closed(consumer, topic):
        there = consumer.list_topics(topic, timeout=15).topics[topic].partitions
        wanted = there if stop is None else {p: m for p, m in there.items() if stop.get(p, 0) > 0}
        first = {Position(topic, number): (start or {}).get(number, 0) for number in wanted}
        last = None if stop is None else {Position(topic, p): at for p, at in stop.items()}
        yield from _messages(consumer, first, last, at_once)


def passages(
    settings: Settings, start: Mapping[Position, int], stop: Mapping[Position, int]
) -> Iterator[Message]:
    """The messages of some partitions, of any topics, each partition's in order.

    start, stop: the offset to begin with, 0 for a partition that it does not name, and the one
                 before which to end, for each partition that is meant.
    """
    consumer = reader(settings)
    with _closed(consumer, ", ".join(sorted({place.topic for place in stop}))):
        first = {place: start.get(place, 0) for place, end in stop.items() if end > 0}
        yield from _messages(consumer, first, stop, 10_000)


def _messages(
    consumer: Consumer,
    start: Mapping[Position, int],
    stop: Mapping[Position, int] | None,
    at_once: int,
) -> Iterator[Message]:
    consumer.assign([TopicPartition(*place, at) for place, at in start.items()])
    # Plain tuples, as one is made for each message.
    left: set[tuple[str | None, int | None]] = {(place.topic, place.partition) for place in start}
    ends: dict[tuple[str | None, int | None], int] | None = None
    if stop is not None:
        ends = {(place.topic, place.partition): at for place, at in stop.items()}
    while left:
        for message in some(consumer, at_once):
            place = message.topic(), message.partition()
            if error := message.error():
                if error.code() != Error._PARTITION_EOF:
                    raise KafkaException(error)
                left.discard(place)
            elif ends is not None and (message.offset() or 0) >= ends[place]:
                left.discard(place)
            elif place in left:
                yield message


@contextmanager
def _closed(consumer: Consumer, topic: str) -> Iterator[None]:
    """Whatever happens it is closed; Kafka's silence is ours."""
    try:
        yield
    except KafkaException as error:
        raise RetryLater(
            f"could not read topic {topic}: Kafka says {error.args[0].name()}; "
            "try again when it is up"
        ) from None
    finally:
        consumer.close()
