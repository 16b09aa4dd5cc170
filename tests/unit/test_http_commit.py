"""Group commit, with a producer that fails as Kafka does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from bus.errors import RetryLater, Stop
from bus.settings import KafkaSettings, Settings
from producers.http import commit as module
from producers.http.commit import GroupCommit
from producers.http.work import Event, Full

SETTINGS = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))
AGAIN = KafkaError(KafkaError._TIMED_OUT, retriable=True)
ABORT = KafkaError(KafkaError._INCONSISTENT, txn_requires_abort=True)
FENCED = KafkaError(KafkaError._FENCED, fatal=True)


class Producer:
    """Keeps what is committed, and separately the marker of each transaction (`marks`).

    commits: what each call of commit raises, None for success.
    """

    def __init__(self) -> None:
        self.commits: list[KafkaError | None] = []
        self.transactions: list[list[bytes]] = []
        self.open: list[bytes] = []
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.aborted = 0
        self.marks: list[bytes] = []

    def init_transactions(self, timeout: float) -> None: ...

    def poll(self, timeout: float) -> None: ...

    def begin_transaction(self) -> None:
        self.open = []

    def produce(self, topic: str, value: bytes, *rest: Any, **more: Any) -> None:
        if topic == "schoolbus.attendance":
            self.open.append(value)
        else:
            self.marks.append(value)

    def commit_transaction(self) -> None:
        self.may_commit.wait(5)
        if self.commits and (error := self.commits.pop(0)):
            raise KafkaException(error)
        self.transactions.append(self.open)

    def abort_transaction(self, timeout: float) -> None:
        self.aborted += 1

    def list_topics(self, timeout: float) -> Any:
        return SimpleNamespace(topics={})


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> Producer:
    made = Producer()
    monkeypatch.setattr(module, "Producer", lambda settings: made)
    monkeypatch.setattr(module, "BACKOFF", (0.01,))
    return made


def event(value: bytes) -> Event:
    return Event("schoolbus.attendance", 0, b"k", value, [])


def running(
    steps: Callable[[GroupCommit], Awaitable[None]],
    queue_records: int = 100,
    interval: float = 0.0,
) -> list[Stop]:
    """Run the steps with a group commit, and return the reasons for which it stopped."""
    stops: list[Stop] = []

    async def run() -> None:
        commit = GroupCommit(
            SETTINGS,
            "test",
            queue_records=queue_records,
            interval=interval,
            loop=asyncio.get_running_loop(),
            stopped=stops.append,
        )
        commit.open()
        try:
            await steps(commit)
        finally:
            await asyncio.to_thread(commit.close)
        await asyncio.sleep(0)

    asyncio.run(run())
    return stops


def test_what_arrives_during_a_commit_goes_into_the_next_one_together(producer: Producer) -> None:
    async def steps(commit: GroupCommit) -> None:
        producer.may_commit.clear()
        first = commit.submit([event(b"1")])
        while not producer.open:
            await asyncio.sleep(0.001)
        others = [commit.submit([event(b"2"), event(b"3")]), commit.submit([event(b"4")])]
        assert not first.outcome.done()
        producer.may_commit.set()
        assert [await work.outcome for work in (first, *others)] == [None, None, None]

    running(steps)
    assert producer.transactions == [[b"1"], [b"2", b"3", b"4"]]


def test_under_load_a_transaction_waits_for_more_and_alone_a_request_does_not(
    producer: Producer,
) -> None:
    async def steps(commit: GroupCommit) -> None:
        for value in (b"1", b"2"):  # one by one, so there is nothing to wait for
            began = time.monotonic()
            await commit.submit([event(value)]).outcome
            assert time.monotonic() - began < 0.4

        producer.may_commit.clear()
        commit.submit([event(b"3")])
        while producer.open != [b"3"]:
            await asyncio.sleep(0.001)
        many = [commit.submit([event(b"4")]) for _ in range(module.BUSY)]
        producer.may_commit.set()
        await asyncio.gather(*(work.outcome for work in many))
        began = time.monotonic()
        first = commit.submit([event(b"5")])
        await asyncio.sleep(0.1)
        await asyncio.gather(first.outcome, commit.submit([event(b"6")]).outcome)
        assert time.monotonic() - began > 0.4

    running(steps, interval=0.5)
    assert producer.transactions == [[b"1"], [b"2"], [b"3"], [b"4"] * module.BUSY, [b"5", b"6"]]


def test_a_commit_that_is_not_confirmed_is_asked_about_again(producer: Producer) -> None:
    async def steps(commit: GroupCommit) -> None:
        producer.commits = [AGAIN, AGAIN]
        assert await commit.submit([event(b"1")]).outcome is None

    running(steps)
    assert producer.transactions == [[b"1"]]


def test_a_transaction_that_fails_is_aborted_and_tried_again(producer: Producer) -> None:
    async def steps(commit: GroupCommit) -> None:
        producer.commits = [ABORT, ABORT]
        assert await commit.submit([event(b"1")]).outcome is None
        assert commit.taking

    running(steps)
    assert (producer.aborted, producer.transactions) == (2, [[b"1"]])
    assert len(set(producer.marks)) == 3  # a different one for each transaction


def test_who_waits_no_longer_is_not_published(producer: Producer) -> None:
    async def steps(commit: GroupCommit) -> None:
        producer.commits = [ABORT]
        producer.may_commit.clear()
        left, stayed = commit.submit([event(b"left")]), commit.submit([event(b"stayed")])
        left.abandoned = True
        producer.may_commit.set()
        assert await stayed.outcome is None
        assert isinstance(await left.outcome, RetryLater)

    running(steps)
    assert producer.transactions == [[b"stayed"]]


def test_being_fenced_off_stops_the_service_and_nobody_is_left_waiting(producer: Producer) -> None:
    async def steps(commit: GroupCommit) -> None:
        producer.commits = [FENCED]
        assert isinstance(await commit.submit([event(b"1")]).outcome, Stop)
        assert not commit.taking

    [stop] = running(steps)
    assert "instance" in str(stop)
    assert producer.transactions == []


def test_the_queue_is_bounded_but_takes_one_large_request(producer: Producer) -> None:
    async def steps(commit: GroupCommit) -> None:
        producer.may_commit.clear()
        busy = commit.submit([event(b"0")])
        while not producer.open:
            await asyncio.sleep(0.001)
        large = commit.submit([event(b"x")] * 5)
        with pytest.raises(Full):
            commit.submit([event(b"y")])
        producer.may_commit.set()
        await busy.outcome
        await large.outcome

    running(steps, queue_records=3)


def test_what_is_queued_is_published_before_the_end(producer: Producer) -> None:
    works = []

    async def steps(commit: GroupCommit) -> None:
        works.extend(commit.submit([event(b"1")]) for _ in range(3))

    running(steps)
    assert sum(map(len, producer.transactions)) == 3
