"""What a cluster holds: the bus's topics and its consumers' lag; the embedded one or a district's.

Both are asked of Kafka itself, so every consumer is seen, also one that this project did not write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    OffsetSpec,
)

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka.client import client_settings
from bus.kafka.reachability import refused_setting
from bus.kafka.reader import Reader
from bus.settings import Settings

SECONDS = 20.0
SILENT = (
    "Kafka does not answer ({}): is it up, and may this user describe topics and groups? "
    "`bus doctor` says more"
)
NEAR = 200
"""A distance of up to this many offsets is counted record by record."""
COUNTED = 20_000
"""A topic with up to this many offsets is counted record by record."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic: its partitions and how many records it has.

    exact: whether the records were counted. Of a long topic `records` is the distance from its
           first to its last offset: as many at most, as a marker for each transaction and what
           compaction has taken away have offsets too.
    """

    partitions: int
    records: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """The topics under the bus's prefix, and for each group that reads them how many records it has
    not yet committed."""

    topics: dict[str, TopicState]
    lag: dict[str, int]


def overview(settings: Settings, counted: int = COUNTED) -> Overview:
    """Ask the cluster. Raises `RetryLater` when it does not answer, `Stop` when none is up.

    counted: a topic with up to this many offsets is counted record by record.
    """
    config = client_settings(settings)
    try:
        admin = AdminClient(config)
        places = _places(admin, settings.topic_prefix)
        first = _offsets(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        end = _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        partitions = Counter(place.topic for place in places)
        offsets: Counter[str] = Counter()
        for place in places:
            offsets[place.topic] += end[place] - first[place]
        short = {name for name in partitions if offsets[name] <= counted}
        spans = {p: (first[p], end[p]) for p in places if p.topic in short and first[p] < end[p]}
        records = _read(settings, spans)
        committed = _committed(admin)
        lag = {}
        for group, at in sorted(committed.items()):
            if ahead := _spans(at, first, end):
                lag[group] = _count(settings, ahead)
    except KafkaException as error:
        refused_setting(error)
        raise RetryLater(SILENT.format(error.args[0].name())) from None
    topics = {
        name: TopicState(number, (records if name in short else offsets)[name], name in short)
        for name, number in sorted(partitions.items())
    }
    return Overview(topics, lag)


def _places(admin: AdminClient, prefix: str) -> list[Position]:
    there = admin.list_topics(timeout=SECONDS).topics
    return [
        Position(name, partition)
        for name, topic in there.items()
        if name.startswith(f"{prefix}.")
        for partition in topic.partitions
    ]


def _offsets(
    admin: AdminClient, places: Iterable[Position], spec: OffsetSpec
) -> dict[Position, int]:
    asked = {TopicPartition(*place): spec for place in places}
    if not asked:
        return {}
    answers = admin.list_offsets(
        asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=SECONDS
    )
    return {
        Position(at.topic, at.partition): future.result().offset for at, future in answers.items()
    }


def _committed(admin: AdminClient) -> dict[str, dict[Position, int]]:
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
            Position(at.topic, at.partition): at.offset
            for at in future.result().topic_partitions
            if at.offset >= 0
        }
        for answer in asked
        for group, future in answer.items()
    }


def _spans(
    committed: dict[Position, int], first: dict[Position, int], end: dict[Position, int]
) -> dict[Position, tuple[int, int]]:
    """What a group has before it: from, to. A partition of a topic that it reads and in which it
    has committed nothing yet counts from its start; so does one whose topic was made anew since,
    as the group stands beyond its end."""
    topics = {place.topic for place in committed}
    spans = {}
    for place, to in end.items():
        if place.topic in topics:
            at = committed.get(place, 0)
            spans[place] = (first[place] if at > to else max(at, first[place]), to)
    return spans


def _count(settings: Settings, spans: dict[Position, tuple[int, int]]) -> int:
    """How many records lie in these spans.

    A transaction leaves a marker with an offset of its own, so a group that has read everything
    may stand an offset or two before the end. What is near the end is therefore read and counted.
    """
    far = sum(to - at for at, to in spans.values() if to - at > NEAR)
    near = {place: span for place, span in spans.items() if 0 < span[1] - span[0] <= NEAR}
    return far + _read(settings, near).total()


def _read(settings: Settings, spans: dict[Position, tuple[int, int]]) -> Counter[str]:
    """How many records of each topic lie in these spans."""
    if not spans:
        return Counter()
    start = {place: at for place, (at, _) in spans.items()}
    stop = {place: to for place, (_, to) in spans.items()}
    with Reader(settings, SILENT) as reader:
        return Counter(
            message.topic() or ""
            for batch in reader.batches(start, stop, silence=SECONDS)
            for message in batch
        )
