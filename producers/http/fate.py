"""Finds out from Kafka whether a transaction was committed, after its producer was lost.

Each transaction writes a marker message to the topic of idempotency keys. The message's key names
the service, and its value identifies the transaction. Readers of committed data find the marker
exactly when the transaction was committed.
"""

from __future__ import annotations

from bus.delivery import Position
from bus.kafka import topics
from bus.kafka.reader import Reader
from bus.settings import Settings
from producers.http.work import Event

MARK = b"transaction of "
CLOCKS = 300.0
"""Maximum difference in seconds between the broker's clock and the clock of this machine."""
SECONDS = 30.0
"""Seconds to wait for an answer from Kafka."""


def mark(settings: Settings, service: str, transaction: bytes) -> Event:
    """Return the marker message of a transaction."""
    return Event(topics.idempotency(settings), 0, MARK + service.encode(), transaction, [])


def committed(settings: Settings, service: str, transaction: bytes, begun: float) -> bool:
    """Return whether the transaction was committed.

    begun: when the transaction began, in POSIX seconds.

    Call this only when the result can no longer change, which is after the next producer has
    started. Raises `RetryLater` when Kafka does not answer.
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
