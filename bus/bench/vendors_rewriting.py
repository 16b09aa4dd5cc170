"""Measures how long it takes to write the topics of a vendor whole, in a district of any size."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from bus.bench.figures import Goal
from bus.bench.vendors_district import VendorsDistrict, wait_until_written
from bus.errors import Stop
from bus.kafka.reader import Reader
from bus.vendors.vendor_topics import possible_topics

TARGET_SECONDS, TARGET_STUDENTS = 600.0, 1_000_000
"""The target holds for a district of this size."""
TAKEN_OUT = "Student Name"
"""The category whose fields are taken out of an agreement."""


def measure(district: VendorsDistrict, progress: Callable[[str], None]) -> list[Goal]:
    """Measure a new vendor, and a field that is taken out, while the projection runs.

    Both include the command `bus vendors apply`. Raises `Stop` if what the vendor had can still be
    read afterwards.
    """
    size = f"{district.students:,} students"
    target = TARGET_SECONDS if district.students >= TARGET_STUDENTS else None
    condition = "" if target else f"{TARGET_SECONDS:g} s for {TARGET_STUDENTS:,} students"

    def goal(what: str, name: str, without: Collection[str] = ()) -> Goal:
        progress(f"{what}, {size}")
        began = time.monotonic()
        district.apply([name], without=without)
        wait_until_written(district.settings, [name])
        seconds = time.monotonic() - began
        return Goal(f"{what}, {size}", seconds, "s", target, remark=condition)

    running = district.stage.start("rewriting", "vendors", "run")
    try:
        goals = [
            goal("the view of the district, and its first vendor", "first"),
            goal("the current state for a new vendor", "second"),
        ]
        with Reader(district.settings, "could not read the ends: Kafka reports {}") as reader:
            had = reader.ends(possible_topics(district.settings, "first"))
            goals.append(goal("a field taken out: gone from all topics", "first", [TAKEN_OUT]))
            first = {place: low for place, (low, _) in reader.marks(had).items()}
    finally:
        running.terminate()
        running.wait(60)
    if any(first[place] < end for place, end in had.items()):
        raise Stop("what the vendor had can still be read after its topics were written again")
    return goals
