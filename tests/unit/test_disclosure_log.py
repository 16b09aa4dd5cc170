"""The topics of the record of disclosures: what a producer's errors mean, and the last entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from bus.delivery import Position
from bus.errors import RetryLater, Stop
from bus.settings import KafkaSettings, RegistrySettings, Settings
from bus.vendors import disclosure_log
from bus.vendors.disclosure_chain import ChainHead, linked
from bus.vendors.disclosure_log import DisclosureLog, NotTheWriter

SETTINGS = Settings(kafka=KafkaSettings(bootstrap="x:1"), registry=RegistrySettings())
ENTRIES = Position("schoolbus.disclosures", 0)


class FakeProducer:
    """A producer that raises at one step. After a fatal error, `flush` raises too, as librdkafka's."""

    def __init__(self, config: dict[str, Any], fails: Mapping[str, KafkaError]) -> None:
        self.config, self.fails, self.sent = config, fails, []  # type: ignore[var-annotated]

    def _step(self, name: str) -> None:
        if error := self.fails.get(name):
            raise KafkaException(error)

    def poll(self, _: float) -> None: ...

    def purge(self) -> None: ...

    def flush(self, _: float) -> None:
        if any(error.fatal() for error in self.fails.values()):
            raise KafkaException(next(iter(self.fails.values())))

    def list_topics(self, timeout: float) -> Any:
        return SimpleNamespace(topics={})

    def init_transactions(self, _: float) -> None:
        self._step("init")

    def begin_transaction(self) -> None:
        self._step("begin")

    def produce(self, topic: str, value: bytes | None, key: bytes, partition: int) -> None:
        self._step("produce")
        self.sent.append((topic, key, value, partition))

    def commit_transaction(self, _: float) -> None:
        self._step("commit")


class FakeReader:
    """A reader of one partition with these messages by offset; other offsets are control records."""

    messages: Mapping[int, bytes] = {}
    low, high = 0, 0
    starts: list[int] = []  # noqa: RUF012 - each test sets its own

    def __init__(self, *_: Any) -> None:
        self.reached: dict[Position, int] = {}

    def marks(self, places: list[Position]) -> dict[Position, tuple[int, int]]:
        return dict.fromkeys(places, (self.low, self.high))

    def batches(self, start: Mapping[Position, int], *, silence: float) -> Iterator[list[Any]]:
        ((place, first),) = start.items()
        self.starts.append(first)
        for offset, value in self.messages.items():
            if offset >= first:
                yield [SimpleNamespace(value=lambda value=value: value, key=lambda: b"k")]
        self.reached = {place: self.high}

    def close(self) -> None: ...


def log_with(
    monkeypatch: pytest.MonkeyPatch, **fails: KafkaError
) -> tuple[DisclosureLog, list[FakeProducer]]:
    made: list[FakeProducer] = []

    def producer(config: dict[str, Any]) -> FakeProducer:
        made.append(FakeProducer(config, fails))
        return made[-1]

    monkeypatch.setattr(disclosure_log, "Producer", producer)
    monkeypatch.setattr(disclosure_log, "Reader", FakeReader)
    monkeypatch.setattr(disclosure_log.topics, "ensure", lambda *_: None)
    return DisclosureLog(SETTINGS), made


def error(code: int, fatal: bool = False) -> KafkaError:
    return KafkaError(code, "", fatal)


def test_a_writer_writes_both_topics_in_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    log, made = log_with(monkeypatch)
    with pytest.raises(NotTheWriter):
        log.append([(1, b"{}")], [])
    log.take_over()
    log.append([(1, b"{}")], [(b"h", None)])
    assert made[0].config["transactional.id"] == "schoolbus/disclosures"
    assert made[0].sent == [
        ("schoolbus.disclosures.students", b"h", None, 0),
        ("schoolbus.disclosures", b"1", b"{}", 0),
    ]


@pytest.mark.parametrize("step", ["init", "begin", "produce", "commit"])
@pytest.mark.parametrize(
    ("found", "raised"),
    [
        (error(KafkaError._FENCED, fatal=True), NotTheWriter),
        (error(KafkaError._FATAL, fatal=True), NotTheWriter),
        (error(KafkaError.INVALID_PRODUCER_EPOCH), NotTheWriter),
        (error(KafkaError._TIMED_OUT), RetryLater),
        (error(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED), Stop),
    ],
)
def test_what_an_error_means(
    step: str, found: KafkaError, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, made = log_with(monkeypatch, **{step: found})
    with pytest.raises(raised):
        log.take_over()
        log.append([(1, b"{}")], [])
    with pytest.raises(NotTheWriter):  # it never goes on with the same producer
        log.append([(1, b"{}")], [])
    assert len(made) == 1


def test_a_broken_connection_needs_another_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    log, made = log_with(monkeypatch)
    log.take_over()
    watch = made[0].config["logger"]
    watch.log(20, "%s [%s] %s", "FAIL", "producer-1", "Disconnected (after 1ms in state UP)")
    with pytest.raises(NotTheWriter):
        log.append([(1, b"{}")], [])
    assert made[0].sent == []
    log.take_over()
    log.append([(1, b"{}")], [])
    assert len(made[1].sent) == 1


def test_a_lost_turn_is_not_logged_as_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log, made = log_with(monkeypatch)
    log.take_over()
    watch = made[0].config["logger"]
    with caplog.at_level("DEBUG", "bus.librdkafka"):
        watch.log(50, "%s [%s] %s", "FATAL", "producer-1", "fenced")
        watch.log(40, "%s [%s] %s", "FAIL", "producer-1", "Connect failed in state CONNECT")
        watch.log(40, "one line")
    assert [one.levelname for one in caplog.records] == ["DEBUG", "ERROR", "ERROR"]


@pytest.mark.parametrize(
    ("offsets", "high", "starts"),
    [
        ([], 0, [0]),
        ([2], 4, [0]),
        ([990], 1000, [984]),
        ([500, 600], 1000, [984, 744, 0]),
        ([800], 1000, [984, 744]),
    ],
)
def test_the_search_for_the_last_entry_begins_at_the_end(
    offsets: list[int], high: int, starts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, messages = ChainHead(), {}
    for offset in offsets:
        messages[offset], head = linked({"what": "ended", "at": "x"}, head)
    monkeypatch.setattr(FakeReader, "messages", {**messages, high - 1: b"garbage"} if high else {})
    monkeypatch.setattr(FakeReader, "high", high)
    monkeypatch.setattr(FakeReader, "starts", [])
    log, _ = log_with(monkeypatch)
    log.take_over()
    assert log.entries() == list(messages.values())[-1:]
    assert FakeReader.starts == starts
    value, _ = linked({"what": "ended", "at": "y"}, head)
    monkeypatch.setattr(FakeReader, "messages", {**FakeReader.messages, high: value})
    monkeypatch.setattr(FakeReader, "high", high + 2)
    assert log.entries() == [value]
    assert FakeReader.starts == [*starts, high]
