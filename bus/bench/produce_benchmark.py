"""Measures CSV rows to acknowledged events, beside encoding and sending alone.

The bus does all that `bus produce oneroster-csv` does on a first day. It reads, checks, compares,
encodes, publishes in transactions and stores the snapshot. The bare loop has the same records in
memory, as Avro needs them, before the time starts. It only encodes each record with fastavro and
passes it to an idempotent producer with the same headers.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Message, Producer
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from bus import local, plugins
from bus.bench.figures import Comparison, Figure, middle
from bus.bench.measured import Work, alone, together
from bus.demo.stage import Stage
from bus.ingest import pipeline
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import headers_of
from bus.kafka.reader import scan
from bus.observe.telemetry import configure
from bus.registry import subjects
from bus.settings import Settings, load
from bus.source import Extracts, Source
from bus.standard import KINDS


def bus_run(settings: Settings, extract: str) -> Callable[[], int]:
    """Prepare `bus produce oneroster-csv EXTRACT` in this process, on new topics.

    The function that is returned runs it and returns the number of events.
    """
    os.environ |= {
        "BUS_HOME": str(settings.home),
        "BUS_TOPIC_PREFIX": settings.topic_prefix,
        "BUS_KAFKA__PARTITIONS": str(settings.kafka.partitions),
    }
    subjects.apply(settings)
    source = plugins.source("oneroster-csv")
    assert isinstance(source, Source) and isinstance(source.reader, Extracts)
    reader, own = source.reader, plugins.source_settings(source, settings)

    def run() -> int:
        loaded = load()
        configure(loaded.telemetry)
        report = pipeline.produce(
            loaded,
            source.name,
            lambda staging: reader.read(Path(extract), own, staging),
            rules=source.rules,
        )
        return report.published

    return run


def bare_run(settings: Settings, published: str) -> Callable[[], int]:
    """Prepare to encode and send the records in the topics under the prefix `published`.

    The function that is returned does it and returns the number of events.
    """
    plain = {kind: parse_schema(_plain(KINDS[kind].schema)) for kind in KINDS}
    work: list[tuple[str, str, Any, bytes, int, Any]] = []
    for kind in KINDS:
        name = f"{published}.{kind}"
        for message in scan(settings, name):
            frame, record = _read(message, plain[kind])
            key, partition = message.key() or b"", message.partition() or 0
            work.append((kind, name, record, key, partition, headers_of(message)))
    producer = Producer(
        client_settings(settings)
        | {
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 20,
            "queue.buffering.max.messages": 200_000,
        }
    )

    def run() -> int:
        for kind, name, record, key, partition, headers in work:
            out = io.BytesIO()
            out.write(frame)
            schemaless_writer(out, plain[kind], record)
            while True:
                try:
                    producer.produce(name, out.getvalue(), key, partition, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush()
        return len(work)

    return run


def _read(message: Message, schema: Any) -> tuple[bytes, Any]:
    value = message.value() or b""
    return value[:5], schemaless_reader(io.BytesIO(value[5:]), schema, None)


def _plain(schema: Any) -> Any:
    """Return a schema without logical types, so that dates and times remain numbers."""
    if isinstance(schema, dict):
        return {name: _plain(part) for name, part in schema.items() if name != "logicalType"}
    return [_plain(part) for part in schema] if isinstance(schema, list) else schema


def measure(
    folder: Path,
    *,
    students: int,
    partitions: Sequence[int],
    rounds: int,
    progress: Callable[[str], None],
) -> list[Comparison]:
    """Measure beside encoding and sending alone, then on both cores and by partitions.

    The bus has a separate home in `folder`, which is rebuilt.

    rounds: see `bus.bench.consume_benchmark.measure`.
    """
    with Stage(folder) as stage:
        stage.bus_down_at_the_end()
        local.up(stage.folder)
        extract = str(stage.folder / "extracts" / "bench")
        progress(f"writing the extract of {students:,} students")
        stage.run("sample", extract, "--students", str(students), patience=3600)

        def bus(cores: Sequence[Sequence[int]] = ((),), number: int = partitions[0]) -> Figure:
            where = [_fresh(stage.settings, number) for _ in cores]
            works: list[tuple[Work, Sequence[Any], Sequence[int]]] = [
                (bus_run, (each, extract), core) for each, core in zip(where, cores, strict=True)
            ]
            numbers, cost = together(works)
            return Figure("schoolbus", sum(numbers), cost)

        progress("measuring the bus, and encoding and sending alone")
        published = _fresh(stage.settings, partitions[0])
        first, cost = alone(bus_run, published, extract)
        ours, bare = [Figure("schoolbus", first, cost)], []
        for _ in range(rounds):
            ours.append(bus())
            number, cost = alone(bare_run, published, published.topic_prefix)
            bare.append(Figure("encode and send", number, cost))
        peers = Comparison("CSV rows to acknowledged events", "0.6 times encoding and sending")
        peers.figures = [middle(ours), middle(bare)]

        progress("measuring how it scales")
        both = Comparison("CSV rows to acknowledged events, both cores", "1.7 times one core")
        both.notes.append(
            "two districts at once, each on its own core, compared with one on one core"
        )
        both.figures = [
            _named("2 on 2 cores", middle([bus([(0,), (1,)]) for _ in range(rounds)])),
            _named("1 on 1 core", middle([bus([(0,)]) for _ in range(rounds)])),
        ]
        scaling = Comparison("CSV rows to acknowledged events, by partitions")
        scaling.figures = [_named(f"{n} partitions", bus(number=n)) for n in partitions]
    return [peers, both, scaling]


def _named(subject: str, figure: Figure) -> Figure:
    return Figure(subject, figure.records, figure.cost)


def _fresh(settings: Settings, partitions: int) -> Settings:
    """Return settings with a prefix of topics that nobody has used."""
    kafka = settings.kafka.model_copy(update={"partitions": partitions})
    prefix = f"bench-{uuid.uuid4().hex[:8]}"
    return settings.model_copy(update={"topic_prefix": prefix, "kafka": kafka})
