"""Sends single messages and confirms that Kafka has stored them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Producer

from bus.errors import BusError, RetryLater, Stop
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import Headers
from bus.kafka.kafka_errors import LATER, failure
from bus.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Message

SECONDS = 60.0
"""Seconds that Kafka may take to confirm the messages."""


PRODUCER: dict[str, Any] = {
    "acks": "all",
    # One request at a time keeps the order. An idempotent producer would keep it too, but often
    # waits for half a second before its first message (librdkafka, rdkafka_idempotence.c).
    "enable.idempotence": False,
    "max.in.flight.requests.per.connection": 1,
}
"""The librdkafka settings of a sender."""


class Sender:
    """Sends messages to one topic, outside any transaction.

    Use it from one thread only. If the connection breaks, Kafka may store a message twice. So send
    only messages of which the second copy changes nothing.

    doing: the action, as an error names it after "could not": "write dead letters".
    later: what to do if Kafka did not store a message and the cause is temporary.
    more:  additional librdkafka settings.
    partition: where to send. By default librdkafka chooses a partition by the key.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        doing: str,
        *,
        later: str = LATER,
        more: Mapping[str, Any] | None = None,
        partition: int | None = None,
    ) -> None:
        self._where: dict[str, Any] = {} if partition is None else {"partition": partition}
        self._topic = topic
        self._doing = f"{doing} (topic {topic})"
        self._later = later
        self._refused: list[KafkaError] = []
        self._producer = Producer(client_settings(settings) | PRODUCER | dict(more or {}))

    def add(
        self, value: bytes | None, key: bytes | None = None, headers: Headers | None = None
    ) -> None:
        """Send one message.

        Only `flush` confirms that Kafka has stored it. Raises the same errors as `flush`.
        """
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value,
                    key,
                    headers=headers or [],
                    on_delivery=self._delivered,
                    **self._where,
                )
                break
            except BufferError:  # librdkafka's queue is full: wait until it has room
                self._producer.poll(0.1)
            except KafkaException as error:
                raise self._failure(error.args[0]) from None
        self._producer.poll(0)

    def flush(self, seconds: float = SECONDS) -> None:
        """Wait until Kafka has stored all messages that were added.

        Raises `RetryLater` if Kafka refused a message or does not confirm all of them in time.
        Raises `Stop` if a person must act first. The caller must then add the messages again.
        """
        try:
            waiting = self._producer.flush(seconds)
        except KafkaException as error:
            raise self._failure(error.args[0]) from None
        refused, self._refused = self._refused, []
        failures = [self._failure(error) for error in refused]
        if failures:
            raise next((one for one in failures if isinstance(one, Stop)), failures[0])
        if waiting:
            raise RetryLater(
                f"could not {self._doing}: Kafka did not confirm it in {seconds:g} s; {self._later}"
            )

    def close(self) -> None:
        """Drop what Kafka has not stored yet, so that it does not come after what is sent next."""
        self._producer.purge()
        self._producer.flush(5)

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._refused.append(error)

    def _failure(self, error: KafkaError) -> BusError:
        return failure(self._doing, error, later=self._later, topic=self._topic)


def send(
    settings: Settings,
    topic: str,
    value: bytes | None,
    key: bytes | None = None,
    *,
    doing: str,
    later: str = LATER,
    seconds: float = SECONDS,
) -> None:
    """Send one message, and wait until Kafka has stored it.

    Raises the same errors as `Sender.flush`.
    """
    sender = Sender(settings, topic, doing, later=later)
    sender.add(value, key)
    sender.flush(seconds)
