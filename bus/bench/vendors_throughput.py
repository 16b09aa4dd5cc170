"""Measures `bus vendors run` from an empty view to the last record, for one and more vendors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from bus.bench.figures import Comparison, Figure, Goal, middle
from bus.bench.measured import alone, together
from bus.bench.peers.bare_projection import bare_projection
from bus.bench.vendors_district import (
    ALL,
    StudentGroup,
    VendorsDistrict,
    wait_until_written,
)
from bus.settings import Settings
from bus.vendors.district_view import file_of
from bus.vendors.runner import Runner

INSTANCES = 2
"""How many instances share the work, and into how many shards the students are divided."""
TEN, FIFTY, PARTS = 10, 50, 20
"""How many vendors there are, and into how many parts the students are split for the fifty."""


def projection(settings: Settings) -> Callable[[], int]:
    """Prepare `bus vendors run --until-caught-up` in this process.

    The function that is returned runs it and returns the number of messages to vendors.
    """
    return lambda: Runner(settings).run(until_caught_up=True).sent


def measure(
    district: VendorsDistrict, rounds: int, progress: Callable[[str], None]
) -> tuple[list[Comparison], list[Goal]]:
    """Measure one vendor beside the bare loop, then ten and fifty vendors beside one.

    rounds: how many times one vendor and the bare loop run. They take turns, and the median round
            counts.
    """
    ours, theirs = [], []
    for number in range(rounds):
        progress(f"one vendor, and the bare loop (round {number + 1} of {rounds})")
        ours.append(_project(district, [f"one-{number}"], "1 vendor"))
        name = f"bare-{number}"
        with district.agreed([name]):
            theirs.append(Figure("bare loop", *alone(bare_projection, district.settings, name)))
    one, bare = middle(ours), middle(theirs)
    progress(f"{TEN} vendors")
    ten = _project(district, [f"ten-{number}" for number in range(TEN)], f"{TEN} vendors")
    share = f"{FIFTY} vendors, 1/{PARTS} of the students each"
    progress(share)
    names = [f"fifty-{number}" for number in range(FIFTY)]
    fifty = _project(district, names, share, district.parts(PARTS))
    progress(f"{TEN} vendors, by one instance and by two")
    alone_, shared = (_shared(district, number) for number in (1, INSTANCES))
    job = f"messages to vendors, {district.students:,} students"
    beside = Comparison(job, "0.6 times the bare loop", [one, bare])
    more = Comparison(f"{job}, by vendors", f"{TEN} vendors: under 8.5 times the time of one")
    more.figures = [one, ten, fifty]
    several = Comparison(f"{job}, by instances", "until all topics are written")
    several.figures = [alone_, shared]
    return [beside, more, several], [
        Goal(
            "one vendor: rate beside the bare loop's", beside.ratio(bare), "times", 0.6, least=True
        ),
        Goal(f"{TEN} vendors: time beside one vendor's", _times(ten, one), "times", 8.5),
        Goal(f"{share}: time beside one vendor's", _times(fifty, one), "times"),
        Goal(
            f"{TEN} vendors, {INSTANCES} instances: time beside one instance's",
            _times(shared, alone_),
            "times",
        ),
    ]


def instance(settings: Settings, names: Sequence[str]) -> Callable[[], int]:
    """Prepare `bus vendors run` in this process, until the topics of these vendors are written.

    The function that is returned runs it and returns the number of messages to vendors.
    """
    runner = Runner(settings)

    def work() -> int:
        thread = threading.Thread(target=runner.run)
        thread.start()
        try:
            wait_until_written(settings, names)
        finally:
            runner.stop()
            thread.join()
        return runner.outcome.sent

    return work


def _shared(district: VendorsDistrict, number: int) -> Figure:
    """Measure a run of this many instances for ten new vendors, from empty views."""
    names = [f"shared-{number}-{at}" for at in range(TEN)]
    vendors = district.settings.vendors.model_copy(update={"shards": number})
    settings = district.settings.model_copy(update={"vendors": vendors})
    with district.agreed(names):
        _remove_views(settings)
        sent, cost = together([(instance, (settings, names), ())] * number)
    subject = f"{TEN} vendors, {number} instance{'s' if number > 1 else ''}"
    return Figure(subject, sum(sent), cost)


def _remove_views(settings: Settings) -> None:
    view = file_of(settings)
    for path in view.parent.glob(f"{view.stem}.*"):
        path.unlink()


def _times(more: Figure, one: Figure) -> float:
    return more.cost.seconds / one.cost.seconds


def _project(
    district: VendorsDistrict,
    names: Sequence[str],
    subject: str,
    parts: Sequence[StudentGroup] = (ALL,),
) -> Figure:
    """Measure a run from an empty view for new agreements."""
    with district.agreed(names, parts):
        _remove_views(district.settings)
        return Figure(subject, *alone(projection, district.settings))
