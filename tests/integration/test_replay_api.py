"""A replay through Canvas's API beside the live consumer: the latest state wins."""

from __future__ import annotations

import time

from tests import canvas_model
from tests.integration.commands import Commands, until
from tests.integration.test_replay import day
from tests.oneroster_truth import truth
from tests.unit.test_canvas_imports import TOKEN, FakeCanvas


def test_what_changes_during_a_replay_is_delivered_last(commands: Commands) -> None:
    for number in (1, 2):
        last = day(commands, number)
    commands.variables["BUS_PRODUCTS__CANVAS__TOKEN"] = TOKEN
    fake = FakeCanvas()
    try:
        with commands.running("consume", "canvas", "--url", fake.url):
            until(lambda: is_right(fake, truth(last).rosters), "the second day in Canvas", 90)
            replay = commands.start("replay", "canvas", "--url", fake.url, "--rate", "400")
            time.sleep(2.0)
            last = day(commands, 3)
            said, log = replay.communicate(timeout=120)
            assert replay.returncode == 0, said + log
            until(lambda: is_right(fake, truth(last).rosters), "the third day in Canvas", 90)
    finally:
        fake.close()


def is_right(fake: FakeCanvas, rosters: set[tuple[str, str, str]]) -> bool:
    """Return whether Canvas has these rosters."""
    return bool(fake.state) and canvas_model.rosters(dict(fake.state)) == rosters
