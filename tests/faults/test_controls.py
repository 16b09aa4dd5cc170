"""The checks can fail: they notice each defect that is built into the bus on purpose.

Without this, the other fault tests would also pass if their checks looked at nothing.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import checker
from tests.faults.checker import Topics
from tests.faults.conftest import Findings
from tests.faults.killing import Mortal
from tests.faults.test_kills import Products, days, producing, products
from tests.integration.commands import Commands

__all__ = ["products"]


@pytest.fixture
def mortal(commands: Commands, rng: random.Random) -> Mortal:
    return Mortal(commands, rng)


def with_defect(mortal: Mortal, defect: str, *arguments: str) -> None:
    """Run a command once with a defect built in; some defects kill it at the worst moment."""
    mortal.commands.variables |= {"DEFECT": defect}
    process = mortal.start(*arguments)
    try:
        process.wait(120)
    finally:
        process.kill()
        process.communicate()
        del mortal.commands.variables["DEFECT"]


def check_topics(mortal: Mortal, path: Path) -> None:
    """Check what the tests of a killed producer check."""
    published = Topics.of(mortal.commands.settings)
    published.is_sound()
    published.is_whole(checker.notes(mortal.notes))
    published.is_the_sis(path)


@pytest.mark.parametrize(
    ("defect", "noticed"),
    [
        ("halves", "there is what was in no transaction"),
        ("lost", "only .* of it are there"),
        ("doubled", "created"),
    ],
)
def test_of_a_producer(mortal: Mortal, findings: Findings, defect: str, noticed: str) -> None:
    (first,) = days(mortal.commands, 1)
    with_defect(mortal, defect, *producing(first))
    with pytest.raises(AssertionError, match=noticed):
        check_topics(mortal, first)
    findings.add("control: producer", f"defect: {defect}", "noticed")


@pytest.mark.parametrize(
    ("defect", "noticed"),
    [
        ("committed first", "committed, not delivered"),
        ("undelivered", "committed, not delivered"),
        ("reversed", "has .*, committed"),
    ],
)
def test_of_a_consumer(
    mortal: Mortal, products: Products, findings: Findings, defect: str, noticed: str
) -> None:
    # Only a wrong order needs a second day: a record must have two states.
    for path in days(mortal.commands, 2 if defect == "reversed" else 1):
        mortal.commands.run(*producing(path))
    with_defect(mortal, defect, *products.arguments["webhook"], "--until-caught-up")
    published, has = Topics.of(mortal.commands.settings), products.has["webhook"]()
    with pytest.raises(AssertionError, match=noticed):
        has.is_not_behind(published, checker.committed(mortal.commands.settings, "webhook"))
        has.follows(published)
    findings.add("control: consumer of webhook", f"defect: {defect}", "noticed")
