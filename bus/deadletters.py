"""The dead letters: what a product could not be told, with the reason, as it came.

One topic a product, `PREFIX.deadletters.PRODUCT`. Key, value and headers are those of the original
message, byte for byte; headers `dl_…` beside them say why, when, how often it was tried, and where
it lies.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, Producer

from bus import topics
from bus.event import Headers, headers_of, now
from bus.failures import RetryLater
from bus.scan import scan
from bus.settings import Settings, kafka_client

if TYPE_CHECKING:
    from confluent_kafka import Message


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, without its content.

    kind and id name the record; place is topic/partition/offset of the original; time is UTC.
    """

    kind: str
    id: str
    reason: str
    attempts: int
    time: str
    place: str


class DeadLetters:
    """Writes the dead letters of one product."""

    def __init__(self, settings: Settings, product: str) -> None:
        self._topic = topics.deadletters(settings, product)
        self._product = product
        self._failed = 0
        self._producer = Producer(
            kafka_client(settings)
            | {
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "logger": logging.getLogger("bus.kafka"),
            }
        )

    def add(self, message: Message, reason: str, attempts: int = 1) -> None:
        """Write one; it is there for sure only after `flush`."""
        extra: Headers = [
            ("dl_reason", reason.encode()),
            ("dl_attempts", str(attempts).encode()),
            ("dl_product", self._product.encode()),
            ("dl_time", now().encode()),
            ("dl_place", place(message).encode()),
        ]
        headers: Headers = [*headers_of(message), *extra]
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    message.value(),
                    message.key(),
                    headers=headers,
                    on_delivery=self._delivered,
                )
                break
            except BufferError:
                self._producer.poll(0.1)

    def flush(self) -> None:
        """Return when Kafka has all that was added; raises `RetryLater` when it does not take it.

        The loop commits no offset before this has returned.
        """
        try:
            left = self._producer.flush(60)
        except KafkaException as error:
            raise RetryLater(f"Kafka says {error.args[0].name()} to dead letters") from None
        failed, self._failed = self._failed, 0
        if left or failed:
            raise RetryLater(
                f"{left + failed} dead letters could not be written to {self._topic}; "
                "they are written again when Kafka takes them"
            )

    def _delivered(self, error: object, _: Message) -> None:
        if error is not None:
            self._failed += 1


def place(message: Message) -> str:
    """Where a message lies: topic/partition/offset."""
    return f"{message.topic()}/{message.partition()}/{message.offset()}"


def read(settings: Settings, product: str) -> list[DeadLetter]:
    """All dead letters of a product, oldest first; the latest of a message that came twice, as it
    may after a crash."""
    letters: dict[str, DeadLetter] = {}
    for message in scan(settings, topics.deadletters(settings, product)):
        about = {
            name: value.decode("utf-8", "replace")
            for name, value in headers_of(message)
            if name.startswith("dl_") and value is not None
        }
        where = about.get("dl_place", "")
        letters.pop(where, None)
        letters[where] = DeadLetter(
            kind=topics.kind_of(settings, where.split("/")[0]) or "",
            id=(message.key() or b"").decode("utf-8", "replace"),
            reason=about.get("dl_reason", ""),
            attempts=int(about.get("dl_attempts", "1")),
            time=about.get("dl_time", ""),
            place=where,
        )
    return list(letters.values())
