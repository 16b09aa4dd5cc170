"""Measures consume, decode, translate and write for Canvas, beside simpler loops.

The bus does all that `bus consume canvas --out DIR` does, with order, dead letters, metrics, traces
and commits. The bare loop polls, decodes with fastavro, writes one CSV row for each record and
commits nothing. The quixstreams program does the same job as a user of that library would write it
(see `peers`).
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import KafkaError as Error
from confluent_kafka.admin import AdminClient
from fastavro import parse_schema, schemaless_reader
from platformdirs import user_cache_path

from bus import local, plugins
from bus.bench import quixstreams
from bus.bench.figures import Comparison, Figure, middle
from bus.bench.instances_benchmark import Instances
from bus.bench.measured import Work, alone
from bus.bench.peers.bare_consumer import reader_settings, records_to_end
from bus.demo.stage import Stage
from bus.errors import Stop
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.observe import telemetry
from bus.settings import Settings
from bus.standard import KINDS

SHARED_OUT = 5.0
"""Seconds until a group has assigned its partitions to instances that joined one after another."""


def bus_loop(settings: Settings, out: str) -> Callable[[], int]:
    """Prepare `bus consume canvas --out OUT --until-caught-up` in this process.

    The function that is returned runs it. It returns the number of records that were delivered or
    became dead letters.
    """
    from bus.consume.worker import Worker
    from bus.observe.metrics import ConsumerMetrics

    telemetry.configure(settings.telemetry)
    product = plugins.product("canvas")
    delivery = product.open(plugins.product_settings(product, settings, out=Path(out)))

    def run() -> int:
        try:
            outcome = Worker(settings, product, delivery, ConsumerMetrics()).run(
                until_caught_up=True
            )
        finally:
            delivery.close()
        return sum(outcome.delivered.values()) + outcome.dead_lettered

    return run


def bare_loop(settings: Settings, out: str) -> Callable[[], int]:
    """Prepare a loop that consumes, decodes with fastavro and writes one CSV row each.

    The function that is returned runs it and returns the number of records.
    """
    schemas = {
        topics.topic(settings, kind): parse_schema(KINDS[kind].schema)
        for kind in plugins.product("canvas").kinds
    }

    def run() -> int:
        consumer = Consumer(reader_settings(settings))
        consumer.subscribe(list(schemas))
        number = 0
        with (Path(out) / "bare.csv").open("w", encoding="utf-8", newline="") as file:
            write = csv.writer(file, lineterminator="\n").writerow
            for message in records_to_end(consumer, schemas):
                source = BytesIO(message.value() or b"")
                source.seek(5)
                record: Any = schemaless_reader(source, schemas[message.topic() or ""], None)
                write(record.values())
                number += 1
        consumer.close()
        return number

    return run


def measure(
    folder: Path,
    *,
    students: int,
    partitions: Sequence[int],
    processes: Sequence[int],
    rounds: int,
    peer: bool,
    progress: Callable[[str], None],
) -> list[Comparison]:
    """Measure beside the peers, then by partitions and processes.

    The bus has a separate home in `folder`, which is rebuilt.

    rounds: how many times each subject works. Subjects take turns, and the median round counts.
    peer:   whether quixstreams is measured too. It is downloaded if it is missing.
    """
    with Stage(folder) as stage:
        stage.bus_down_at_the_end()
        local.up(stage.folder)
        registry = local.endpoints(stage.folder).registry
        stage.run("schemas", "apply")
        extract = str(stage.folder / "extracts" / "bench")
        progress(f"writing the extract of {students:,} students")
        stage.run("sample", extract, "--students", str(students), patience=3600)
        found = []
        for at, number in enumerate(partitions):
            progress(f"{number} partitions: publishing, then measuring how it scales")
            prefix = f"bench{number}"
            stage.set(BUS_TOPIC_PREFIX=prefix, BUS_KAFKA__PARTITIONS=str(number))
            stage.run("schemas", "apply")
            kafka = stage.settings.kafka.model_copy(update={"partitions": number})
            settings = stage.settings.model_copy(update={"topic_prefix": prefix, "kafka": kafka})
            found += _scaling(stage, settings, extract, processes, cores=at == 0)
            if at == 0:
                progress("measuring the bus and its peers")
                found.insert(0, _peers(settings, registry, rounds, peer))
    return found


def _peers(settings: Settings, registry: str, rounds: int, peer: bool) -> Comparison:
    found = Comparison("events to Canvas's CSV", "0.8 times the bare loop, 2 times quixstreams")
    turns: dict[str, list[Figure]] = {}
    for _ in range(rounds):
        figures = [_run(settings, "schoolbus", bus_loop), _run(settings, "bare loop", bare_loop)]
        if peer:
            with tempfile.TemporaryDirectory(dir=settings.home) as out:
                program = quixstreams.python(user_cache_path("schoolbus") / "peers")
                figures.append(quixstreams.run(settings, program, registry, Path(out)))
        for figure in figures:
            if figure.records != figures[0].records:
                raise Stop(
                    f"{figure.subject} processed {figure.records:,} records, but the bus processed "
                    f"{figures[0].records:,}; run the benchmark again"
                )
            turns.setdefault(figure.subject, []).append(figure)
    found.figures = [middle(each) for each in turns.values()]
    return found


def _scaling(
    stage: Stage, settings: Settings, extract: str, processes: Sequence[int], *, cores: bool
) -> list[Comparison]:
    """Measure how the work scales. Publishes the extract that is worked on.

    cores: also measure two instances on one core each, and one instance on one core.
    """
    number = settings.kafka.partitions
    by_processes = Comparison(f"events to Canvas's CSV, {number} partitions, by processes")
    by_cores = Comparison("events to Canvas's CSV, on both cores", "1.7 times one core")
    wanted: list[tuple[Comparison, str, list[tuple[int, ...]]]] = [
        (by_processes, f"{instances} processes", [()] * instances) for instances in processes
    ]
    if cores:
        wanted += [(by_cores, "2 on 2 cores", [(0,), (1,)]), (by_cores, "1 on 1 core", [(0,)])]
        by_cores.notes.append("Kafka runs on the same cores and uses part of both")
    with ExitStack() as ends:
        groups = [
            (found, ends.enter_context(Instances(settings, name, each)))
            for found, name, each in wanted
        ]
        time.sleep(SHARED_OUT)
        for _, instances in groups:
            instances.pause()
        said = stage.run("produce", "oneroster-csv", extract, patience=3600)["records"]
        records = sum(said[kind]["created"] for kind in plugins.product("canvas").kinds)
        for found, instances in groups:
            found.figures.append(instances.work(records))
    return [by_cores, by_processes] if cores else [by_processes]


def _run(settings: Settings, subject: str, work: Work) -> Figure:
    """Run a subject once, from joining its group to its end."""
    forget(settings, f"{settings.topic_prefix}.canvas", f"{settings.topic_prefix}.bare")
    with tempfile.TemporaryDirectory(dir=settings.home) as folder:
        number, cost = alone(work, settings, folder)
    return Figure(subject, number, cost)


def forget(settings: Settings, *groups: str) -> None:
    """Delete the committed offsets of these groups, so that everything is read again."""
    admin = AdminClient(client_settings(settings))
    for future in admin.delete_consumer_groups(list(groups)).values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != Error.GROUP_ID_NOT_FOUND:
                raise
