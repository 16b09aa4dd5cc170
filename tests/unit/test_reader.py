"""What is read of partitions and where reading ends, with a fake consumer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka import reader as module
from bus.kafka.reader import Reader, marks_of, passages, scan
from bus.settings import KafkaSettings, Settings

SETTINGS = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))
A, B = Position("t", 0), Position("t", 1)
TIMED_OUT = KafkaError(KafkaError._TIMED_OUT)


class Consumer:
    """Returns the given messages, batch by batch; an empty batch is a poll without a message."""

    def __init__(self, chunks: list[list[Message]]) -> None:
        self.chunks = chunks
        self.assigned: list[tuple[Position, int]] = []
        self.closed = False
        self.offsets: dict[tuple[int, int], int] | None = None
        self.asked: list[list[tuple[int, int]]] = []
        self.wrong: KafkaError | None = None

    def poll(self, _: float) -> Message | None:
        if not self.chunks:
            raise KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        if not self.chunks[0]:
            self.chunks.pop(0)
            return None
        return self.chunks[0].pop(0)

    def consume(self, number: int, timeout: float) -> list[Message]:
        return self.chunks.pop(0)

    def assign(self, partitions: Any) -> None:
        self.assigned = [(Position(p.topic, p.partition), p.offset) for p in partitions]

    def list_topics(self, topic: str = "", timeout: float = 0) -> Any:
        partitions = {A.partition: None, B.partition: None}
        return SimpleNamespace(topics={"t": SimpleNamespace(partitions=partitions)})

    def offsets_for_times(self, partitions: Any, timeout: float) -> Any:
        self.asked.append([(p.partition, p.offset) for p in partitions])
        if self.offsets is None:
            raise KafkaException(TIMED_OUT)
        return [
            SimpleNamespace(topic=p.topic, partition=p.partition, offset=offset, error=self.wrong)
            for p in partitions
            for offset in [self.offsets[p.partition, p.offset]]
        ]

    def close(self) -> None:
        self.closed = True


Saying = Callable[..., Consumer]


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> Saying:
    """Return a function that makes the consumer of the next reader."""

    def made(*chunks: list[Message]) -> Consumer:
        consumer = Consumer(list(chunks))
        monkeypatch.setattr(module, "Consumer", lambda _: consumer)
        return consumer

    return made


def record(place: Position, offset: int) -> Message:
    return Message(place.topic, place.partition, offset, b"k", b"v")


def end(place: Position, offset: int) -> Message:
    error = KafkaError(KafkaError._PARTITION_EOF)
    return Message(place.topic, place.partition, offset, error=error)


def wrong(code: int) -> Message:
    return Message(error=KafkaError(code))


def reported(messages: Any) -> list[tuple[int | None, int | None]]:
    return [(message.partition(), message.offset()) for message in messages]


def test_a_topic_is_read_to_its_end(saying: Saying) -> None:
    consumer = saying([record(A, 0), record(B, 0), end(B, 1)], [], [record(A, 1), end(A, 2)])
    assert reported(scan(SETTINGS, "t")) == [(0, 0), (1, 0), (0, 1)]
    assert consumer.assigned == [(A, 0), (B, 0)]
    assert consumer.closed


def test_what_comes_after_an_end_is_not_read(saying: Saying) -> None:
    saying([end(B, 1), record(B, 1), end(B, 2), record(A, 0)], [record(B, 2), end(A, 1)])
    with Reader(SETTINGS, "{}") as reader:
        found = [m for batch in reader.batches({A: 0, B: 1}) for m in batch]
        assert reported(found) == [(0, 0)]
        assert reader.reached == {A: 1, B: 1}


def test_a_topic_that_is_not_there_has_nothing(saying: Saying) -> None:
    consumer = saying()
    assert list(scan(SETTINGS, "another")) == []
    assert consumer.closed


def test_it_is_read_up_to_a_stop(saying: Saying) -> None:
    consumer = saying([record(A, 3), record(A, 4), record(A, 5)])
    assert reported(scan(SETTINGS, "t", start={0: 3}, stop={0: 5, 1: 0})) == [(0, 3), (0, 4)]
    assert consumer.assigned == [(A, 3)]


def test_a_stop_in_a_gap_is_come_to_by_what_follows_or_by_the_end(saying: Saying) -> None:
    saying([record(A, 0), record(A, 9), record(B, 0), end(B, 4)])
    assert reported(passages(SETTINGS, {}, {A: 5, B: 9})) == [(0, 0), (1, 0)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 20), st.integers(0, 20), st.integers(1, 25), st.randoms(use_true_random=False)
)
def test_each_record_before_the_stops_is_read_once(
    saying: Saying, ones: int, others: int, stop: int, random: Any
) -> None:
    lines = {A: [record(A, n) for n in range(ones)], B: [record(B, n) for n in range(others)]}
    queues = {A: [*lines[A], end(A, ones)], B: [*lines[B], end(B, others)]}
    chunks: list[list[Message]] = []
    while any(queues.values()):
        queue = random.choice([queue for queue in queues.values() if queue])
        if not chunks or random.random() < 0.3:
            chunks.append([])
        chunks[-1].append(queue.pop(0))
    saying(*chunks)
    found = list(passages(SETTINGS, {}, {A: stop, B: stop}))
    for place, line in lines.items():
        offsets = [m.offset() for m in found if m.partition() == place.partition]
        assert offsets == list(range(min(stop, len(line))))


def test_an_error_says_what_was_read(saying: Saying) -> None:
    consumer = saying([wrong(KafkaError.TOPIC_AUTHORIZATION_FAILED)])
    with pytest.raises(RetryLater, match=r"could not read topic t: .*TOPIC_AUTHORIZATION_FAILED"):
        list(scan(SETTINGS, "t"))
    assert consumer.closed


def test_an_error_is_raised_after_the_records_among_which_it_came(saying: Saying) -> None:
    saying([record(A, 0), wrong(KafkaError._ALL_BROKERS_DOWN), record(A, 1)], [record(A, 2)])
    with Reader(SETTINGS, "reading: {}") as reader:
        assert reported(reader.take()[0]) == [(0, 0), (0, 1)]
        with pytest.raises(RetryLater, match="reading: _ALL_BROKERS_DOWN"):
            reader.take()
        assert reported(reader.take()[0]) == [(0, 2)]


def test_what_the_client_raises_says_what_was_read(saying: Saying) -> None:
    saying()
    with Reader(SETTINGS, "reading: {}") as reader:
        with pytest.raises(RetryLater, match="reading: _ALL_BROKERS_DOWN"):
            reader.take()
        with pytest.raises(RetryLater, match="reading: _TIMED_OUT"):
            reader.ends(["t"])


def test_all_partitions_are_asked_for_at_once(saying: Saying) -> None:
    consumer = saying()
    first, last = module.OFFSET_BEGINNING, module.OFFSET_END
    consumer.offsets = {(0, first): 3, (0, last): 7, (1, first): 0, (1, last): 2}
    with Reader(SETTINGS, "reading: {}") as reader:
        assert reader.marks(iter([A, B])) == {A: (3, 7), B: (0, 2)}
        assert consumer.asked == [[(0, first), (1, first)], [(0, last), (1, last)]]
        assert reader.ends(["t"]) == {A: 7, B: 2}
        assert len(consumer.asked) == 3
        assert reader.marks([]) == {}
        consumer.wrong = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        with pytest.raises(RetryLater, match="reading: UNKNOWN_TOPIC_OR_PART"):
            reader.marks([A])


def listed(*refused: int) -> Any:
    """Return a consumer whose partitions hold offsets 3 to 7, except for those that it refuses."""

    def answer(asked: list[TopicPartition], timeout: float) -> list[Any]:
        return [
            SimpleNamespace(
                topic=one.topic,
                partition=one.partition,
                offset={OFFSET_BEGINNING: 3, OFFSET_END: 8}[one.offset],
                error=TIMED_OUT if one.partition in refused else None,
            )
            for one in asked
        ]

    return SimpleNamespace(offsets_for_times=answer)


def test_the_marks_of_several_partitions_are_asked_for_at_once() -> None:
    assert marks_of(listed(), [A, B], 1.0) == {A: (3, 8), B: (3, 8)}
    assert marks_of(SimpleNamespace(), [], 1.0) == {}  # type: ignore[arg-type]
    with pytest.raises(KafkaException, match="_TIMED_OUT"):
        marks_of(listed(B.partition), [A, B], 1.0)


def test_silence_is_an_error_where_there_is_a_limit(saying: Saying) -> None:
    saying([], [record(A, 0)], [], [], [], [record(A, 1)])
    with Reader(SETTINGS, "reading: {}") as reader:
        batches = reader.batches({A: 0}, silence=2 * module.PATIENCE)
        assert reported(next(batches)) == [(0, 0)]
        with pytest.raises(RetryLater, match="reading: _TIMED_OUT"):
            next(batches)
