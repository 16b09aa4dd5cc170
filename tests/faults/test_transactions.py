"""Faults of Kafka's transactions, and how the bus handles them.

See docs/decisions/10-transactions.md. The fault is that of Jepsen's report on Bufstream 0.1.0. The
request that ends a transaction is delayed, so the client sends another. The first request arrives
when the same producer has its next transaction open.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from bus.errors import RetryLater, Stop
from bus.ingest import pipeline
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import now
from bus.kafka.reader import scan
from bus.kafka.transactions import Publisher
from bus.registry import subjects
from bus.settings import Settings
from producers.http import commit as commit_module
from producers.http.commit import GroupCommit
from producers.http.work import Event
from tests.faults.network import Network
from tests.faults.proxy import Behavior
from tests.faults.published import Published, assert_topics_equal, publish

PRODUCE, ADD_PARTITIONS, END, INIT = 0, 24, 26, 22
"""API keys: Produce, AddPartitionsToTxn, EndTxn, InitProducerId."""
API = {PRODUCE: "Produce", ADD_PARTITIONS: "AddPartitionsToTxn", END: "EndTxn"}
NUMBERS = count(1)


@pytest.fixture
def settings(net: Network) -> Iterator[Settings]:
    """A bus with separate topics and registered schemas, whose producers go through the proxy."""
    separate = net.settings.model_copy(update={"topic_prefix": f"transactions{next(NUMBERS)}"})
    subjects.apply(separate)
    kinds = ("org", "student")
    topics.ensure(
        separate, [topics.topic(separate, kind) for kind in kinds] + [topics.idempotency(separate)]
    )
    yield net.through(net.produce, separate)
    net.pass_all()


def committed_keys(net: Network, settings: Settings, kind: str = "org") -> list[str]:
    """Return the keys that a reader of committed data finds, in order within a partition."""
    messages = scan(direct(net, settings), topics.topic(settings, kind))
    return [(message.key() or b"").decode() for message in messages]


def direct(net: Network, settings: Settings) -> Settings:
    """Return settings for the same bus without the proxy."""
    return settings.model_copy(update={"kafka": net.settings.kafka})


def test_which_transactions_client_and_broker_speak(net: Network, settings: Settings) -> None:
    """If this fails, the client supports KIP-890: check which parts of decision 10 to remove."""
    net.produce.seen.clear()
    publish_in_transaction(settings, "a")
    versions = dict(net.produce.seen.keys())
    assert {api: versions[api] for api in (PRODUCE, ADD_PARTITIONS, END, INIT)} == {
        PRODUCE: 10,  # 12 and later: the broker adds the partition itself (version 2)
        ADD_PARTITIONS: 0,
        END: 1,  # 5: the broker answers with a new epoch (version 2)
        INIT: 4,
    }
    assert finalized(net.settings.kafka.bootstrap, "transaction.version") == 2


def finalized(bootstrap: str, feature: str) -> int:
    """Return the level of a cluster's feature, from the answer to ApiVersions v3 (KIP-584)."""
    body = bytes.fromhex("0012 0003 00000001 0000 00") + b"\x02t" + b"\x021" + b"\x00"
    host, port = bootstrap.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(len(body).to_bytes(4, "big") + body)
        answer = connection.recv(65_536)
    # Finalized features come last: name, highest level, lowest level.
    found = re.findall(re.escape(feature.encode()) + rb"(..)..", answer, re.DOTALL)
    return int.from_bytes(found[-1], "big")


def publish_in_transaction(settings: Settings, name: str) -> None:
    producer = client_producer(settings)
    producer.begin_transaction()
    producer.produce(topics.topic(settings, "org"), b"", name, 0)
    producer.commit_transaction(30)


def client_producer(settings: Settings) -> Producer:
    """Return a transactional producer as the client's documentation shows it."""
    producer = Producer(
        client_settings(settings) | {"transactional.id": settings.topic_prefix, "log_level": 0}
    )
    producer.init_transactions(30)
    return producer


@pytest.mark.parametrize("first", ["commit", "abort"])
def test_the_fault_is_real_without_the_bus(net: Network, settings: Settings, first: str) -> None:
    """A late end of one transaction ends the first half of the next, whose commit succeeds."""
    producer, topic = client_producer(settings), topics.topic(settings, "org")
    producer.begin_transaction()
    producer.produce(topic, b"", "first", 0)
    producer.flush(10)
    late = net.produce.late(END)
    (producer.commit_transaction if first == "commit" else producer.abort_transaction)(30)
    producer.begin_transaction()
    producer.produce(topic, b"", "a", 0)
    producer.flush(10)
    assert net.produce.arrive(late) == 0
    producer.produce(topic, b"", "b", 1)
    producer.flush(10)
    half = committed_keys(net, settings)
    producer.commit_transaction(30)
    if first == "commit":
        assert half == ["first", "a"]  # a reader sees a part of an open transaction
    else:
        assert committed_keys(net, settings) == ["b"]  # "a" is lost, and no client got an error


@pytest.mark.parametrize("first", ["commit", "abort"])
def test_a_late_end_does_not_touch_the_next_transaction(
    net: Network, settings: Settings, first: str
) -> None:
    ids = subjects.lookup(settings)
    publisher = Publisher(settings, "/late", ids, time=now())
    late = net.produce.late(END)
    before = ["first"] if first == "commit" else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "_partitions", 2)
        try:
            with publisher.transaction():
                publish_org(publisher, settings, "first", 0)
                publisher._producer.flush(10)
                if first == "abort":
                    raise AbortedOnPurpose
        except AbortedOnPurpose:
            pass
        assert late.arrived.is_set()
        with publisher.transaction():
            publish_org(publisher, settings, "a", 0)
            publisher._producer.flush(10)
            assert net.produce.arrive(late) == 47  # INVALID_PRODUCER_EPOCH: fenced off
            publish_org(publisher, settings, "b", 1)
            publisher._producer.flush(10)
            assert committed_keys(net, settings) == before
    publisher.close()
    assert publisher.replaced
    assert sorted(committed_keys(net, settings)) == sorted([*before, "a", "b"])


@pytest.mark.parametrize("first", ["commit", "abort"])
def test_a_late_end_does_not_touch_the_next_transaction_of_the_http_source(
    net: Network, settings: Settings, first: str
) -> None:
    late = net.produce.late(END)
    before: list[str] = []

    class Failing(list[Event]):
        """Events that cannot be published at first, so that their transaction is aborted."""

        def __iter__(self) -> Iterator[Event]:
            if not late.arrived.is_set():
                yield from super().__iter__()
                commit._producer.flush(10)
                raise KafkaException(KafkaError(KafkaError._FAIL))
            yield from super().__iter__()

    class Halved(list[Event]):
        """Two events; the late end of the transaction arrives between them."""

        def __iter__(self) -> Iterator[Event]:
            yield self[0]
            commit._producer.flush(10)
            assert net.produce.arrive(late) == 47
            yield self[1]
            commit._producer.flush(10)
            assert committed_keys(net, settings) == before

    async def serve() -> None:
        nonlocal commit
        commit = group_commit(settings)
        await asyncio.to_thread(commit.open)
        try:
            one = [org_event(settings, "first", 0)]
            begun = commit.submit(one if first == "commit" else Failing(one))
            assert await begun.outcome is None
            before.append("first")
            two = [org_event(settings, "a", 0), org_event(settings, "b", 1)]
            assert await commit.submit(Halved(two)).outcome is None
        finally:
            await asyncio.to_thread(commit.close)

    commit: GroupCommit
    asyncio.run(serve())
    assert sorted(committed_keys(net, settings)) == ["a", "b", "first"]


@pytest.mark.parametrize("api", [PRODUCE, ADD_PARTITIONS, END])
def test_what_is_not_answered_is_published_once(net: Network, settings: Settings, api: int) -> None:
    async def serve() -> None:
        commit = group_commit(settings)
        await asyncio.to_thread(commit.open)
        try:
            for name in "abc":
                lost = net.produce.unanswered(api)
                assert await commit.submit([org_event(settings, name, 0)]).outcome is None
                assert lost.arrived.is_set()
        finally:
            await asyncio.to_thread(commit.close)

    asyncio.run(serve())
    assert committed_keys(net, settings) == ["a", "b", "c"]


@pytest.mark.parametrize("behavior", ["hang", "mute", "cut"])
def test_the_http_source_goes_on_after_an_outage_longer_than_a_transaction(
    net: Network, settings: Settings, behavior: Behavior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka has aborted the open transaction by then, and reports a fenced producer."""
    monkeypatch.setattr(commit_module, "TRANSACTION_SECONDS", 2.0)
    monkeypatch.setattr(commit_module, "MESSAGE_SECONDS", 1.0)

    class Halved(list[Event]):
        """Two events; the network fails between them."""

        def __iter__(self) -> Iterator[Event]:
            yield self[0]
            if not disturbed.is_set():
                commit._producer.flush(10)
                net.produce.behave(behavior)
                disturbed.set()
            yield self[1]

    async def serve() -> None:
        nonlocal commit
        commit = group_commit(settings)
        await asyncio.to_thread(commit.open)
        try:
            work = commit.submit(Halved([org_event(settings, "a", 0), org_event(settings, "b", 1)]))
            await asyncio.to_thread(disturbed.wait, 10)
            await asyncio.sleep(3.5)
            net.produce.behave("pass")
            assert await work.outcome is None
            assert await commit.submit([org_event(settings, "c", 0)]).outcome is None
        finally:
            await asyncio.to_thread(commit.close)

    disturbed = threading.Event()
    commit: GroupCommit
    asyncio.run(serve())
    assert sorted(committed_keys(net, settings)) == ["a", "b", "c"]


def group_commit(settings: Settings) -> GroupCommit:
    return GroupCommit(
        settings,
        f"{settings.topic_prefix}/http",
        queue_records=100,
        interval=0.0,
        loop=asyncio.get_running_loop(),
        stopped=lambda stop: None,
    )


def org_event(settings: Settings, name: str, partition: int) -> Event:
    return Event(topics.topic(settings, "org"), partition, name.encode(), b"", [])


def test_days_are_published_though_requests_come_late_or_are_not_answered(
    net: Network,
    settings: Settings,
    published: Settings,
    extracts: list[Path],
    tmp_path: Path,
    rng: random.Random,
    findings: Any,
    turn: int,
) -> None:
    for path in extracts:
        with pytest.MonkeyPatch.context() as patch, delayed_requests(net, rng) as done:
            patch.setattr(pipeline, "TRANSACTION_RECORDS", 30)
            for tries in range(1, 21):  # noqa: B007
                with suppress(RetryLater, Stop):
                    publish(settings, path)
                    break
        publish(settings, path)
        assert_topics_equal(direct(net, settings), path, tmp_path / path.stem)
        findings.add(
            f"late or unanswered requests, day {path.stem}",
            ", ".join(f"{n}x {API[api]}" for api, n in sorted(done.items())),
            f"in {tries} runs; topics equal the SIS, each event once",
        )
    lengths = Published.of(direct(net, settings)).lengths
    assert lengths == Published.of(published).lengths


@contextmanager
def delayed_requests(net: Network, rng: random.Random) -> Iterator[Counter[int]]:
    """Delay requests or leave them unanswered while the block runs; yield how many, by API key."""
    done: Counter[int] = Counter()
    over = threading.Event()

    def delay_requests() -> None:
        while not over.is_set():
            api = rng.choice((PRODUCE, ADD_PARTITIONS, END, END))
            how = rng.choice((net.produce.late, net.produce.late, net.produce.unanswered))
            caught = how(api)
            while not caught.arrived.wait(0.05):
                if over.is_set():
                    return
            done[api] += 1
            over.wait(rng.uniform(0, 0.3))
            if caught.late:
                net.produce.arrive(caught)

    thread = threading.Thread(target=delay_requests)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()
        net.produce.forget()


class AbortedOnPurpose(Exception):  # noqa: N818
    """Causes a transaction to be aborted."""


def publish_org(publisher: Publisher, settings: Settings, name: str, partition: int) -> None:
    publisher._send(topics.topic(settings, "org"), b"", name, partition, [])
