"""Whether a transaction was committed, asked of Kafka after its producer can no longer tell.

Each transaction leaves a mark of its own in the topic of idempotency keys: the message's key names
the service, its value the transaction. It is there exactly when the transaction was committed.
"""

from __future__ import annotations

import time

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from bus.errors import RetryLater
from bus.kafka import topics
from bus.kafka.reader import reader, some
from bus.settings import Settings
from producers.http.work import Event

MARK = b"transaction of "
CLOCKS = 300.0
"""Seconds by which the broker's clock and ours may differ."""
SECONDS = 30.0


def mark(settings: Settings, service: str, transaction: bytes) -> Event:
    """The message that goes along in a transaction."""
    return Event(topics.idempotency(settings), 0, MARK + service.encode(), transaction, [])


def committed(settings: Settings, service: str, transaction: bytes, begun: float) -> bool:
    """Whether the transaction that was begun then (POSIX seconds) was committed.

    Only to be asked when it can no longer change: after the producer's successor has started.
    Raises `RetryLater` when Kafka does not answer.
    """
    consumer = reader(settings, {"auto.offset.reset": "latest"})
    since = TopicPartition(topics.idempotency(settings), 0, int((begun - CLOCKS) * 1000))
    deadline = time.monotonic() + SECONDS
    try:
        consumer.assign(consumer.offsets_for_times([since], timeout=SECONDS))
        while time.monotonic() < deadline:
            for message in some(consumer, 10_000, 0.2):
                if error := message.error():
                    if error.code() == KafkaError._PARTITION_EOF:
                        return False
                elif message.key() == MARK + service.encode() and message.value() == transaction:
                    return True
    except KafkaException as error:
        raise RetryLater(f"Kafka does not answer ({error.args[0].name()})") from None
    finally:
        consumer.close()
    raise RetryLater("Kafka did not answer in time")
