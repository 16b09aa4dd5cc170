"""A sent message is in Kafka, or an error says why not, with a producer that refuses as Kafka does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from bus.consume.deadletters import DeadLetter, DeadLetters, mark
from bus.contract import Sent
from bus.errors import RetryLater, Stop
from bus.ingest import ownership
from bus.kafka import sender as module
from bus.kafka.sender import Sender, send
from bus.replay import replay_log
from bus.settings import KafkaSettings, Settings

SETTINGS = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))


class Producer:
    """Reports the given outcome of each message on `poll`; without an error, Kafka has the message.

    said:    the error of each message in turn, None for success.
    raised:  the errors that `produce` raises.
    waiting: how many messages never get a report.
    """

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.said: list[KafkaError | None] = []
        self.raised: list[Exception] = []
        self.waiting = 0
        self.taken: list[Any] = []
        self._unreported: list[tuple[Callable[..., None], Any]] = []

    def produce(
        self, topic: str, value: Any, key: Any, *, headers: Any, on_delivery: Callable[..., None]
    ) -> None:
        if self.raised:
            raise self.raised.pop(0)
        self._unreported.append((on_delivery, (topic, value, key)))

    def poll(self, _: float) -> None:
        while self._unreported:
            callback, message = self._unreported.pop(0)
            error = self.said.pop(0) if self.said else None
            if error is None:
                self.taken.append(message)
            callback(error, message)

    def flush(self, _: float) -> int:
        self.poll(0)
        return self.waiting


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> Producer:
    made = Producer()

    def new(config: dict[str, Any]) -> Producer:
        made.config = config
        return made

    monkeypatch.setattr(module, "Producer", new)
    return made


def error(code: int) -> KafkaError:
    return KafkaError(code)


def test_what_is_sent_is_there(producer: Producer) -> None:
    send(SETTINGS, "t", b"v", b"k", doing="say it")
    assert producer.taken == [("t", b"v", b"k")]
    assert producer.config["acks"] == "all"
    assert producer.config["max.in.flight.requests.per.connection"] == 1, "it keeps the order"


def test_a_full_queue_is_waited_for(producer: Producer) -> None:
    producer.raised = [BufferError(), BufferError()]
    send(SETTINGS, "t", b"v", doing="say it")
    assert producer.taken == [("t", b"v", None)]


def test_a_refused_message_says_topic_and_reason(producer: Producer) -> None:
    sender = Sender(SETTINGS, "t", "say it", later="try again")
    producer.said = [None, error(KafkaError._MSG_TIMED_OUT)]
    sender.add(b"1")
    sender.add(b"2")
    with pytest.raises(RetryLater) as caught:
        sender.flush()
    assert (
        str(caught.value) == "could not say it (topic t): Kafka reports _MSG_TIMED_OUT; try again"
    )
    sender.add(b"2")
    sender.flush()
    assert [value for _, value, _ in producer.taken] == [b"1", b"2"]


def test_what_is_refused_at_once_is_no_other_error(producer: Producer) -> None:
    producer.raised = [KafkaException(error(KafkaError._UNKNOWN_TOPIC))]
    with pytest.raises(RetryLater, match=r"say it \(topic t\): Kafka reports _UNKNOWN_TOPIC"):
        send(SETTINGS, "t", b"v", doing="say it")


def test_what_is_not_taken_in_time_is_an_error(producer: Producer) -> None:
    producer.waiting = 1
    with pytest.raises(RetryLater, match=r"topic t.*did not confirm it in 5 s; try again"):
        send(SETTINGS, "t", b"v", doing="say it", seconds=5)


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED]
)
def test_what_may_not_be_written_stops_and_says_the_right(producer: Producer, code: int) -> None:
    producer.said = [error(KafkaError._MSG_TIMED_OUT), error(code)]
    sender = Sender(SETTINGS, "t", "say it")
    sender.add(b"1")
    sender.add(b"2")
    with pytest.raises(Stop, match=r"_AUTHORIZATION_FAILED.*ACL WRITE on topic t"):
        sender.flush()


def test_a_message_that_is_too_large_is_not_tried_for_ever(producer: Producer) -> None:
    producer.raised = [KafkaException(error(KafkaError.MSG_SIZE_TOO_LARGE))]
    with pytest.raises(Stop, match=r"max\.message\.bytes of topic t"):
        send(SETTINGS, "t", b"v", doing="say it")


def test_a_producer_that_can_do_no_more_stops(producer: Producer) -> None:
    producer.raised = [KafkaException(error(KafkaError._FATAL))]
    with pytest.raises(Stop, match="start again"):
        send(SETTINGS, "t", b"v", doing="say it")


def test_a_refused_announcement_is_an_error(producer: Producer) -> None:
    producer.said = [error(KafkaError.NOT_ENOUGH_REPLICAS)]
    with pytest.raises(RetryLater, match=r"announce this source .*NOT_ENOUGH_REPLICAS"):
        ownership._publish_kinds(SETTINGS, "/west", {"student"})


def test_a_refused_request_is_an_error(producer: Producer) -> None:
    producer.said = [error(KafkaError.NOT_ENOUGH_REPLICAS)]
    with pytest.raises(RetryLater, match=r"ask the replay to pause .*NOT_ENOUGH_REPLICAS"):
        replay_log.request(SETTINGS, "canvas-1", "pause")


def test_the_new_state_of_a_dead_letter_is_written_or_an_error(producer: Producer) -> None:
    dead_letter = DeadLetter("student", "s1", "why", 1, "T", "schoolbus.student/0/1")
    mark(SETTINGS, "canvas", [dead_letter], "retried", "why", "who")
    producer.said = [error(KafkaError.NOT_ENOUGH_REPLICAS)]
    with pytest.raises(RetryLater, match=r"retried \(topic schoolbus.deadletters.canvas\)"):
        mark(SETTINGS, "canvas", [dead_letter], "retried", "why", "who")
    assert len(producer.taken) == 1


@pytest.mark.parametrize("added_again", [True, False])
def test_a_refused_dead_letter_is_written_the_next_time(
    producer: Producer, added_again: bool
) -> None:
    dead_letters = DeadLetters(SETTINGS, "canvas")
    message: Any = Sent("student", "s1", 1)
    dead_letters.add(message, "why")
    producer.said = [error(KafkaError.NOT_ENOUGH_REPLICAS)]
    with pytest.raises(RetryLater, match=r"dead letters .*they are written again"):
        dead_letters.flush()
    if added_again:
        dead_letters.add(message, "why", 2)
    dead_letters.flush()
    dead_letters.flush()
    assert [key for _, _, key in producer.taken] == [b"s1"]
