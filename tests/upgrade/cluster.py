"""Read what a Kafka cluster holds through Kafka's client alone, without code of the bus."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple, cast

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

PREFIX = "schoolbus."
SECONDS = 30.0

Offsets = dict[str, int]
"""Offsets by `topic/partition`."""


class Message(NamedTuple):
    """A committed message; `place` is `topic/partition`."""

    place: str
    offset: int
    key: str
    value: bytes
    headers: dict[str, str]

    @property
    def topic(self) -> str:
        return self.place.partition("/")[0]


class Cluster:
    """The Kafka cluster at an address."""

    def __init__(self, bootstrap: str) -> None:
        self._config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": bootstrap,
            "log_level": 0,
        }
        self._admin = AdminClient(self._config)

    # A partition may have no leader yet in the first moments after Kafka's start.
    @retry(
        retry=retry_if_exception_type(KafkaException),
        stop=stop_after_delay(SECONDS),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    def ends(self) -> Offsets:
        """Return the end of each partition of the bus."""
        consumer = self._reader()
        try:
            return {
                f"{name}/{number}": consumer.get_watermark_offsets(
                    TopicPartition(name, number), timeout=SECONDS
                )[1]
                for name, topic in sorted(consumer.list_topics(timeout=SECONDS).topics.items())
                if name.startswith(PREFIX)
                for number in topic.partitions
            }
        finally:
            consumer.close()

    def committed(self) -> dict[str, Offsets]:
        """Return the committed offsets of each group."""
        groups = self._admin.list_consumer_groups(request_timeout=SECONDS).result().valid
        found = {}
        for group in sorted(one.group_id for one in groups):
            asked = [ConsumerGroupTopicPartitions(group)]
            (answer,) = self._admin.list_consumer_group_offsets(asked).values()
            offsets = {
                f"{at.topic}/{at.partition}": at.offset
                for at in answer.result().topic_partitions
                if at.offset >= 0
            }
            if offsets:
                found[group] = dict(sorted(offsets.items()))
        return found

    def messages(self, topics: Iterable[str], start: Offsets | None = None) -> list[Message]:
        """Return all committed messages of these topics, or those from these offsets on."""
        wanted = set(topics)
        left = {at for at, end in self.ends().items() if at.partition("/")[0] in wanted and end}
        consumer = self._reader()
        found = []
        try:
            consumer.assign([_position(at, (start or {}).get(at, 0)) for at in left])
            until = time.monotonic() + SECONDS
            while left:
                assert time.monotonic() < until, f"Kafka does not give the end of {left}"
                for message in consumer.consume(1_000, timeout=0.2):
                    place = f"{message.topic()}/{message.partition()}"
                    if message.error():
                        left.discard(place)
                        continue
                    listed = cast("list[tuple[str, bytes | None]]", message.headers() or [])
                    headers = {name: (value or b"").decode() for name, value in listed}
                    key, value = bytes(message.key() or b"").decode(), bytes(message.value() or b"")
                    found.append(Message(place, message.offset() or 0, key, value, headers))
        finally:
            consumer.close()
        return sorted(found, key=lambda one: (one.place, one.offset))

    def keep_for_ever(self) -> None:
        """Keep Kafka from deleting or compacting anything, however old the data becomes."""
        never = {"retention.ms": "-1", "min.compaction.lag.ms": str(2**62)}
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in never.items()
        ]
        topics = list(self._admin.list_topics(timeout=SECONDS).topics)
        resources = [
            ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
            for name in topics
            if name.startswith(PREFIX)
        ]
        for future in self._admin.incremental_alter_configs(resources).values():
            future.result()

    def _reader(self) -> Consumer:
        return Consumer(
            self._config
            | {
                "group.id": f"{PREFIX}upgrade-test",  # librdkafka requires one; it is never used
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
            }
        )


def _position(place: str, offset: int) -> TopicPartition:
    topic, _, number = place.partition("/")
    return TopicPartition(topic, int(number), offset)
