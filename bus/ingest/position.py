"""Where a polled or streaming source goes on: a text of its own, kept in Kafka.

One small compacted topic, `PREFIX.positions`: the key is the source, the value its position. It is
published in the same transaction as the events up to it, so it never says more or less than what
is published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus.kafka import topics
from bus.kafka.reader import scan
from bus.settings import Settings

if TYPE_CHECKING:
    from bus.kafka.transactions import Publisher


def read(settings: Settings, source: str) -> str:
    """Return the last published position of a source (`/oursis`); "" when it has none.

    Call it after the source's `Publisher` is made, which ends what an earlier process had begun.
    Raises `RetryLater` when Kafka does not answer.
    """
    topics.ensure(settings, [topics.positions(settings)])
    return last(settings, source)


def last(settings: Settings, source: str) -> str:
    """As `read`, and no topic is made where there is none."""
    found = ""
    for message in scan(settings, topics.positions(settings)):
        if (message.key() or b"").decode("utf-8", "replace") == source:
            found = (message.value() or b"").decode("utf-8", "replace")
    return found


def publish(publisher: Publisher, settings: Settings, source: str, position: str) -> None:
    """Publish a position, inside the transaction of the events up to it."""
    publisher.raw(topics.positions(settings), source.encode(), position.encode(), [])
