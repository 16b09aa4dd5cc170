"""Measures the projection: how fast data reaches vendors, and how soon it stops.

It measures:

* `bus vendors run` from the district's topics to the topics of one, ten and fifty vendors, from an
  empty view to the last record. All agreements share all categories under pseudonyms. One vendor is
  compared with a bare loop of the same library calls, without scope, ids and order.
* Attendance that the SIS POSTs (`bus.bench.traffic`), until it is in the topics of ten vendors.
  Then an opt-out and a revocation during such changes.
* A district of another size: the time until a new vendor has the current state, and the time until
  a field that was taken out of an agreement can no longer be read.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka import KafkaError as Error
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from rich.console import Console

from bus import local
from bus.bench.figures import Comparison, Figure, middle
from bus.bench.freshness_benchmark import WARM_UP, Freshness, _figures
from bus.bench.measured import alone
from bus.bench.traffic import Traffic, _enroll, at_once
from bus.bench.usage import Usage
from bus.demo.sample import District
from bus.demo.stage import Stage, first_line
from bus.errors import Stop
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.reader import Reader, scan
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard import KINDS
from bus.vendors import applied, master_key, revocation, stream_progress
from bus.vendors.categories import categories
from bus.vendors.outbox import PRODUCER, headers, scope_mark
from bus.vendors.pseudonyms import Pseudonyms, unwrapped
from bus.vendors.runner import Runner
from bus.vendors.scope import compile_scope
from bus.vendors.vendor_schema import lookup, vendor_schema, vendor_topic

MANY, SHARES = 50, 20
"""How many vendors have a part of the students, and into how many parts the students are split."""
LIVE = tuple(f"live-{number}" for number in range(10))
HOUR = 3600.0
POLL = 10_000
"""Maximum number of messages that the bare loop takes in one call."""
AFTER, DURING = 3.0, 15.0
"""Seconds of changes before an opt-out or a revocation, and seconds of changes in total."""
LIMIT = 60.0
"""Seconds within which the last change must arrive."""

AGREEMENT = """\
vendor = "Vendor {name}"
purpose = "instruction"
basis = "school-official"
from = {first}
until = {last}
history = 2020-01-01
roles = ["teacher", "guardian"]
document = {{ title = "Benchmark", sha256 = "{digest}" }}
contacts = {{ vendor = "v@vendor.example", district = "d@district.example" }}
guard = {{ share = 1.0 }}

[share]
categories = {categories}

[share.why]
{why}

[students]
schools = {schools}
"""
"""An agreement that shares everything. Its guard is off, because many students change at once."""


@dataclass(slots=True)
class VendorsResult:
    """What `bus bench vendors` measured.

    comparisons: the throughput.
    rates:       the freshness at each rate.
    seconds:     for each event with a time limit, such as a revocation, how long it took.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    rates: list[Freshness] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the result as `bus bench vendors --json` prints it."""
        return {
            "comparisons": [one.as_json() for one in self.comparisons],
            "rates": [one.as_json() for one in self.rates],
            "seconds": {name: round(seconds, 2) for name, seconds in self.seconds.items()},
        }

    def show(self, console: Console) -> None:
        """Print the tables, then a line for each time."""
        for comparison in self.comparisons:
            comparison.show(console)
            console.print()
        for rate in self.rates:
            rate.show(console, "a vendor's topic")
            console.print()
        for name, seconds in self.seconds.items():
            console.print(f"{name}: {seconds:,.1f} s", markup=False)


def projecting(settings: Settings) -> Callable[[], int]:
    """Prepare `bus vendors run --until-caught-up` in this process.

    The returned function runs it and returns the number of messages to vendors.
    """
    return lambda: Runner(settings).run(until_caught_up=True).sent


def bare_loop(settings: Settings, name: str) -> Callable[[], int]:
    """Prepare a loop that consumes, decodes and encodes with fastavro, and produces with headers.

    It writes every record of the shared kinds to the topics of this agreement, with the shared
    fields and the real ids. The returned function runs it and returns the number of records.
    """
    one = applied.read(settings)[name]
    scope, mark = compile_scope(one.agreement), scope_mark(one.edition).encode()
    ids = lookup(settings, name, scope)
    about = {
        topics.topic(settings, kind): (
            parse_schema(KINDS[kind].schema),
            parse_schema(vendor_schema(scope, kind, name)),
            b"\0" + ids[kind].to_bytes(4, "big"),
            vendor_topic(settings, name, kind),
            f"org.schoolbus.{kind}.updated",
        )
        for kind in scope.kinds
    }

    def run() -> int:
        producer = Producer(client_settings(settings) | PRODUCER)
        number = 0
        for message in _messages(settings, about):
            ours, theirs, frame, topic, type_ = about[message.topic()]
            source = BytesIO(message.value())
            source.seek(5)
            out = BytesIO()
            out.write(frame)
            record: Any = schemaless_reader(source, ours, None)
            schemaless_writer(out, theirs, record)
            at = int(time.time())
            sent = headers(token_hex(12), type_, at, mark)
            while True:
                try:
                    producer.produce(
                        topic,
                        out.getvalue(),
                        message.key(),
                        message.partition(),
                        headers=sent,  # type: ignore[arg-type]
                        timestamp=at * 1000,
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
            number += 1
        producer.flush()
        return number

    return run


def _messages(settings: Settings, names: Collection[str]) -> Iterator[Any]:
    """Yield all messages of these topics, until the end of each partition."""
    consumer = Consumer(
        client_settings(settings)
        | {
            "group.id": f"{settings.topic_prefix}.bare",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    there = consumer.list_topics(timeout=15).topics
    left = {(name, number) for name in names for number in there[name].partitions}
    consumer.assign([TopicPartition(*place, 0) for place in left])
    while left:
        for message in consumer.consume(POLL, timeout=0.1):
            if error := message.error():
                if error.code() == Error._PARTITION_EOF:
                    left.discard((message.topic(), message.partition()))
            else:
                yield message
    consumer.close()


def measure(
    folder: Path,
    *,
    students: int,
    large: int,
    rates: Sequence[int],
    seconds: float,
    rounds: int,
    progress: Callable[[str], None],
) -> VendorsResult:
    """Measure everything, on a new bus in `folder`.

    students: the number of students for the throughput and the changes.
    large:    the number of students for the new vendor and the field that is taken out.
    rates:    changes per second, each for `seconds` seconds.
    rounds:   how many times one vendor and the bare loop run. They take turns, and the result is
              the median round.
    """
    found = VendorsResult()
    with Stage(folder) as stage:
        stage.bus_down_at_the_end()
        local.up(stage.folder)
        progress(f"publishing a district of {students:,} students")
        _publish(stage, students)
        found.comparisons = _throughput(stage, stage.settings, students, rounds, progress)
        _live(stage, stage.settings, rates, seconds, found, progress)
        progress(f"publishing a district of {large:,} students")
        stage.set(BUS_TOPIC_PREFIX="large")
        _publish(stage, large)
        settings = stage.settings.model_copy(update={"topic_prefix": "large"})
        _rewriting(stage, settings, large, found, progress)
    return found


# ---- throughput ----------------------------------------------------------------------------------


def _throughput(
    stage: Stage, settings: Settings, students: int, rounds: int, progress: Callable[[str], None]
) -> list[Comparison]:
    turns: dict[str, list[Figure]] = {"schoolbus, 1 vendor": [], "bare loop": []}
    for number in range(rounds):
        progress(f"one vendor, and the bare loop ({number + 1} of {rounds})")
        ours, theirs = turns.values()
        ours.append(_project(stage, settings, [f"one-{number}"]))
        with _agreed(stage, settings, [f"bare-{number}"]):
            theirs.append(Figure("bare loop", *alone(bare_loop, settings, f"bare-{number}")))
    one, bare = (middle(each) for each in turns.values())
    job = f"events to vendors' topics, {students:,} students"
    progress("ten vendors")
    ten = _project(stage, settings, [f"ten-{number}" for number in range(10)])
    progress(f"{MANY} vendors with a part of the students each")
    parts = _parts(settings)
    fifty = _project(
        stage,
        settings,
        [f"fifty-{number}" for number in range(MANY)],
        [parts[number % len(parts)] for number in range(MANY)],
    )
    fifty = Figure(f"{fifty.subject}, 1/{len(parts)} of the students each", *_of(fifty))
    more = Comparison(f"{job}, more vendors", "10 vendors: under 8.5 times the time of one")
    more.figures = [ten, one, fifty]
    more.notes = [
        f"{figure.subject}: {figure.cost.seconds / one.cost.seconds:.1f} times the time of one"
        for figure in (ten, fifty)
    ]
    return [Comparison(job, "0.6 times the bare loop", [one, bare]), more]


def _of(figure: Figure) -> tuple[int, Any]:
    return figure.records, figure.cost


def _project(
    stage: Stage, settings: Settings, names: Sequence[str], schools: Sequence[Sequence[str]] = ()
) -> Figure:
    """Measure a run from an empty view for new agreements, and end the agreements afterwards."""
    with _agreed(stage, settings, names, schools):
        for path in (settings.home / "vendors").glob(f"{settings.topic_prefix}.sqlite*"):
            path.unlink()
        number, cost = alone(projecting, settings)
    many = "vendor" if len(names) == 1 else "vendors"
    return Figure(f"schoolbus, {len(names)} {many}", number, cost)


def _parts(settings: Settings) -> list[list[str]]:
    """Return the schools in `SHARES` parts; if there are fewer schools, in one part for each."""
    names = {
        (message.key() or b"").decode() for message in scan(settings, topics.topic(settings, "org"))
    }
    schools = sorted(name for name in names if name.startswith("school-"))
    number = min(SHARES, len(schools))
    return [schools[at::number] for at in range(number)]


# ---- agreements ----------------------------------------------------------------------------------


@contextmanager
def _agreed(
    stage: Stage, settings: Settings, names: Sequence[str], schools: Sequence[Sequence[str]] = ()
) -> Iterator[None]:
    """Apply these agreements, and revoke them when the block ends."""
    _apply(stage, names, schools)
    try:
        yield
    finally:
        for name in names:
            _file(stage, name).unlink()
            revocation.revoke(settings, name, "the benchmark is over", datetime.now(UTC))


def _apply(
    stage: Stage,
    names: Sequence[str],
    schools: Sequence[Sequence[str]] = (),
    without: Collection[str] = (),
) -> None:
    """Write agreements, and apply them.

    schools: the schools of each; by default, all.
    without: the categories that are not shared.
    """
    _file(stage, "x").parent.mkdir(exist_ok=True)
    for name, selected in zip(names, schools or [()] * len(names), strict=True):
        _file(stage, name).write_text(agreement_text(name, selected, without), "utf-8")
    stage.run("vendors", "apply", patience=HOUR)


def agreement_text(name: str, schools: Sequence[str], without: Collection[str] = ()) -> str:
    """Return an agreement that is active today and shares all categories, except for some."""
    shared = [name for name, fields in categories().items() if fields and name not in without]
    return AGREEMENT.format(
        name=name,
        first=date.today() - timedelta(days=30),
        last=date.today() + timedelta(days=300),
        digest="0" * 64,
        categories=shared,
        why="\n".join(f"'{one}' = 'for the benchmark'" for one in shared),
        schools=list(schools),
    )


def _file(stage: Stage, name: str) -> Path:
    return stage.folder / "agreements" / f"{name}.toml"


def _publish(stage: Stage, students: int) -> None:
    """Publish a district of which 1% of the students have an opt-out."""
    extract = District(students=students, opt_outs=0.01).write(
        stage.folder / "extracts" / f"{students}"
    )
    stage.run("schemas", "apply")
    stage.run("produce", "oneroster-csv", str(extract), patience=HOUR)


# ---- live changes --------------------------------------------------------------------------------


class _Watch:
    """Reads the attendance topics of vendors, and keeps the times at which messages arrived.

    arrived: for each agreement and each of its ids, the times at which messages with it arrived.
    """

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        self.arrived: dict[str, dict[str, list[float]]] = {name: {} for name in names}
        self._of = {vendor_topic(settings, name, "attendance"): name for name in names}
        self._over = threading.Event()
        self._consumer = Consumer(
            client_settings(settings)
            | {"group.id": f"{settings.topic_prefix}.watch", "fetch.wait.max.ms": 20}
        )
        there = self._consumer.list_topics(timeout=15).topics
        self._consumer.assign(
            [TopicPartition(name, part, 0) for name in self._of for part in there[name].partitions]
        )
        self._thread = threading.Thread(target=self._watch, name="watch")
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.is_set():
            messages = self._consumer.consume(1_000, timeout=0.05)
            now = time.time()
            for message in messages:
                if not message.error():
                    key = (message.key() or b"").decode()
                    self.arrived[self._of[message.topic() or ""]].setdefault(key, []).append(now)

    def close(self) -> None:
        """Stop reading."""
        self._over.set()
        self._thread.join()
        self._consumer.close()


def _live(
    stage: Stage,
    settings: Settings,
    rates: Sequence[int],
    seconds: float,
    found: VendorsResult,
    progress: Callable[[str], None],
) -> None:
    """Measure the freshness at each rate, then an opt-out and a revocation during changes."""
    made = stage.run("produce", "http", "--new-key", "bench")
    client = "BUS_PRODUCERS__HTTP__CLIENTS__BENCH__"
    stage.set(
        **{
            f"{client}KEY_SHA256": made["sha256"],
            f"{client}SCOPES": "org,student,attendance",
            "BUS_PRODUCERS__HTTP__RATE": "1000",  # the limit of one client must not matter
        }
    )
    progress("starting ten vendors")
    _apply(stage, LIVE)
    service = stage.start("http", "produce", "http", "--port", "0")
    url = first_line(service)["url"]
    _enroll(url, made["key"])
    projection = stage.start("projection", "vendors", "run")
    _wait(lambda: all(_written(settings, name) for name in LIVE), "ten vendors", HOUR)
    running = local.status(stage.folder).running
    usage = Usage(
        {
            "HTTP source": service.pid,
            "Kafka": running["kafka"].pid,
            "projection": projection.pid,
        }
    )
    (stage.folder / "sent.csv").touch()
    there = Traffic(stage, stage.folder, url, made["key"], usage)
    with closing(_Watch(settings, LIVE)) as watch:
        for rate in rates:
            progress(f"{rate:,} changes a second for {seconds:.0f} s")
            found.rates.append(_freshness(there, settings, watch, rate, seconds))
        progress("an opt-out, and a revocation")
        one = "student-0"
        scope = ("--scope", "protected", "--decided-by", "parent")
        began = _during_changes(there, rates[0], ["optouts", "add", one, *scope])
        mine = {id_ for id_, student in _students(settings).items() if student == one}
        found.seconds["an opt-out: until nothing more flows"] = (
            max(
                at
                for name in LIVE
                for id_ in map(_pseudonym(settings, name), mine)
                for at in watch.arrived[name].get(id_, ())
            )
            - began
        )
        why = ("--why", "the benchmark is over", "--yes")
        began = _during_changes(there, rates[0], ["vendors", "revoke", LIVE[0], *why])
        last = {name: max(map(max, watch.arrived[name].values())) for name in LIVE}
        if last[LIVE[1]] < began + AFTER:
            raise Stop("no changes arrived while an agreement was revoked; run the benchmark again")
        found.seconds["a revocation: until nothing more flows"] = last[LIVE[0]] - began
    projection.terminate()
    projection.wait(LIMIT)


def _freshness(
    there: Traffic, settings: Settings, watch: _Watch, rate: int, seconds: float
) -> Freshness:
    """Measure the delay of each change at each of the ten vendors."""
    before = there.sent().keys()
    there.usage.forget()
    there.send(rate, seconds + WARM_UP)
    sent = {name: one for name, one in there.sent().items() if name not in before}
    keys = {
        _header(message, "ce_id"): (message.key() or b"").decode()
        for message in scan(settings, topics.topic(settings, "attendance"))
    }
    first = min(one.due for one in sent.values())
    measured = {name: one for name, one in sent.items() if one.due >= first + WARM_UP}
    delays, last = [], 0.0
    for name in LIVE:
        pseudonym, arrived = _pseudonym(settings, name), watch.arrived[name]
        wanted = {pseudonym(keys[event]): one.due for event, one in measured.items()}
        _wait(partial(_all_in, wanted, arrived), "the last changes", LIMIT)
        delays += [arrived[id_][0] - due for id_, due in wanted.items()]
        last = max(last, *(arrived[id_][0] for id_ in wanted))
    there.usage.look()
    return Freshness(
        asked=rate,
        at_once=at_once(rate),
        changes=len(measured),
        through=round(len(measured) / (last - first - WARM_UP), 1),
        accepted=_figures([one.accepted - one.due for one in measured.values()]),
        delivered=_figures(delays),
        used=there.usage.used(),
    )


def _during_changes(there: Traffic, rate: int, command: Sequence[str]) -> float:
    """Run a command while changes flow, which go on for some time. Return when it began."""
    began = []

    def act() -> None:
        time.sleep(AFTER)
        began.append(time.time())
        there.stage.run(*command)

    thread = threading.Thread(target=act, name="command")
    thread.start()
    there.send(rate, DURING)
    thread.join()
    time.sleep(AFTER)
    return began[0]


def _students(settings: Settings) -> dict[str, str]:
    """Return the student of each attendance record, by the record's id."""
    decoder = Decoder("attendance", schema_lookup(settings))
    return {
        (message.key() or b"").decode(): decoder.decode(message.value())["studentSourcedId"]
        for message in scan(settings, topics.topic(settings, "attendance"))
        if message.value() is not None
    }


def _pseudonym(settings: Settings, name: str) -> Callable[[str], str]:
    key = applied.read(settings)[name].wrapped_key
    return Pseudonyms(unwrapped(key, master_key.read(settings))).pseudonym


def _header(message: Any, name: str) -> str:
    return str(next(value.decode() for key, value in message.headers() if key == name))


def _all_in(wanted: Collection[str], there: Collection[str]) -> bool:
    return all(one in there for one in wanted)


def _wait(condition: Callable[[], bool], what: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise Stop(f"{what}: not there after {seconds:.0f} s; see the logs of the benchmark")
        time.sleep(0.1)


# ---- a new vendor, and a narrower agreement ------------------------------------------------------


def _rewriting(
    stage: Stage,
    settings: Settings,
    students: int,
    found: VendorsResult,
    progress: Callable[[str], None],
) -> None:
    """Measure a new vendor and the removal of a field, while the projection runs."""

    def until_written(what: str, name: str, without: Collection[str] = ()) -> None:
        progress(what)
        began = time.monotonic()
        _apply(stage, [name], without=without)
        _wait(lambda: _written(settings, name), what, HOUR)
        found.seconds[f"{what}, {students:,} students"] = time.monotonic() - began

    # With the head of the other district's record of disclosures, which is in the same folder.
    shutil.rmtree(_file(stage, "x").parent, ignore_errors=True)
    stage.start("rewriting", "vendors", "run")
    until_written("the view, and a first vendor", "first")
    until_written("the present state for a new vendor", "second")
    with Reader(settings, "could not read the ends: Kafka reports {}") as reader:
        before = reader.ends([vendor_topic(settings, "first", "student")])
        until_written("a field that is taken out is gone", "first", ["Student Name"])
        lows = {place: low for place, (low, _) in reader.marks(before).items()}
    if any(lows[place] < end for place, end in before.items()):
        raise Stop("what the vendor had can still be read after its topics were written again")


def _written(settings: Settings, name: str) -> bool:
    """Return whether a vendor's topics show the agreement as applied, and nothing older."""
    path = settings.home / "vendors" / f"{settings.topic_prefix}.sqlite"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as con:
            progress = stream_progress.read(con, name)
    except sqlite3.OperationalError:  # the projection is making the file
        return False
    return (
        progress is not None
        and progress.fingerprint == applied.read(settings)[name].edition
        and not progress.unfinished
    )
