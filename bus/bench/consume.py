"""Consume, decode, translate, write: the bus for Canvas beside loops that promise less.

The bus does all that `bus consume canvas --out DIR` does, with order, dead letters, metrics, traces
and commits. The bare loop polls, decodes with fastavro and writes one CSV row a record, and commits
nothing. quixstreams does the same job as a user of that library would write it (see `peers`).
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer
from confluent_kafka import KafkaError as Error
from fastavro import parse_schema, schemaless_reader

from bus import plugins, topics
from bus.bench.figures import Comparison, Figure
from bus.bench.measured import alone
from bus.settings import Settings, kafka_client
from bus.standard import KINDS

POLL = 10_000


def bus_loop(settings: Settings, out: str) -> Callable[[], int]:
    """`bus consume canvas --out OUT --until-caught-up`, in this process; how many were told."""
    from bus.loop import Loop
    from bus.metrics import Metrics

    product = plugins.product("canvas")
    delivery = product.open(plugins.product_settings(product, settings, out=Path(out)))

    def run() -> int:
        try:
            outcome = Loop(settings, product, delivery, Metrics()).run(until_caught_up=True)
        finally:
            delivery.close()
        return sum(outcome.delivered.values()) + outcome.dead_lettered

    return run


def bare_loop(settings: Settings, out: str) -> Callable[[], int]:
    """confluent-kafka consume, fastavro decode, one CSV row written; nothing else."""
    schemas = {
        topics.topic(settings, kind): parse_schema(KINDS[kind].schema)
        for kind in plugins.product("canvas").kinds
    }

    def run() -> int:
        consumer = Consumer(
            kafka_client(settings)
            | {
                "group.id": f"{settings.topic_prefix}.bare",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
            }
        )
        there = consumer.list_topics(timeout=15).topics
        left = {(name, number) for name in schemas for number in there[name].partitions}
        consumer.subscribe(list(schemas))
        number = 0
        with (Path(out) / "bare.csv").open("w", encoding="utf-8", newline="") as file:
            write = csv.writer(file, lineterminator="\n").writerow
            while left:
                for message in consumer.consume(POLL, timeout=0.1):
                    if error := message.error():
                        if error.code() == Error._PARTITION_EOF:
                            left.discard((message.topic(), message.partition()))
                        continue
                    source = BytesIO(message.value() or b"")
                    source.seek(5)
                    record: Any = schemaless_reader(source, schemas[message.topic() or ""], None)
                    write(record.values())
                    number += 1
        consumer.close()
        return number

    return run


def run(settings: Settings, rounds: int = 1) -> Comparison:
    """Both on what the topics hold."""
    found = Comparison("events to Canvas's CSV", "0.8 of the bare loop")
    for subject, work in (("schoolbus", bus_loop), ("bare loop", bare_loop)):
        with tempfile.TemporaryDirectory(dir=settings.home) as folder:
            number, cost = alone(work, settings, folder)
        found.figures.append(Figure(subject, number, cost))
    return found
