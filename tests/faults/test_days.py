"""Random days of a small random district: each product ends with the state of the SIS.

Hypothesis draws the days: what changes in the SIS, which rows of its extract are rubbish, and
whether the extract is bulk or delta. It also draws where the producer and the consumers are killed
and start again, and when the products are compared. Everything goes through the real producer,
Kafka, registry and consumers. A failure shrinks to the few changes that cause it.
"""

from __future__ import annotations

import base64
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import engine

from bus.ingest import diff, snapshot
from bus.ingest.pipeline import produce
from bus.ingest.report import Report
from bus.observe.metrics import ConsumerMetrics
from bus.product import Product
from bus.registry import subjects
from bus.settings import ConsumerSettings, KafkaSettings, Settings
from consumers.canvas import PRODUCT as CANVAS
from consumers.microsoft_sds import PRODUCT as SDS
from consumers.webhook import PRODUCT as WEBHOOK
from producers.oneroster_csv.read import read
from tests import canvas_model, sds_model
from tests.faults import endstates
from tests.faults.conftest import Findings
from tests.faults.district import (
    FILES,
    KINDS,
    RUBBISH,
    Change,
    Expected,
    Extract,
    Mode,
    Rubbish,
    Sis,
)
from tests.faults.process_deaths import (
    Countdown,
    KillableDelivery,
    KillableWorker,
    Killed,
    killable_producer,
)
from tests.integration.conftest import Bus
from tests.webhook_receiver import Receiver

engine.MAX_SHRINKING_SECONDS = 90
"""Hypothesis allows five minutes. That is about 60 attempts here: each runs several days."""
HOST = "host-"
"""The prefix of a district that never changes, so that every product always has people."""
SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
NUMBERS = count(1)
PRODUCTS = (CANVAS, SDS, WEBHOOK)
SOME = {"org": 3, "academicSession": 2, "course": 2, "student": 4, "staff": 2, "class": 3}
SOME |= {"enrollment": 6}
"""The largest number of records of each kind; few, so that one record often has several changes."""
CHANGES = [
    (what, kind, at)
    for what in ("put", "put", "put", "remove", "forget", "forget")
    for kind in (*KINDS, "student", "class")
    for at in range(SOME[kind])
]
"""The possible changes of each record; kinds with more records are drawn more often."""


class Day(NamedTuple):
    """A day: the changes before the extract, the form of the extract, and the faults after it.

    left_out: a file that the extract omits, if it may.
    producer_killed_at: the step at which the producer is killed; it is then run again.
    small_transactions: whether each change of a kind is in a separate transaction.
    cache_lost: whether the cache of what was published is deleted.
    delivered: whether the products' consumers run on this day.
    consumers_killed_at: for each product the step at which its consumer is killed; it is then run
        again.
    batch: the largest number of records in a consumer's batch.
    """

    changes: list[Change]
    mode: Mode = "bulk"
    rubbish: list[tuple[int, Rubbish]] = []  # noqa: RUF012 - never changed
    left_out: str = ""
    producer_killed_at: int | None = None
    small_transactions: bool = False
    cache_lost: bool = False
    delivered: bool = True
    consumers_killed_at: tuple[int | None, ...] = (None, None, None)
    batch: int = 1_000


def changes() -> st.SearchStrategy[list[Change]]:
    """Draw the changes of a day.

    Each change is one number. Hypothesis shrinks by leaving out and lowering numbers, so it leaves
    out and simplifies whole changes.
    """
    some = st.lists(st.integers(0, len(CHANGES) * 8**3 - 1).map(change), max_size=10)
    return st.builds(list.__add__, some, some)


def change(number: int) -> Change:
    """Return the change with a number; lower numbers give simpler changes."""
    number, one = divmod(number, 8)
    number, another = divmod(number, 8)
    number, third = divmod(number, 8)
    return Change(*CHANGES[number], third, another, one)


def some_of_each(most: int) -> list[Change]:
    """Return changes that create this many records of each kind, up to the limit of the kind."""
    return [
        Change("put", kind, at, at, at, at)
        for kind, number in SOME.items()
        for at in range(min(most, number))
    ]


FIRST = [some_of_each(most) for most in (0, 1, 2, 6, 6, 6)]
"""The records of the first day, before its changes; few examples begin without records."""


def days() -> st.SearchStrategy[list[Day]]:
    """Draw some days. They shrink to fewer changes, and to no kills."""
    kills = st.none() | st.integers(0, 60)
    rubbish = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(RUBBISH)), max_size=3)

    def day(changes: st.SearchStrategy[list[Change]]) -> st.SearchStrategy[Day]:
        return st.builds(
            Day,
            changes=changes,
            mode=st.sampled_from(("bulk", "bulk", "delta")),
            rubbish=st.just([]) | st.just([]) | rubbish,
            left_out=st.sampled_from((*[""] * 12, *FILES)),
            producer_killed_at=kills,
            small_transactions=st.booleans(),
            cache_lost=st.booleans(),
            delivered=st.booleans(),
            consumers_killed_at=st.tuples(
                *[st.sampled_from((*[None] * 9, *range(9)))] * len(PRODUCTS)
            ),
            batch=st.sampled_from((1_000, 5)),
        )

    first = day(st.builds(list.__add__, st.sampled_from(FIRST), changes()))
    later = st.lists(day(changes()), min_size=1, max_size=3)
    return st.builds(list.__add__, first.map(lambda day: [day]), later)


@dataclass(slots=True)
class World:
    """A bus with separate topics and products, in which examples run one after the other.

    imported: how many of Canvas's zips are in its state.
    broken:   whether an example failed with an error, so that later examples need a new world.
    """

    settings: Settings
    folder: Path
    vendor: Receiver
    examples_run: int = 0
    kills: int = 0
    broken: bool = False
    canvas: canvas_model.State = field(default_factory=dict)
    imported: int = 0

    def canvas_state(self, mark: str) -> canvas_model.State:
        """Return the state of Canvas after it has imported all zips."""
        zips = sorted((self.folder / "canvas").glob("*.zip"))
        refused: list[canvas_model.Refused] = []
        canvas_model.apply(zips[self.imported :], self.canvas, refused)
        self.imported = len(zips)
        # Canvas sends this when an organization or term cannot be deleted yet; it deletes them
        # later.
        unexpected = [one for one in refused if not one.message.startswith("Cannot delete")]
        assert [one for one in unexpected if mark in one.message] == []
        return self.canvas

    def sds_state(self, mark: str) -> sds_model.State:
        """Return the set as School Data Sync reads it, limited to this district and `HOST`."""
        own = self.folder / "own"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        for path in (self.folder / SDS.name).glob("*.csv"):
            head, *lines = path.read_text("utf-8").splitlines(keepends=True)
            ours = [line for line in lines if line.startswith((mark, HOST))]
            (own / path.name).write_text("".join([head, *ours]), "utf-8", newline="")
        return sds_model.load(own)

    def publish(self, source: str, path: Path, day: Day) -> Report:
        """Publish the day's extract; if the producer is killed, run it again."""
        apply = partial(
            produce, self.settings, source, partial(read, path), allow_mass_withdrawal=True
        )
        if day.cache_lost:
            snapshot.cache_file(self.settings, source).unlink(missing_ok=True)
        countdown = Countdown(day.producer_killed_at)
        try:
            with killable_producer(countdown, 1 if day.small_transactions else 50_000) as progress:
                return apply(progress=progress)
        except Killed:
            self.kills += 1
            return apply()

    def deliver(self, day: Day) -> None:
        """Run the consumers until they have caught up; run killed ones again."""
        with ThreadPoolExecutor(len(PRODUCTS)) as pool:
            for done in [
                pool.submit(self._consume, replace(product, batch_records=day.batch), steps)
                for product, steps in zip(PRODUCTS, day.consumers_killed_at, strict=True)
            ]:
                done.result()

    def _consume(self, product: Product, steps: int | None) -> None:
        for countdown in (Countdown(steps), Countdown()):
            delivery = KillableDelivery(product.open(self._settings_of(product)), countdown)
            loop = KillableWorker(self.settings, product, delivery, ConsumerMetrics())
            loop.countdown = countdown
            try:
                outcome = loop.run(until_caught_up=True)
                assert outcome.dead_lettered == 0
                return
            except Killed:
                self.kills += 1
            finally:
                delivery.close()

    def _settings_of(self, product: Product) -> Any:
        if product.name == WEBHOOK.name:
            return product.settings(url=self.vendor.url, secret=SECRET)
        return product.settings(out=self.folder / product.name)


def run_example(world: World, mark: str, days: list[Day]) -> None:
    """Run an example; each product must equal the SIS each time that its consumer has run."""
    sis, expected = Sis(mark), Expected()
    path = world.folder / f"{mark}.zip"
    for number, day in enumerate(days):
        for change in day.changes:
            sis.change(change)
        left_out = day.left_out if expected.may_omit(day.left_out) else ""
        modes: dict[str, Mode] = {file: day.mode for file in FILES if file != left_out}
        extract = sis.extract(modes, day.rubbish)
        report = world.publish(f"days/{mark}", extract.write(path), day)
        assert_quarantined(extract, report)
        expected.apply(extract)
        if day.delivered or number == len(days) - 1:
            world.deliver(day)
            assert_products(world, mark, expected)


def assert_quarantined(extract: Extract, report: Report) -> None:
    """Check that each row of rubbish is in quarantine with a reason."""
    fatal = [fault for fault in report.faults if fault.fatal]
    assert len(fatal) >= len(extract.rubbish)
    assert all(fault.reason and fault.file for fault in fatal)


def assert_products(world: World, mark: str, expected: Expected) -> None:
    """Check that each product has the state of the extracts, and nothing else."""
    assert endstates.canvas_has(world.canvas_state(mark), mark, expected) == endstates.canvas(
        expected
    )
    assert endstates.sds_has(world.sds_state(mark), mark) == endstates.sds(expected)
    assert endstates.webhook_has(world.vendor.accepted, mark) == endstates.webhook(expected)


Worlds = Callable[[], World]


@pytest.fixture
def worlds(bus: Bus, tmp_path: Path) -> Iterator[Worlds]:
    """A function that returns the world for the next example.

    The world is a new one after an error, and after 25 examples.
    """
    with Receiver(SECRET) as vendor:
        now: list[World] = []

        def world() -> World:
            if not now or now[0].broken or now[0].examples_run >= 25:
                folder = tmp_path / str(number := next(NUMBERS))
                folder.mkdir()
                how = {
                    "topic_prefix": f"days{number}",
                    "kafka": KafkaSettings(partitions=3),
                    "consumer": ConsumerSettings(hold_seconds=0.5),
                }
                settings = bus.settings.model_copy(update=how)
                subjects.apply(settings)
                now[:] = [World(settings, folder, vendor)]
                run_example(now[0], HOST, [Day(FIRST[-1])])
            now[0].examples_run += 1
            return now[0]

        yield world
    for folder in tmp_path.iterdir():
        shutil.rmtree(folder, ignore_errors=True)


def examples(
    worlds: Worlds, number: int, seed_: int, tally: Counter[str], failed: list[list[Day]]
) -> None:
    """Run this many examples; raise the error of the smallest one that fails.

    tally:  counts of what the examples had.
    failed: the examples that failed; the last one is the smallest.
    """

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @seed(seed_)
    @given(days=days())
    def example(days: list[Day]) -> None:
        world = worlds()
        try:
            run_example(world, f"{next(NUMBERS)}-", days)
        except BaseException as error:
            # An assertion leaves the world usable: other districts' records do not affect the next
            # example.
            world.broken = not isinstance(error, AssertionError)
            failed.append(days)
            raise
        tally["districts"] += 1
        tally["days"] += len(days)
        tally["changes"] += sum(len(day.changes) for day in days)
        tally["rows of rubbish"] += sum(len(day.rubbish) for day in days)
        tally["kills"] += world.kills
        world.kills = 0

    example()


@pytest.mark.longest
def test_each_product_equals_the_sis_after_random_days(
    worlds: Worlds, findings: Findings, request: pytest.FixtureRequest, long: bool
) -> None:
    tally: Counter[str] = Counter()
    examples(worlds, 200 if long else 5, request.config.getoption("--seed"), tally, [])
    summary = ", ".join(f"{number} {what}" for what, number in tally.items())
    findings.add("random days of a small district", summary, "each product equals the SIS")


@pytest.mark.long
def test_a_failure_shrinks_to_a_few_records(
    worlds: Worlds,
    findings: Findings,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compare = diff.compare

    def without_withdrawals(workspace: Any, kind: str, _: object) -> Any:
        return compare(workspace, kind, "delta")  # withdraws no missing records

    monkeypatch.setattr(diff, "compare", without_withdrawals)
    # It takes longer than the limit of the other tests, because each example takes seconds.
    monkeypatch.setattr(engine, "MAX_SHRINKING_SECONDS", 900)
    failed: list[list[Day]] = []
    with pytest.raises(AssertionError):
        examples(worlds, 200, request.config.getoption("--seed"), Counter(), failed)
    first, smallest = (sum(len(day.changes) for day in days) for days in (failed[0], failed[-1]))
    assert smallest <= 10
    findings.add(
        "withdrawals lost, in random days",
        f"noticed with {first} changes",
        f"after {len(failed)} smaller failures it is {smallest} changes in {len(failed[-1])} days",
    )
