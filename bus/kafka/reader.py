"""Reads partitions to their current end, outside any consumer group."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaException,
    TopicPartition,
)
from confluent_kafka import KafkaError as Error

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka.client import client_settings
from bus.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Message

AT_ONCE = 10_000
"""The largest number of messages in one batch."""
MAX_GAP = 5_000
"""Single messages at most this many offsets apart are read in one pass, with what lies between
them."""
PATIENCE = 1.0
"""Seconds that one call waits for messages."""
SILENCE = 60.0
"""Seconds without a message after which Kafka counts as unavailable."""
NO_LIMIT = 1 << 63

Key = tuple[str | None, int | None]
"""A `Position` as a message gives it. A plain tuple is an equal key, and faster to create."""


class Reader:
    """A consumer of committed data that joins no group and commits nothing.

    Use it from one thread only. Any method may raise `RetryLater` if Kafka fails.

    failure: the message of that `RetryLater`. `{}` in it is replaced by Kafka's name for the error.
    more:    additional librdkafka settings.
    seconds: how long Kafka may take to answer a request.
    reached: the end offset of each partition that `batches` has read to its end.
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
        self._error: Error | None = None  # for the next `take` to raise
        self._known: set[str] = set()  # topics of which the consumer knows the partitions' leaders
        self.reached: dict[Position, int] = {}
        self._consumer = Consumer(
            client_settings(settings)
            | {
                "group.id": f"{settings.topic_prefix}.reader",  # required by librdkafka; unused
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                # The broker reports the end of a partition in a response. It holds back an empty
                # response for this long.
                "fetch.wait.max.ms": 20,
                # librdkafka looks at a full queue again after this time. By default it waits for a
                # second, and the queue runs empty long before.
                "fetch.queue.backoff.ms": 20,
                **(more or {}),
            }
        )

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client."""
        self._consumer.close()

    # ---- topics and offsets --------------------------------------------------------------------

    def cluster(self) -> str:
        """Return the cluster's id."""
        with self._explained():
            return self._consumer.list_topics(timeout=self._seconds).cluster_id or ""

    def places(self, names: Collection[str]) -> list[Position]:
        """Return the partitions of these topics; a topic that does not exist has none."""
        with self._explained():
            if len(names) == 1:
                existing = self._consumer.list_topics(
                    next(iter(names)), timeout=self._seconds
                ).topics
            else:
                existing = self._consumer.list_topics(timeout=self._seconds).topics
        self._known.update(name for name in names if name in existing)
        return [
            Position(name, number)
            for name in names
            if name in existing
            for number in existing[name].partitions
        ]

    def marks(self, places: Iterable[Position]) -> dict[Position, tuple[int, int]]:
        """Return the first offset that each partition still has, and the one after its last."""
        asked = list(places)
        self._known.update(place.topic for place in asked)
        with self._explained():
            return marks_of(self._consumer, asked, self._seconds)

    def ends(self, names: Collection[str]) -> dict[Position, int]:
        """Return the end offset of each partition of these topics."""
        return self.since(self.places(names), OFFSET_END)

    def since(self, places: Iterable[Position], milliseconds: int) -> dict[Position, int]:
        """Return for each partition the first offset at this time or later.

        A negative offset means the end of the partition: no message is that new.

        milliseconds: POSIX time, compared with Kafka's timestamp of each message. For
                      `OFFSET_BEGINNING` and `OFFSET_END`, Kafka returns the first offset that a
                      partition still has, and the one after its last (Apache Kafka protocol,
                      "ListOffsets": -2 and -1).

        Asks each broker once, for all its partitions.
        """
        with self._explained():
            return _listed(self._consumer, list(places), milliseconds, self._seconds)

    # ---- reading -------------------------------------------------------------------------------

    def assign(self, start: Mapping[Position, int]) -> None:
        """Read these partitions, each from its offset, and no others."""
        self._learn(start)
        with self._explained():
            self._consumer.assign(_partitions(start))

    def add(self, start: Mapping[Position, int]) -> None:
        """Read these partitions as well, each from its offset."""
        self._learn(start)
        with self._explained():
            self._consumer.incremental_assign(_partitions(start))

    def _learn(self, places: Iterable[Position]) -> None:
        """Ask for the leaders of topics that are new here.

        A new consumer does so itself at once. Later it looks for new topics only once a second.
        """
        new = {place.topic for place in places} - self._known
        if new and self._known:
            self.places(new)
        self._known |= new

    def drop(self, places: Iterable[Position]) -> None:
        """Stop reading these partitions."""
        with self._explained():
            self._consumer.incremental_unassign([TopicPartition(*place) for place in places])

    def take(
        self, at_most: int = AT_ONCE, patience: float = PATIENCE
    ) -> tuple[list[Message], list[tuple[Position, int]]]:
        """Return the records that have been fetched, and the partitions that have ended.

        Each ended partition comes with its end offset. The call waits for at most `patience`
        seconds until there is something to return, and then returns two empty lists. The next call
        raises an error that arrives among records, so a caller that continues after the error loses
        no record.
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
        """Yield the records of these partitions in batches, in order within each partition.

        start:   the first offset to read, for each partition to read.
        stop:    the offset before which to stop, for each of these partitions. Without it, or if a
                 partition ends earlier, the partition is read to its end.
        silence: raise `RetryLater` after this many seconds in which nothing arrives. None: wait
                 forever.
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
                if place in left:  # only the first reported end counts: later messages are skipped
                    left.discard(place)
                    self.reached[place] = limits[place] = min(end, limits.get(place, end))
            # Without limits there is no need to look at each message.
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
    """Yield the messages of a topic, in order within each partition.

    Yields nothing if the topic does not exist. Raises `RetryLater` if Kafka fails, or sends nothing
    for `silence` seconds.

    start: the first offset to read, by partition; 0 if a partition is missing.
    stop:  the offset before which to stop, by partition; a missing partition is not read. Without
           `stop`, all partitions are read to their end.
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
    """Yield the messages of these partitions, of any topics, in order within each partition.

    Raises `RetryLater` if Kafka fails, or sends nothing for `silence` seconds.

    start: the first offset to read, by partition; 0 if a partition is missing.
    stop:  the offset before which to stop, for each partition to read.
    """
    names = ", ".join(sorted({place.topic for place in stop}))
    with Reader(settings, _could_not_read(names)) as reader:
        first = {place: start.get(place, 0) for place, end in stop.items() if end > 0}
        for batch in reader.batches(first, stop, silence=silence):
            yield from batch


def messages_at(
    settings: Settings, wanted: Mapping[Position, Iterable[int]]
) -> dict[tuple[Position, int], Message]:
    """Return single messages by partition and offset, if Kafka still has them.

    Messages that are near each other are read in one pass. Raises `RetryLater` if Kafka fails.
    """
    found: dict[tuple[Position, int], Message] = {}
    names = ", ".join(sorted({place.topic for place in wanted}))
    with Reader(settings, _could_not_read(names)) as reader:
        for place, offsets in wanted.items():
            for run in _runs(sorted(set(offsets))):
                wanted_offsets = set(run)
                stop = {place: run[-1] + 1}
                for batch in reader.batches({place: run[0]}, stop, silence=SILENCE):
                    for message in batch:
                        if (offset := message.offset()) in wanted_offsets:
                            found[place, offset or 0] = message
    return found


def _runs(offsets: Sequence[int]) -> Iterator[list[int]]:
    """Split ascending offsets where a new read is faster than reading on."""
    run: list[int] = []
    for offset in offsets:
        if run and offset - run[-1] > MAX_GAP:
            yield run
            run = []
        run.append(offset)
    if run:
        yield run


def marks_of(
    consumer: Consumer, places: Iterable[Position], seconds: float
) -> dict[Position, tuple[int, int]]:
    """Return the first offset that each partition still has, and the one after its last.

    For a consumer of committed data, the latter is the offset before which all transactions have
    ended. There is one request for each broker and kind of offset, whereas
    `get_watermark_offsets` sends two for each partition. Raises `KafkaException`.

    Source: Kafka, "Kafka Protocol Guide", ListOffsets: the timestamps -2 (earliest) and -1
    (latest).
    """
    asked = list(places)
    lows, highs = (
        _listed(consumer, asked, which, seconds) for which in (OFFSET_BEGINNING, OFFSET_END)
    )
    return {place: (lows[place], highs[place]) for place in asked}


def first_since(
    consumer: Consumer, places: Iterable[Position], milliseconds: int, seconds: float
) -> dict[Position, int]:
    """Return for each partition the first offset at this time or later; its end if there is none.

    Raises `KafkaException`.

    milliseconds: POSIX time, compared with Kafka's timestamp of each message.
    seconds:      how long Kafka may take to answer each of two requests.
    """
    asked = list(places)
    # The end first: a message that comes between the requests must not count as an old one.
    ends = _listed(consumer, asked, OFFSET_END, seconds)
    found = _listed(consumer, asked, milliseconds, seconds)
    return {place: at if at >= 0 else ends[place] for place, at in found.items()}


def _listed(
    consumer: Consumer, places: Sequence[Position], timestamp: int, seconds: float
) -> dict[Position, int]:
    """Return for each partition the first offset at this time or later (`Reader.since`)."""
    if not places:
        return {}
    requested = [TopicPartition(*place, timestamp) for place in places]
    found = {}
    for one in consumer.offsets_for_times(requested, timeout=seconds):
        if one.error is not None:
            raise KafkaException(one.error)
        found[Position(one.topic, one.partition)] = one.offset
    return found


def position(message: Message) -> Position:
    """Return the partition of a message."""
    return Position(message.topic() or "", message.partition() or 0)


def some(consumer: Consumer, at_most: int, patience: float = PATIENCE) -> list[Message]:
    """Return the messages that have been fetched, once there is at least one.

    Returns an empty list after `patience` seconds without a message. `Consumer.consume` alone would
    use up its timeout whenever there are fewer messages than requested.
    """
    first = consumer.poll(patience)
    if first is None:
        return []
    more: list[Any] = consumer.consume(at_most - 1, timeout=0)  # none of them is None
    return [first, *more]


def sift(
    messages: Sequence[Message],
) -> tuple[list[Message], list[tuple[Position, int]], Error | None]:
    """Split a consumer's messages into records, ended partitions and the first error.

    Each ended partition comes with its end offset.
    """
    records = [message for message in messages if message.error() is None]
    ended = []
    first_error = None
    if len(records) < len(messages):
        for message in messages:
            if (error := message.error()) is None:
                continue
            if error.code() == Error._PARTITION_EOF:
                place = Position(message.topic() or "", message.partition() or 0)
                ended.append((place, message.offset() or 0))
            else:
                first_error = first_error or error
    return records, ended, first_error


def _within(
    messages: Iterable[Message], limits: Mapping[Key, int], left: set[Key]
) -> list[Message]:
    """Return the messages before the limits of their partitions.

    Removes each partition that has come to its limit from `left`.
    """
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
    return f"could not read topic {topic}: Kafka reports {{}}; try again when Kafka is available"
