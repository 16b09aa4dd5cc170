"""Keep in Kafka the position at which a polled or streaming source continues.

A position is a text that only its source understands. One small compacted topic,
`PREFIX.positions`, has a message for each source: the key is the source, and the value is its
position. A position is published in the same transaction as the events before it, so it always
agrees with what is published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus.kafka import topics
from bus.kafka.reader import scan
from bus.settings import Settings

if TYPE_CHECKING:
    from bus.kafka.transactions import Publisher


def read(settings: Settings, source: str) -> str:
    """Return the last published position of a source (`/oursis`), or "" if it has none.

    Call this after the source's `Publisher` is created, which aborts the open transaction of an
    earlier process. Raises `RetryLater` when Kafka does not answer.
    """
    topics.ensure(settings, [topics.positions(settings)])
    return last(settings, source)


def last(settings: Settings, source: str) -> str:
    """Return the same as `read`, but do not create the topic."""
    found = ""
    for message in scan(settings, topics.positions(settings)):
        if (message.key() or b"").decode("utf-8", "replace") == source:
            found = (message.value() or b"").decode("utf-8", "replace")
    return found


def publish(publisher: Publisher, settings: Settings, source: str, position: str) -> None:
    """Publish a position, inside the transaction of the events before it."""
    publisher.raw(topics.positions(settings), source.encode(), position.encode(), [])
