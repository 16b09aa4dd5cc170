"""What the bare loops share: they read all records of some topics with a plain consumer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message

from bus.kafka.client import client_settings
from bus.settings import Settings

POLL = 10_000
"""Maximum number of messages that a bare loop takes in one call."""


def reader_settings(settings: Settings) -> dict[str, Any]:
    """Return the librdkafka settings of a bare loop's consumer, which commits nothing."""
    return client_settings(settings) | {
        "group.id": f"{settings.topic_prefix}.bare",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
    }


def records_to_end(consumer: Consumer, topics: Collection[str]) -> Iterator[Message]:
    """Yield the messages of these topics until each partition has come to its end.

    The consumer has subscribed to the topics, or has their partitions.
    """
    there = consumer.list_topics(timeout=15).topics
    left = {(name, number) for name in topics for number in there[name].partitions}
    while left:
        for message in consumer.consume(POLL, timeout=0.1):
            if error := message.error():
                if error.code() == KafkaError._PARTITION_EOF:
                    left.discard((message.topic() or "", message.partition() or 0))
            else:
                yield message
