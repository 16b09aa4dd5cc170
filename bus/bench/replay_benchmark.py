"""Measures replays: all history beside a bare loop, one school's events, and a new product.

* A full replay of a district's first day for Canvas into a folder, beside the bare loop of
  `bus.bench.consume_benchmark` on the same topics.
* The same with `--only-current`, which brings a new product up to date.
* The attendance events of one school in a window of time, delivered to a vendor. The result also
  says how much of the topic was read.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from bus import local, plugins
from bus.bench.consume_benchmark import bare_loop, forget
from bus.bench.figures import Comparison, Figure, middle
from bus.bench.measured import Work, alone
from bus.bench.traffic import vendor
from bus.demo.stage import Stage
from bus.ingest.columns import columns, encodable, quoted
from bus.kafka.cloudevents import now
from bus.kafka.transactions import TRANSACTION_RECORDS, Publisher
from bus.plugins import delivery_into
from bus.registry import subjects
from bus.replay.engine import ReplayEngine
from bus.replay.replay_log import ReplayRequest, ReplayState, keyed, new_id
from bus.replay.selection import select
from bus.replay.window import resolve
from bus.settings import Settings

SCHOOLS = 1_000
"""How many schools the attendance events belong to."""
WINDOW = 0.1
"""The share of the attendance events in the window."""


def replay(settings: Settings, name: str, into: str, **how: Any) -> Callable[[], ReplayState]:
    """Prepare `bus replay NAME --into INTO …` in this process.

    The function that is returned runs it and returns its final state.
    """
    product = plugins.product(name)
    chosen = select(
        settings,
        product.kinds,
        entities=how.get("entities", ()),
        schools=how.get("schools", ()),
    )

    def run() -> ReplayState:
        since, until = how.get("since", "beginning"), how.get("until", "now")
        window = resolve(settings, chosen.kinds, since, until)
        about = ReplayRequest(
            id=new_id(name),
            product=name,
            since=since,
            until=until,
            only_current=how.get("only_current", False),
            into=into,
            at=now(),
            start=keyed(window.start),
            stop=keyed(window.stop),
        )
        delivery = delivery_into(product, settings, into)
        try:
            return ReplayEngine(settings, product, delivery, about, chosen).run()
        finally:
            delivery.close()

    return run


def full(settings: Settings, out: str) -> Callable[[], int]:
    """Prepare a replay of all history for Canvas.

    The function that is returned runs it and returns the number of records delivered.
    """
    run = replay(settings, "canvas", f"{out}/canvas")
    return lambda: sum(run().delivered.values())


def current(settings: Settings, out: str) -> Callable[[], int]:
    """Prepare a replay of the current state for Canvas.

    The function that is returned runs it and returns the number of records delivered.
    """
    run = replay(settings, "canvas", f"{out}/canvas", only_current=True)
    return lambda: sum(run().delivered.values())


def one_school(
    settings: Settings, out: str, url: str, since: str, until: str
) -> Callable[[], tuple[int, int]]:
    """Prepare a replay of one school's attendance in a window, for a vendor.

    The function that is returned runs it and returns how many events were delivered and read.
    """
    run = replay(
        settings,
        "webhook",
        url,
        entities=("attendance",),
        schools=("school-7",),
        since=since,
        until=until,
    )

    def both() -> tuple[int, int]:
        state = run()
        delivered = sum(state.delivered.values())
        return delivered, delivered + state.passed

    return both


def measure(
    folder: Path,
    *,
    students: int,
    attendance: int,
    rounds: int,
    progress: Callable[[str], None],
) -> list[Comparison]:
    """Measure all three replays, on a bus in `folder`, which is rebuilt.

    rounds: how many times the full replay and the bare loop work. They take turns, and the median
            round counts.
    """
    found = []
    with Stage(folder) as stage:
        stage.bus_down_at_the_end()
        local.up(stage.folder)
        stage.run("schemas", "apply")
        extract = str(stage.folder / "extracts" / "bench")
        progress(f"writing and publishing the extract of {students:,} students")
        stage.run("sample", extract, "--students", str(students), patience=3600)
        stage.run("produce", "oneroster-csv", extract, patience=3600)
        settings = stage.settings
        progress("measuring a full replay and the bare loop")
        whole = Comparison("a full replay for Canvas", "0.8 times the bare loop")
        turns: dict[str, list[Figure]] = {}
        for _ in range(rounds):
            for subject, work in (("schoolbus", full), ("bare loop", bare_loop)):
                turns.setdefault(subject, []).append(_run(settings, subject, work))
        whole.figures = [middle(each) for each in turns.values()]
        whole.notes = [figure.memory() for figure in whole.figures]
        found.append(whole)
        progress("measuring a new product")
        new = Comparison(f"Canvas brought up to date with {students:,} students")
        new.figures = [_run(settings, "schoolbus", current)]
        new.notes = [figure.memory() for figure in new.figures]
        found.append(new)
        if attendance:
            progress(f"publishing {attendance:,} attendance events")
            since, until = _publish(settings, attendance)
            progress("measuring one school's attendance in a window")
            found.append(_window(stage, settings, attendance, since, until))
    return found


def _window(
    stage: Stage, settings: Settings, attendance: int, since: str, until: str
) -> Comparison:
    secret = stage.webhook_secret
    products = {"webhook": {"secret": secret, "state": str(stage.folder / "vendor")}}
    settings = settings.model_copy(update={"products": products})
    with vendor(secret, stage.folder / "vendor.csv") as (_, url):
        (delivered, read), cost = alone(one_school, settings, "", url, since, until)
    found = Comparison(
        f"one school's attendance in a window, of {attendance:,} events",
        "reads no more than the window, with flat memory",
        [Figure("schoolbus", read, cost)],
    )
    found.notes = [
        f"{read:,} events read, {delivered:,} delivered",
        *(figure.memory() for figure in found.figures),
    ]
    return found


def _run(settings: Settings, subject: str, work: Work) -> Figure:
    forget(settings, f"{settings.topic_prefix}.bare")
    with tempfile.TemporaryDirectory(dir=settings.home) as folder:
        number, cost = alone(work, settings, folder)
    return Figure(subject, number, cost)


def _publish(settings: Settings, number: int) -> tuple[str, str]:
    """Publish this many attendance events in three parts.

    Returns the times at which the middle part, a tenth of the events, began and ended.
    """
    publisher = Publisher(settings, "/bench", subjects.lookup(settings), time=now())
    edges = []
    share = (1 - WINDOW) / 2
    try:
        begun = 0
        for part in (int(number * share), int(number * WINDOW), int(number * share)):
            edges.append(_moment())
            for start in range(begun, begun + part, TRANSACTION_RECORDS):
                stop = min(start + TRANSACTION_RECORDS, begun + part)
                with publisher.transaction():
                    for batch in _attendance(start, stop):
                        publisher.publish("attendance", "created", batch)
            begun += part
            time.sleep(0.05)  # so that the timestamps of two parts never overlap
    finally:
        publisher.close()
    return edges[1], edges[2]


def _moment() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _attendance(start: int, stop: int) -> Any:
    """Yield attendance records start to stop, as `bus.registry.batch_codec` takes them."""
    values = {
        "sourcedId": "'attendance-' || i",
        "status": "'active'",
        "studentSourcedId": "'student-' || (i % 1000003)",
        "schoolSourcedId": f"'school-' || (i % {SCHOOLS})",
        "classSourcedId": "'class-' || (i % 40009)",
        "eventDate": "DATE '2026-11-25'",
        "attendanceEventCategory": "'inAttendance'",
    }
    taken = ", ".join(
        f"CAST({values.get(name, 'NULL')} AS {type_}) AS {quoted(name)}"
        for name, type_ in columns("attendance").items()
    )
    con = duckdb.connect()
    yield from con.sql(
        f"SELECT {encodable('attendance', 'c')} "
        f"FROM (SELECT {taken} FROM range({start}, {stop}) t(i)) c"
    ).to_arrow_reader(10_000)
