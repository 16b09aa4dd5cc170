"""Asks Kafka where partitions begin and end, and what a consumer group has committed.

A separate client does this. A consumer must not be called while it reports a rebalance: if a second
rebalance comes in the same poll, such a call ends the program (confluent-kafka 2.16,
CallState_get).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka.reader import marks_of

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

RETRY_DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between repeated requests that Kafka must answer before a partition can be read."""
TIMEOUT = 30.0
"""Seconds after which a request counts as unanswered."""


@contextmanager
def retryable() -> Iterator[None]:
    """Raise `RetryLater` if Kafka cannot answer a request now, as while a broker restarts.

    An error that does not go away by itself stays a `KafkaException`: fatal, or a lack of rights.
    """
    try:
        yield
    except KafkaException as error:
        reported = error.args[0]
        if reported.fatal() or "AUTHORIZATION" in reported.name():
            raise
        raise RetryLater(
            f"could not ask what the group has delivered: Kafka reports {reported.name()}"
        ) from None


class Offsets:
    """A client that asks for partition offsets and for the committed offsets of one group.

    A request raises `KafkaException` if Kafka does not answer. `insist` defers that error, and
    `retryable` turns it into `RetryLater`.

    settings: librdkafka's settings, with the `group.id` whose committed offsets are needed.
    wait:     waits this many seconds and returns whether the consumer must end.
    """

    def __init__(self, settings: Mapping[str, Any], wait: Callable[[float], bool]) -> None:
        self._client = Consumer({**settings, "enable.partition.eof": False})
        self._wait = wait
        self._unanswered: KafkaException | None = None

    def cluster(self) -> str:
        """Return the cluster's id."""
        return self._client.list_topics(timeout=TIMEOUT).cluster_id or ""

    def partitions(self, names: Iterable[str]) -> list[Position]:
        """Return the partitions of these topics; a topic that does not exist has none."""
        existing = self._client.list_topics(timeout=TIMEOUT).topics
        return [
            Position(name, p)
            for name in names
            if name in existing
            for p in existing[name].partitions
        ]

    def marks(self, places: Iterable[Position]) -> dict[Position, tuple[int, int]]:
        """Return the first offset that each partition still has, and the one after its last."""
        return marks_of(self._client, places, TIMEOUT)

    def ends(self, names: Iterable[str]) -> dict[Position, int]:
        """Return the end offset of each partition of these topics that is not empty."""
        marks = self.marks(self.partitions(names))
        return {place: high for place, (low, high) in marks.items() if high > low}

    def committed(self, places: Iterable[Position]) -> dict[Position, int]:
        """Return the group's committed offsets. A negative offset means that there is none."""
        requested = [TopicPartition(*place) for place in places]
        answer = self._client.committed(requested, timeout=TIMEOUT) if requested else []
        return {Position(p.topic, p.partition): p.offset for p in answer}

    def insist(self, request: Callable[[], Answer]) -> Answer | None:
        """Return Kafka's answer during a rebalance, and repeat the request until there is one.

        Returns None if Kafka refuses the request for lack of rights, if all attempts fail or if the
        consumer must end. In the first two cases `answered` raises the error later.

        This method must raise no error of Kafka's. It would leave the poll as a bare `KafkaError`,
        which is not an exception, so nothing would catch it (confluent-kafka 2.16).
        """
        for seconds in RETRY_DELAYS:
            try:
                answer = request()
                self._unanswered = None
                return answer
            except KafkaException as error:
                log.info("request repeated during a rebalance", error=error.args[0].name())
                self._unanswered = error
            if "AUTHORIZATION" in self._unanswered.args[0].name():
                return None
            if self._wait(seconds):
                self._unanswered = None
                return None
        return None

    def answered(self) -> None:
        """Raise the error that `insist` deferred, if there is one."""
        if self._unanswered is not None:
            raise self._unanswered

    def close(self) -> None:
        """Close the client."""
        self._client.close()
