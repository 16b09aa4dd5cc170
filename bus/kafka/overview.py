"""An overview of a cluster: the bus's topics and the lag of each consumer group.

It works for the embedded bus and for a district's cluster. Kafka itself supplies all numbers, so
the overview includes consumers that are not part of this project.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    OffsetSpec,
)
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka import late_groups, topics
from bus.kafka.client import client_settings
from bus.kafka.reachability import refused_setting
from bus.kafka.reader import Reader
from bus.settings import Settings

Answer = TypeVar("Answer")

SECONDS = 20.0
SILENT = (
    "Kafka does not answer ({}); check that it is running, and that this user may describe topics "
    "and groups. `bus doctor` gives details"
)
SHORT_SPAN = 200
"""If a group is at most this many offsets behind in a partition, its records there are counted one
by one."""
LEADER_CHANGES = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
"""Kafka answers with these for a moment after a broker has started."""
LEADER_SECONDS = 10.0
COUNTED = 20_000
"""If a topic has at most this many offsets, its records are counted one by one."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """The number of partitions and records of a topic.

    exact: whether the records were counted one by one. For a longer topic, `records` is the
           distance from its first to its last offset. That is an upper bound, because transaction
           markers and compacted records take up offsets too.
    """

    partitions: int
    records: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """The topics under the bus's prefix, and the groups that read them.

    topics: the state of each topic.
    lag:    how many records each group has not committed yet.
    """

    topics: dict[str, TopicState]
    lag: dict[str, int]


def overview(settings: Settings, counted: int = COUNTED) -> Overview:
    """Ask the cluster for its topics and the lag of each consumer group.

    Raises `RetryLater` if Kafka does not answer, and `Stop` if the embedded bus is not running or
    the Kafka client rejects its settings.

    counted: if a topic has at most this many offsets, its records are counted one by one.
    """
    return _answered(_overview, settings, counted)


def _answered(ask: Callable[..., Answer], *arguments: Any) -> Answer:
    """Return Kafka's answer. Raises what `overview` raises."""
    retrying = Retrying(
        retry=retry_if_exception(_is_leader_change),
        wait=wait_fixed(0.2),
        stop=stop_after_delay(LEADER_SECONDS),
        reraise=True,
    )
    try:
        return retrying(ask, *arguments)
    except KafkaException as error:
        refused_setting(error)
        raise RetryLater(SILENT.format(error.args[0].name())) from None


def _overview(settings: Settings, counted: int) -> Overview:
    admin = AdminClient(client_settings(settings))  # a new client has no old leaders in its cache
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
        if ahead := _spans({_place(part): part.offset for part in at}, first, end):
            lag[group] = _count(settings, ahead)
    topics = {
        name: TopicState(number, (records if name in short else offsets)[name], name in short)
        for name, number in sorted(partitions.items())
    }
    return Overview(topics, lag)


def _is_leader_change(error: BaseException) -> bool:
    """Return whether a partition has no leader, or another one than the client knows."""
    return isinstance(error, KafkaException) and error.args[0].code() in LEADER_CHANGES


def reading_groups(settings: Settings) -> dict[str, frozenset[str]]:
    """Return the consumer groups that have committed an offset in any topic.

    Each group comes with the vendors' topics in which it may have missed a deletion
    (`bus.kafka.late_groups`). Asks for all topics together.

    Raises `RetryLater` if Kafka does not answer.
    """
    return _answered(_reading_groups, settings)


def _reading_groups(settings: Settings) -> dict[str, frozenset[str]]:
    admin = AdminClient(client_settings(settings))
    committed = {group: parts for group, parts in _committed(admin).items() if parts}
    read = {_place(part) for parts in committed.values() for part in parts}
    places = [
        place
        for place in _places(admin, settings.topic_prefix)
        if place in read and topics.is_vendor_topic(settings, place.topic)
    ]
    oldest = late_groups.oldest_deletion()
    # The end first: a message that comes between the requests must not count as an old one.
    end = _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    since = _offsets(admin, places, OffsetSpec.for_timestamp(oldest))
    first = {place: at if at >= 0 else end[place] for place, at in since.items()}
    return {
        group: frozenset(place.topic for place in late_groups.late(parts, first, oldest))
        for group, parts in committed.items()
    }


def _places(admin: AdminClient, prefix: str) -> list[Position]:
    existing = admin.list_topics(timeout=SECONDS).topics
    return [
        Position(name, partition)
        for name, topic in existing.items()
        if name.startswith(f"{prefix}.")
        for partition in topic.partitions
    ]


def _offsets(
    admin: AdminClient, places: Iterable[Position], spec: OffsetSpec
) -> dict[Position, int]:
    requested = {TopicPartition(*place): spec for place in places}
    if not requested:
        return {}
    answers = admin.list_offsets(
        requested, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=SECONDS
    )
    return {
        Position(at.topic, at.partition): future.result().offset for at, future in answers.items()
    }


def _place(part: TopicPartition) -> Position:
    return Position(part.topic, part.partition)


def _committed(admin: AdminClient) -> dict[str, list[TopicPartition]]:
    """Return the offsets that each group has committed, with their metadata."""
    groups = admin.list_consumer_groups(request_timeout=SECONDS).result().valid
    requested = [
        admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group.group_id)], request_timeout=SECONDS
        )
        for group in groups
    ]
    return {
        group: [at for at in future.result().topic_partitions if at.offset >= 0]
        for answer in requested
        for group, future in answer.items()
    }


def _spans(
    committed: dict[Position, int], first: dict[Position, int], end: dict[Position, int]
) -> dict[Position, tuple[int, int]]:
    """Return what a group has not read yet: for each partition, the offsets from and to.

    A partition counts from its start if the group reads the topic but has committed nothing in this
    partition. So does a partition of a topic that was deleted and created again: there the
    committed offset lies beyond the end.
    """
    topics = {place.topic for place in committed}
    spans = {}
    for place, to in end.items():
        if place.topic in topics:
            at = committed.get(place, 0)
            spans[place] = (first[place] if at > to else max(at, first[place]), to)
    return spans


def _count(settings: Settings, spans: dict[Position, tuple[int, int]]) -> int:
    """Return how many records lie in these spans.

    A transaction marker takes up an offset. The committed offset of a group that has read
    everything can therefore be one or two offsets before the end. For this reason, short spans are
    read and counted.
    """
    far = sum(to - at for at, to in spans.values() if to - at > SHORT_SPAN)
    near = {place: span for place, span in spans.items() if 0 < span[1] - span[0] <= SHORT_SPAN}
    return far + _read(settings, near).total()


def _read(settings: Settings, spans: dict[Position, tuple[int, int]]) -> Counter[str]:
    """Read these spans, and return how many records of each topic lie in them."""
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
