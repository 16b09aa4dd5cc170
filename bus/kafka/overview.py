"""What a cluster holds: the bus's topics and its consumers' lag; the embedded one or a district's.

Both are asked of Kafka itself, so every consumer is seen, also one that this project did not write.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaException,
    TopicPartition,
)
from confluent_kafka import KafkaError as Error
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    OffsetSpec,
)

from bus.errors import RetryLater, Stop
from bus.kafka.client import client_settings
from bus.settings import Settings

Place = tuple[str, int]
"""A topic's partition."""

SECONDS = 20.0
NEAR = 200
"""A distance of up to this many offsets is counted record by record."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic; `records` is from its first to its last offset, so it counts what compaction has
    taken away since and a marker for each transaction as well."""

    partitions: int
    records: int


@dataclass(frozen=True, slots=True)
class Overview:
    """The topics under the bus's prefix, and for each group that reads them how many records it has
    not yet committed."""

    topics: dict[str, TopicState]
    lag: dict[str, int]


def overview(settings: Settings) -> Overview:
    """Ask the cluster. Raises `RetryLater` when it does not answer, `Stop` when none is up."""
    config = client_settings(settings)
    # A group is asked for by librdkafka; nothing is joined or committed.
    reading = config | {"group.id": f"{settings.topic_prefix}.reader"}
    try:
        admin = AdminClient(config)
        places = _places(admin, settings.topic_prefix)
        first = _offsets(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        end = _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        partitions = Counter(topic for topic, _ in places)
        records: Counter[str] = Counter()
        for place in places:
            records[place[0]] += end[place] - first[place]
        committed = _committed(admin)
        lag = {}
        for group, offsets in sorted(committed.items()):
            if spans := _spans(offsets, first, end):
                lag[group] = _count(reading, spans)
    except KafkaException as error:
        refused_setting(error)
        raise RetryLater(
            f"Kafka does not answer ({error.args[0].name()}): is it up, and may this user describe "
            "topics and groups? `bus doctor` says more"
        ) from None
    topics = {name: TopicState(partitions[name], records[name]) for name in sorted(partitions)}
    return Overview(topics, lag)


def refused_setting(error: KafkaException) -> None:
    """Raises `Stop` when it is the client library that takes no part of the settings."""
    if error.args[0].code() == Error._INVALID_ARG:
        raise Stop(
            f"the Kafka client refuses its settings ({error.args[0].str()}): correct [kafka], or "
            "[kafka] client, in bus.toml"
        ) from None


def _places(admin: AdminClient, prefix: str) -> list[Place]:
    there = admin.list_topics(timeout=SECONDS).topics
    return [
        (name, partition)
        for name, topic in there.items()
        if name.startswith(f"{prefix}.")
        for partition in topic.partitions
    ]


def _offsets(admin: AdminClient, places: Iterable[Place], spec: OffsetSpec) -> dict[Place, int]:
    asked = {TopicPartition(*place): spec for place in places}
    if not asked:
        return {}
    answers = admin.list_offsets(
        asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=SECONDS
    )
    return {(at.topic, at.partition): future.result().offset for at, future in answers.items()}


def _committed(admin: AdminClient) -> dict[str, dict[Place, int]]:
    """For each group the offsets that it has committed."""
    groups = admin.list_consumer_groups(request_timeout=SECONDS).result().valid
    asked = [
        admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group.group_id)], request_timeout=SECONDS
        )
        for group in groups
    ]
    return {
        group: {
            (at.topic, at.partition): at.offset
            for at in future.result().topic_partitions
            if at.offset >= 0
        }
        for answer in asked
        for group, future in answer.items()
    }


def _spans(
    committed: dict[Place, int], first: dict[Place, int], end: dict[Place, int]
) -> dict[Place, tuple[int, int]]:
    """What a group has before it: from, to. A partition of a topic that it reads and in which it
    has committed nothing yet counts from its start; so does one whose topic was made anew since,
    as the group stands beyond its end."""
    topics = {topic for topic, _ in committed}
    spans = {}
    for place, to in end.items():
        if place[0] in topics:
            at = committed.get(place, 0)
            spans[place] = (first[place] if at > to else max(at, first[place]), to)
    return spans


def _count(config: dict[str, object], spans: dict[Place, tuple[int, int]]) -> int:
    """How many records lie in these spans.

    A transaction leaves a marker with an offset of its own, so a group that has read everything
    may stand an offset or two before the end. What is near the end is therefore read and counted.
    """
    far = sum(to - at for at, to in spans.values() if to - at > NEAR)
    near = {place: span for place, span in spans.items() if 0 < span[1] - span[0] <= NEAR}
    return far + (_read(config, near) if near else 0)


def _read(config: dict[str, object], spans: dict[Place, tuple[int, int]]) -> int:
    reader = Consumer(
        config
        | {
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    found, left = 0, set(spans)
    try:
        reader.assign([TopicPartition(*place, at) for place, (at, _) in spans.items()])
        until = time.monotonic() + SECONDS
        while left:
            if time.monotonic() > until:
                raise KafkaException(Error(Error._TIMED_OUT))
            for message in reader.consume(1000, timeout=0.1):
                place = (message.topic() or "", message.partition() or 0)
                error = message.error()
                if error and error.code() != Error._PARTITION_EOF:
                    raise KafkaException(error)
                if error or (message.offset() or 0) >= spans[place][1]:
                    left.discard(place)
                else:
                    found += 1
    finally:
        reader.close()
    return found
