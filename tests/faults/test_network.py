"""The network between two parts is slow, silent, cut, or cut in one direction, in random turns.

After each test, the topics hold what the SIS had. The vendor has received every event once, and the
events of each record in order.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from bus.errors import BusError
from bus.ingest import pipeline
from bus.kafka import topics
from bus.kafka.reader import scan
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from consumers.webhook import PRODUCT as WEBHOOK
from tests.faults.network import Network, disturbances
from tests.faults.proxy import Proxy
from tests.faults.published import (
    IMPATIENT,
    SECRET,
    Published,
    assert_topics_equal,
    consume,
    publish,
    separate_settings,
    vendor_settings,
    with_group,
)
from tests.integration.commands import Commands
from tests.webhook_receiver import Receiver


def test_between_producer_and_kafka(
    net: Network,
    published: Settings,
    extracts: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rng: random.Random,
    findings: Any,
    turn: int,
) -> None:
    monkeypatch.setattr(pipeline, "TRANSACTION_RECORDS", 50)
    here = separate_settings(net)
    for path in extracts:
        with disturbances(net.produce, rng, bad=(0.1, 0.6)) as counts:
            tries = publish_at_last(net.through(net.produce, here), path)
        publish(here, path)
        assert_topics_equal(here, path, tmp_path / path.stem)
        findings.add(
            f"producer - Kafka, day {path.stem}",
            summary(counts),
            f"in {tries} runs; topics equal the SIS",
        )
    # Each record has as many events as without faults.
    assert Published.of(here).lengths == Published.of(published).lengths


def publish_at_last(settings: Settings, path: Path) -> int:
    """Publish the extract until it succeeds, as a nightly job does; return the number of runs."""
    for tries in count(1):
        try:
            publish(settings, path)
            return tries
        except BusError as error:
            assert tries < 30, error
    raise AssertionError


@pytest.mark.parametrize("to", ["consume", "registry"])
def test_between_consumer_and_bus(
    net: Network,
    published: Settings,
    tmp_path: Path,
    rng: random.Random,
    findings: Any,
    to: str,
    turn: int,
) -> None:
    through = net.through(net.consume, published)
    product = with_group(WEBHOOK, f"{to}{turn}", batch_records=50)
    with Receiver(SECRET) as vendor:
        with disturbances(getattr(net, to), rng) as counts:
            starts = consume(through, product, vendor_settings(vendor.url, tmp_path), seconds=100)
        Published.of(published).assert_received(vendor.accepted)
    other = {"consume": "Kafka", "registry": "registry"}[to]
    findings.add(
        f"consumer - {other}", summary(counts), f"in {starts} starts; nothing lost or doubled"
    )


def test_between_consumer_and_product(
    published: Settings, tmp_path: Path, rng: random.Random, findings: Any, turn: int
) -> None:
    product = with_group(WEBHOOK, f"behind{turn}", batch_records=50)
    with Receiver(SECRET) as vendor, Proxy(urlsplit(vendor.url).port or 0) as proxy_to_vendor:
        url = vendor.url.replace(f":{proxy_to_vendor.to}", f":{proxy_to_vendor.port}")
        with disturbances(proxy_to_vendor, rng) as counts:
            consume(published, product, vendor_settings(url, tmp_path), seconds=100)
        Published.of(published).assert_received(vendor.accepted)
        again = len(vendor.accepted) - len({event.id for event in vendor.accepted})
    findings.add(
        "consumer - vendor",
        summary(counts),
        f"nothing lost, {again} received twice with the same id",
    )


@pytest.mark.parametrize("between", ["app - HTTP source", "HTTP source - Kafka"])
def test_around_the_http_source(
    net: Network, tmp_path: Path, rng: random.Random, findings: Any, between: str, turn: int
) -> None:
    settings = separate_settings(net)
    with (
        service(net.through(net.produce, settings), tmp_path) as (port, key),
        Proxy(port) as proxy_to_vendor,
    ):
        proxy = proxy_to_vendor if between.startswith("app") else net.produce
        with disturbances(proxy, rng, good=(0.5, 2.0)) as counts:
            tries = post_all(proxy_to_vendor.port, key)
    assert_records(settings)
    findings.add(
        between, summary(counts), f"{STUDENTS * RECORDS} records in {tries} requests, each once"
    )


def summary(counts: Counter[str]) -> str:
    return ", ".join(f"{n}x {kind}" for kind, n in sorted(counts.items()))


STUDENTS, RECORDS = 8, 12


@contextmanager
def service(settings: Settings, folder: Path) -> Iterator[tuple[int, str]]:
    """Run the HTTP source; yield its port and a client's key."""
    commands = Commands(settings, folder)
    created = commands.run("produce", "http", "--new-key", "app")
    commands.variables |= {
        "BUS_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
        "BUS_KAFKA__CLIENT": json.dumps(IMPATIENT),
        "BUS_REGISTRY__URL": settings.registry.url,
        "BUS_PRODUCERS__HTTP__CLIENTS__APP__KEY_SHA256": created["sha256"],
        "BUS_PRODUCERS__HTTP__COMMIT_SECONDS": "3",
    }
    with commands.running("produce", "http", "--port", "0") as process:
        assert process.stdout is not None
        yield int(json.loads(process.stdout.readline())["url"].rsplit(":", 1)[1]), created["key"]


def post_all(port: int, key: str) -> int:
    """POST each student's records in order until accepted; return the number of requests."""

    def post(student: int) -> int:
        tries = 0
        for number in range(RECORDS):
            record = {
                "studentSourcedId": f"s{student}",
                "schoolSourcedId": "oak",
                "eventDate": "2026-11-24",
                "attendanceEventCategory": "tardy",
                "classPeriod": str(number),
            }
            headers = {"X-API-Key": key, "Idempotency-Key": f'"{student}-{number}"'}
            while True:
                tries += 1
                assert tries < 500
                try:
                    answer = httpx2.post(
                        f"http://127.0.0.1:{port}/v1/attendance",
                        json=record,
                        headers=headers,
                        timeout=1.0,
                        trust_env=False,
                    )
                except httpx2.TransportError:
                    continue
                if answer.status_code == 202:
                    break
                assert answer.status_code in (409, 429, 503), answer.text
                time.sleep(0.1)
        return tries

    with ThreadPoolExecutor(STUDENTS) as pool:
        return sum(pool.map(post, range(STUDENTS)))


def assert_records(settings: Settings) -> None:
    """Check that the topic has every record once, and each student's records in order."""
    decode = Decoder("attendance", schema_lookup(settings)).decode
    received: dict[str, list[int]] = {}
    for message in scan(settings, topics.topic(settings, "attendance")):
        record = decode(message.value())
        received.setdefault(record["studentSourcedId"], []).append(int(record["classPeriod"]))
    assert received == {f"s{student}": list(range(RECORDS)) for student in range(STUDENTS)}
