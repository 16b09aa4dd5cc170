"""Whether a transaction was committed, asked of Kafka after its producer can no longer tell.

Each transaction leaves a mark of its own in the topic of idempotency keys: the message's key names
the service, its value the transaction. It is there exactly when the transaction was committed.
"""

from __future__ import annotations

from bus.delivery import Position
from bus.kafka import topics
from bus.kafka.reader import Reader
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
    place = Position(topics.idempotency(settings), 0)
    more = {"auto.offset.reset": "latest"}
    with Reader(settings, "Kafka does not answer ({})", more, seconds=SECONDS) as reader:
        start = reader.since([place], int((begun - CLOCKS) * 1000))
        return any(
            message.key() == MARK + service.encode() and message.value() == transaction
            for messages in reader.batches(start, silence=SECONDS)
            for message in messages
        )
