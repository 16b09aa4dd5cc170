"""Resolves which part of the topics is replayed: a first and a last offset for each partition."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    ResourceType,
)

from bus.delivery import Position
from bus.errors import RetryLater, Stop
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.reader import Reader
from bus.settings import Settings
from bus.standard import KINDS

BEGINNING, NOW = "beginning", "now"
OFFSETS = re.compile(r"([A-Za-z]+)/(\d+)=(\d+)")
FORMS = "a time (2026-03-01, 2026-03-01T07:00:00-06:00), offsets (student/0=120,student/1=98)"
SECONDS = 30.0
SILENT = "could not read offsets: Kafka says {}; try again when it is up"


@dataclass(frozen=True, slots=True)
class Window:
    """For each partition, the first offset and the one before which to end. None is empty."""

    start: Mapping[Position, int]
    stop: Mapping[Position, int]

    def __len__(self) -> int:
        return sum(self.stop[place] - self.start[place] for place in self.start)

    def after(self, done: Mapping[Position, int]) -> Window:
        """Return what is left of the window when these offsets have been reached."""
        start = {p: max(at, done.get(p, 0)) for p, at in self.start.items()}
        return Window(
            {p: at for p, at in start.items() if at < self.stop[p]},
            {p: at for p, at in self.stop.items() if start[p] < at},
        )


@dataclass(frozen=True, slots=True)
class Completeness:
    """Whether the topics still have every change of a window.

    compacted: kinds that may have lost changes from before `since` (UTC). Of that time, only the
               newest state of each record is sure to be left.
    deleted:   kinds of which Kafka has deleted messages that the window may have had.
    oldest:    of these kinds, the time (UTC) from which on all messages are left; None if none is.
    """

    compacted: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    since: datetime | None = None
    oldest: datetime | None = None

    @property
    def complete(self) -> bool:
        """Whether every change is still there."""
        return not (self.compacted or self.deleted)


def moment(text: str) -> datetime | None:
    """Parse an ISO 8601 time and return it in UTC, or None if the text is no time.

    A time without a zone is UTC.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def resolve(
    settings: Settings,
    kinds: Collection[str],
    since: str = BEGINNING,
    until: str = NOW,
    owners: Collection[str] = (),
) -> Window:
    """Return the window for these kinds.

    since, until: "beginning" or "now", a time, or offsets: `student/0=120,student/1=98`. With
                  offsets, the window has only the partitions that they name. A time is compared
                  with Kafka's timestamp of each message. `until` itself is not in the window.
    owners:       ids of owners, such as students. If there are any, the window has only their
                  partitions.

    Raises `Stop` for a text that is none of these, `RetryLater` when Kafka does not answer.
    """
    names = [topics.topic(settings, kind) for kind in KINDS if kind in kinds]
    with Reader(settings, SILENT, seconds=SECONDS) as reader:
        places = reader.places(names)
        numbers = Counter(place.topic for place in places)
        if owners:
            places = [p for p in places if p.partition in _parts(owners, numbers[p.topic])]
        marks = reader.marks(places)

        def edge(text: str, option: str, side: int) -> dict[Position, int]:
            if text == (BEGINNING, NOW)[side]:
                return {place: mark[side] for place, mark in marks.items()}
            if named := _offsets(settings, text):
                return {place: at for place, at in named.items() if place in marks}
            if (at := moment(text)) is None:
                raise Stop(
                    f"{option} {text!r} is not {FORMS} or {(BEGINNING, NOW)[side]!r}; correct it"
                )
            found = reader.since(places, int(at.timestamp() * 1000))
            return {p: offset if offset >= 0 else marks[p][1] for p, offset in found.items()}

        first, last = edge(since, "--from", 0), edge(until, "--to", 1)
    start, stop = {}, {}
    for place in first.keys() & last.keys():
        low, high = marks[place]
        begin, end = max(first[place], low), min(last[place], high)
        if begin < end:
            start[place], stop[place] = begin, end
    order = [place for place in places if place in start]
    return Window({p: start[p] for p in order}, {p: stop[p] for p in order})


def _parts(owners: Collection[str], number: int) -> set[int]:
    return {topics.partition_for(owner, number) for owner in owners}


def _offsets(settings: Settings, text: str) -> dict[Position, int]:
    found = {}
    for part in text.split(","):
        if (match := OFFSETS.fullmatch(part.strip())) is None or match[1] not in KINDS:
            return {}
        found[Position(topics.topic(settings, match[1]), int(match[2]))] = int(match[3])
    return found


def completeness(
    settings: Settings, window: Window, since: str, kinds: Collection[str] = ()
) -> Completeness:
    """Return whether the topics still have every change of a window.

    Kafka compacts what is older than `min.compaction.lag.ms`, and deletes what is older than
    `retention.ms` (Kafka, "Topic Configs"). It does so at a time of its choice, so what it may have
    compacted counts as compacted.

    since: where the window begins, as a person gave it: see `resolve`.
    kinds: the selected kinds. Kafka may have deleted all messages of one, so that the window has
           none of its partitions.

    Raises `RetryLater` when Kafka does not answer, or does not show the settings of the topics.
    """
    names = {place.topic for place in window.start}
    names |= {topics.topic(settings, kind) for kind in kinds}
    how = _configs(settings, sorted(names))
    compacted, deleted = [], []
    edge: datetime | None = None
    oldest: list[datetime] = []
    for name in sorted(names):
        kind = topics.kind_of(settings, name) or name
        config = how[name]
        if "compact" in config["cleanup.policy"]:
            lag = int(config["min.compaction.lag.ms"])
            # A lag may be longer than the time since 1970, when nothing is to be compacted.
            limit = datetime.fromtimestamp(
                max(0.0, datetime.now(UTC).timestamp() - lag / 1000), UTC
            )
            first = {place: at for place, at in window.start.items() if place.topic == name}
            times = _first_times(settings, first)
            if times and min(times.values()) < limit:
                compacted.append(kind)
                edge = limit
        cut = _cut(settings, name, window, since, config)
        if cut:
            deleted.append(kind)
            oldest += [time for time in cut.values() if time is not None]
    return Completeness(tuple(compacted), tuple(deleted), edge, max(oldest, default=None))


def _configs(settings: Settings, names: Collection[str]) -> dict[str, dict[str, str]]:
    admin = AdminClient(client_settings(settings))
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    try:
        found = admin.describe_configs(asked, request_timeout=SECONDS) if asked else {}
        return {
            resource.name: {entry.name: entry.value for entry in future.result().values()}
            for resource, future in found.items()
        }
    except KafkaException as error:
        raise RetryLater(
            f"could not read the retention of the topics: Kafka says {error.args[0].name()}; give "
            "this user the ACL DESCRIBE_CONFIGS on them"
        ) from None


def _first_times(settings: Settings, starts: Mapping[Position, int]) -> dict[Position, datetime]:
    """Return Kafka's time of the first message at or after an offset of each partition, if any."""
    left = dict(starts)
    times = {}
    with Reader(settings, SILENT) as reader:
        reader.assign(left)
        while left:
            messages, ended = reader.take(100)
            for message in messages:
                place = Position(message.topic() or "", message.partition() or 0)
                if left.pop(place, None) is not None:
                    times[place] = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
            for place, _ in ended:
                left.pop(place, None)
    return times


def _cut(
    settings: Settings, name: str, window: Window, since: str, config: Mapping[str, str]
) -> dict[Position, datetime | None]:
    """Return the partitions of a topic of which Kafka has deleted a part of the window.

    With each comes the time of its first message that is left, or None if none is left. When Kafka
    deletes messages, the first offset of the partition rises. Compaction leaves that offset.
    """
    with Reader(settings, SILENT, seconds=SECONDS) as reader:
        marks = reader.marks(reader.places([name]))
    lows = {place: low for place, (low, _) in marks.items() if low}
    times = _first_times(settings, lows) if lows else {}
    named, at = _offsets(settings, since), moment(since)

    def is_cut(place: Position, low: int) -> bool:
        if window.start.get(place, low) < low:  # deleted since the window was resolved
            return True
        if named:
            return named.get(place, low) < low
        return at is None or at < times.get(place, _retained_since(config))

    return {place: times.get(place) for place, low in lows.items() if is_cut(place, low)}


def _retained_since(config: Mapping[str, str]) -> datetime:
    """Return the time since which a topic keeps its messages for sure, by its settings."""
    kept = int(config.get("retention.ms", 0)) if "delete" in config["cleanup.policy"] else 0
    now = datetime.now(UTC).timestamp()
    return datetime.fromtimestamp(max(0.0, now - kept / 1000) if kept >= 0 else 0.0, UTC)
