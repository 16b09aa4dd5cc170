"""Reads a topic once, from its start to its end as it is now, outside any group."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Error

from bus.failures import RetryLater
from bus.settings import Settings, kafka_client

if TYPE_CHECKING:
    from confluent_kafka import Message


def reader(settings: Settings) -> Consumer:
    """A consumer of committed data that is in no group and commits nothing."""
    return Consumer(
        kafka_client(settings)
        | {
            "group.id": f"{settings.topic_prefix}.reader",  # asked for by librdkafka, never used
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            # The end of a partition is told with an answer; an empty one is held back so long.
            "fetch.wait.max.ms": 20,
            "logger": logging.getLogger("bus.kafka"),
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
    try:
        there = consumer.list_topics(topic, timeout=15).topics[topic].partitions
        wanted = there if stop is None else {p: m for p, m in there.items() if stop.get(p, 0) > 0}
        consumer.assign([TopicPartition(topic, p, (start or {}).get(p, 0)) for p in wanted])
        left = set(wanted)
        while left:
            for message in some(consumer, at_once):
                partition = message.partition() or 0
                if error := message.error():
                    if error.code() != Error._PARTITION_EOF:
                        raise KafkaException(error)
                    left.discard(partition)
                elif stop is not None and (message.offset() or 0) >= stop[partition]:
                    left.discard(partition)
                elif partition in left:
                    yield message
    except KafkaException as error:
        raise RetryLater(
            f"could not read topic {topic}: Kafka says {error.args[0].name()}; "
            "try again when it is up"
        ) from None
    finally:
        consumer.close()
