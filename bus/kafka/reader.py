"""Reads partitions outside any group, to their end as it is when it is told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Error

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka.client import client_settings
from bus.settings import Settings

if TYPE_CHECKING:
    from types import TracebackType

    from confluent_kafka import Message

AT_ONCE = 10_000
"""How many messages are taken at once."""
NEAR = 5_000
"""Single messages that are so near to each other are read at one go, with what lies between."""
PATIENCE = 1.0
"""For how many seconds one look waits for something to come."""
SILENCE = 60.0
"""After so many seconds in which nothing comes Kafka has gone away."""
NO_LIMIT = 1 << 63

Key = tuple[str | None, int | None]
"""A `Position` as a message tells it. A plain tuple is as good a key and is made faster."""


class Reader:
    """A consumer of committed data that is in no group and commits nothing. Not for several
    threads.

    failure: what `RetryLater` says when Kafka fails, which any method may raise; `{}` in it stands
             for the name that Kafka gives to the failure.
    more:    settings of librdkafka's besides.
    seconds: how long Kafka may take to answer a question.
    reached: for each partition that `batches` has read to its end where that end was.
    """

    def __init__(
        self,
        settings: Settings,
        failure: str,
        more: Mapping[str, Any] | None = None,
        *,
        seconds: float = 15.0,
    ) -> None:
        self._failure = failure
        self._seconds = seconds
        self._error: Error | None = None  # not raised yet
        self.reached: dict[Position, int] = {}
        self._consumer = Consumer(
            client_settings(settings)
            | {
                "group.id": f"{settings.topic_prefix}.reader",  # librdkafka wants one; never used
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                # The end of a partition is told with an answer; an empty one is held back so long.
                "fetch.wait.max.ms": 20,
                # A full queue is looked at again so soon; with librdkafka's own, a second, it is
                # empty long before.
                "fetch.queue.backoff.ms": 20,
                **(more or {}),
            }
        )

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the client."""
        self._consumer.close()

    # ---- what is there -------------------------------------------------------------------------

    def cluster(self) -> str:
        """The cluster's id."""
        with self._explained():
            return self._consumer.list_topics(timeout=self._seconds).cluster_id or ""

    def places(self, names: Collection[str]) -> list[Position]:
        """The partitions of these topics, of those that are there."""
        with self._explained():
            if len(names) == 1:
                there = self._consumer.list_topics(next(iter(names)), timeout=self._seconds).topics
            else:
                there = self._consumer.list_topics(timeout=self._seconds).topics
        return [
            Position(name, number)
            for name in names
            if name in there
            for number in there[name].partitions
        ]

    def marks(self, places: Iterable[Position]) -> dict[Position, tuple[int, int]]:
        """For each partition the first offset that it still has, and the one after its last."""
        marks = {}
        with self._explained():
            for place in places:
                low, high = self._consumer.get_watermark_offsets(
                    TopicPartition(*place), timeout=self._seconds
                )
                marks[place] = low, high
        return marks

    def ends(self, names: Collection[str]) -> dict[Position, int]:
        """Where each partition of these topics ends now."""
        return {place: high for place, (_, high) in self.marks(self.places(names)).items()}

    def since(self, places: Iterable[Position], milliseconds: int) -> dict[Position, int]:
        """For each partition the first offset of that time (POSIX, Kafka's own of each message) or
        later; below 0, which stands for the end, where there is none."""
        asked = [TopicPartition(*place, milliseconds) for place in places]
        with self._explained():
            found = self._consumer.offsets_for_times(asked, timeout=self._seconds) if asked else []
        return {Position(p.topic, p.partition): p.offset for p in found}

    # ---- reading -------------------------------------------------------------------------------

    def assign(self, start: Mapping[Position, int]) -> None:
        """Read these partitions, each from its offset on, and no others."""
        with self._explained():
            self._consumer.assign(_partitions(start))

    def add(self, start: Mapping[Position, int]) -> None:
        """Read these partitions as well, each from its offset on."""
        with self._explained():
            self._consumer.incremental_assign(_partitions(start))

    def drop(self, places: Iterable[Position]) -> None:
        """Read these partitions no longer."""
        with self._explained():
            self._consumer.incremental_unassign([TopicPartition(*place) for place in places])

    def take(
        self, at_most: int = AT_ONCE, patience: float = PATIENCE
    ) -> tuple[list[Message], list[tuple[Position, int]]]:
        """What has been fetched by now, as soon as there is anything: the records, and the
        partitions that have come to their end, each with that end. Neither after `patience` seconds
        in which nothing came.

        An error that comes among records is raised by the next call, so that no record is lost to
        who goes on after it.
        """
        error, self._error = self._error, None
        if error is None:
            with self._explained():
                records, ended, error = sift(some(self._consumer, at_most, patience))
            if error is None:
                return records, ended
            if records or ended:
                self._error = error
                return records, ended
        raise self._failed(error)

    def batches(
        self,
        start: Mapping[Position, int],
        stop: Mapping[Position, int] | None = None,
        *,
        at_once: int = AT_ONCE,
        silence: float | None = None,
    ) -> Iterator[list[Message]]:
        """The records of these partitions, some at a time, each partition's in order.

        start:   for each partition that is meant the offset to begin with.
        stop:    for each of them the offset before which to end; without it, and where a partition
                 ends before, it is read to its end.
        silence: after so many seconds in which nothing came Kafka has failed.
        """
        left: set[Key] = set(start)
        limits: dict[Key, int] = {(p.topic, p.partition): at for p, at in (stop or {}).items()}
        quiet = 0.0
        self.reached = {}
        if left:
            self.assign(start)
        while left:
            records, ended = self.take(at_once)
            if not records and not ended:
                quiet += PATIENCE
                if silence is not None and quiet >= silence:
                    raise self._failed(Error(Error._TIMED_OUT))
                continue
            quiet = 0.0
            for place, end in ended:
                if place in left:  # what comes after the end as it was told first is not read
                    left.discard(place)
                    self.reached[place] = limits[place] = min(end, limits.get(place, end))
            # As long as nothing limits them there is no need to look at each one.
            if found := _within(records, limits, left) if limits else records:
                yield found

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            raise self._failed(error.args[0]) from None

    def _failed(self, error: Error) -> RetryLater:
        return RetryLater(self._failure.format(error.name()))


def scan(
    settings: Settings,
    topic: str,
    *,
    start: Mapping[int, int] | None = None,
    stop: Mapping[int, int] | None = None,
    at_once: int = AT_ONCE,
    silence: float = SILENCE,
) -> Iterator[Message]:
    """The messages of a topic, partition by partition in order; nothing for one that is not there.

    Raises `RetryLater` when Kafka fails, or says nothing for `silence` seconds.

    start, stop: for some partitions, the first offset and the one before which to end; a partition
                 that `stop` does not name is read to its end, or not at all where `stop` is given.
    """
    with Reader(settings, _could_not_read(topic)) as reader:
        places = reader.places([topic])
        last = None
        if stop is not None:
            places = [place for place in places if stop.get(place.partition, 0) > 0]
            last = {place: stop[place.partition] for place in places}
        first = {place: (start or {}).get(place.partition, 0) for place in places}
        for batch in reader.batches(first, last, at_once=at_once, silence=silence):
            yield from batch


def passages(
    settings: Settings,
    start: Mapping[Position, int],
    stop: Mapping[Position, int],
    *,
    silence: float = SILENCE,
) -> Iterator[Message]:
    """The messages of some partitions, of any topics, each partition's in order.

    Raises `RetryLater` when Kafka fails, or says nothing for `silence` seconds.

    start, stop: the offset to begin with, 0 for a partition that it does not name, and the one
                 before which to end, for each partition that is meant.
    """
    names = ", ".join(sorted({place.topic for place in stop}))
    with Reader(settings, _could_not_read(names)) as reader:
        first = {place: start.get(place, 0) for place, end in stop.items() if end > 0}
        for batch in reader.batches(first, stop, silence=silence):
            yield from batch


def messages_at(
    settings: Settings, wanted: Mapping[Position, Iterable[int]]
) -> dict[tuple[Position, int], Message]:
    """Single messages by partition and offset, of those that are still there.

    Those that lie near to each other are read at one go. Raises `RetryLater`.
    """
    found: dict[tuple[Position, int], Message] = {}
    names = ", ".join(sorted({place.topic for place in wanted}))
    with Reader(settings, _could_not_read(names)) as reader:
        for place, offsets in wanted.items():
            for run in _runs(sorted(set(offsets))):
                meant = set(run)
                for batch in reader.batches({place: run[0]}, {place: run[-1] + 1}):
                    for message in batch:
                        if (offset := message.offset()) in meant:
                            found[place, offset or 0] = message
    return found


def _runs(offsets: Sequence[int]) -> Iterator[list[int]]:
    """Ascending offsets, cut where it is faster to begin anew than to read on."""
    run: list[int] = []
    for offset in offsets:
        if run and offset - run[-1] > NEAR:
            yield run
            run = []
        run.append(offset)
    if run:
        yield run


def some(consumer: Consumer, at_most: int, patience: float = PATIENCE) -> list[Message]:
    """What has been fetched by now, as soon as there is anything; nothing after `patience` seconds.

    (`Consumer.consume` alone would wait for its timeout whenever there is less than asked for.)
    """
    first = consumer.poll(patience)
    if first is None:
        return []
    more: list[Any] = consumer.consume(at_most - 1, timeout=0)  # no part is None here
    return [first, *more]


def sift(
    messages: Sequence[Message],
) -> tuple[list[Message], list[tuple[Position, int]], Error | None]:
    """The records among what a consumer gives, the partitions that it says have come to their end,
    each with that end, and the first error that it says."""
    records = [message for message in messages if message.error() is None]
    ended = []
    wrong = None
    if len(records) < len(messages):
        for message in messages:
            if (error := message.error()) is None:
                continue
            if error.code() == Error._PARTITION_EOF:
                place = Position(message.topic() or "", message.partition() or 0)
                ended.append((place, message.offset() or 0))
            else:
                wrong = wrong or error
    return records, ended, wrong


def _within(
    messages: Iterable[Message], limits: Mapping[Key, int], left: set[Key]
) -> list[Message]:
    """Those before the limits of their partitions; a partition that has come to its limit is left
    no longer."""
    found = []
    for message in messages:
        place, offset = (message.topic(), message.partition()), message.offset() or 0
        limit = limits.get(place, NO_LIMIT)
        if offset < limit:
            found.append(message)
        if offset >= limit - 1:
            left.discard(place)
    return found


def _partitions(start: Mapping[Position, int]) -> list[TopicPartition]:
    return [TopicPartition(*place, at) for place, at in start.items()]


def _could_not_read(topic: str) -> str:
    return f"could not read topic {topic}: Kafka says {{}}; try again when it is up"
