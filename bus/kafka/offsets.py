"""What a consumer asks Kafka beside its reading: where partitions begin and end, what is committed.

A client of its own, because a consumer that tells of a rebalance must not be asked: a call to it
would, on a second rebalance in the same poll, end the program (confluent-kafka 2.16,
CallState_get).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from bus.delivery import Position

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

ASKED_AGAIN = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between questions to Kafka that must be answered before a partition can be read."""
PATIENCE = 30.0
"""Seconds after which a question counts as unanswered."""


class Offsets:
    """See the module's docstring. All but `insist` raise `KafkaException` where Kafka is silent.

    settings: librdkafka's, with the `group.id` whose offsets are meant.
    wait:     waits so many seconds and says whether the consumer is to end.
    """

    def __init__(self, settings: Mapping[str, Any], wait: Callable[[float], bool]) -> None:
        self._client = Consumer({**settings, "enable.partition.eof": False})
        self._wait = wait
        self._unanswered: KafkaException | None = None

    def cluster(self) -> str:
        """The cluster's id."""
        return self._client.list_topics(timeout=PATIENCE).cluster_id or ""

    def partitions(self, names: Iterable[str]) -> list[Position]:
        """The partitions of these topics, of those that are there."""
        there = self._client.list_topics(timeout=PATIENCE).topics
        return [
            Position(name, p) for name in names if name in there for p in there[name].partitions
        ]

    def marks(self, place: Position) -> tuple[int, int]:
        """The first offset that a partition still has, and the one after its last."""
        low, high = self._client.get_watermark_offsets(TopicPartition(*place), timeout=PATIENCE)
        return low, high

    def ends(self, names: Iterable[str]) -> dict[Position, int]:
        """Where each partition of these topics ends now, if there is anything in it."""
        marks = {place: self.marks(place) for place in self.partitions(names)}
        return {place: high for place, (low, high) in marks.items() if high > low}

    def committed(self, places: Iterable[Position]) -> dict[Position, int]:
        """The group's offsets; below 0 where it has none."""
        asked = [TopicPartition(*place) for place in places]
        answer = self._client.committed(asked, timeout=PATIENCE) if asked else []
        return {Position(p.topic, p.partition): p.offset for p in answer}

    def insist(self, question: Callable[[], Answer]) -> Answer | None:
        """What Kafka answers while it tells of a rebalance; None when it does not for long, and
        then `answered` raises.

        Nothing of Kafka's may be raised here: out of the poll would come a bare `KafkaError`, which
        is no exception, so nothing catches it (confluent-kafka 2.16).
        """
        for seconds in ASKED_AGAIN:
            try:
                answer = question()
                self._unanswered = None
                return answer
            except KafkaException as error:
                log.info("asked again in a rebalance", error=error.args[0].name())
                self._unanswered = error
            if "AUTHORIZATION" in self._unanswered.args[0].name():
                return None
            if self._wait(seconds):
                self._unanswered = None
                return None
        return None

    def answered(self) -> None:
        """Raises what `insist` could not."""
        if self._unanswered is not None:
            raise self._unanswered

    def close(self) -> None:
        """Let go of the client."""
        self._client.close()
