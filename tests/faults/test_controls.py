"""The checks can fail: they notice each defect that is built into the bus on purpose.

Without this, the other fault tests would also pass if their checks compared nothing.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import checker
from tests.faults.checker import Topics
from tests.faults.conftest import Findings
from tests.faults.killing import KilledCommand
from tests.faults.test_kills import Products, days, producing, products
from tests.integration.commands import Commands

__all__ = ["products"]


@pytest.fixture
def command(commands: Commands, rng: random.Random) -> KilledCommand:
    return KilledCommand(commands, rng)


def with_defect(command: KilledCommand, defect: str, *arguments: str) -> None:
    """Run a command once with a defect built in; some defects also kill the process."""
    command.commands.variables |= {"DEFECT": defect}
    process = command.start(*arguments)
    try:
        process.wait(120)
    finally:
        process.kill()
        process.communicate()
        del command.commands.variables["DEFECT"]


def check_topics(command: KilledCommand, path: Path) -> None:
    """Check what the tests of a killed producer check."""
    published = Topics.of(command.commands.settings)
    published.has_valid_histories()
    published.has_whole_transactions(checker.log_lines(command.log))
    published.equals_sis(path)


@pytest.mark.parametrize(
    ("defect", "noticed"),
    [
        ("halves", "events outside of all logged transactions"),
        ("lost", "only .* of its events are in the topics"),
        ("doubled", "created"),
    ],
)
def test_of_a_producer(
    command: KilledCommand, findings: Findings, defect: str, noticed: str
) -> None:
    (first,) = days(command.commands, 1)
    with_defect(command, defect, *producing(first))
    with pytest.raises(AssertionError, match=noticed):
        check_topics(command, first)
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
    command: KilledCommand, products: Products, findings: Findings, defect: str, noticed: str
) -> None:
    # Only a wrong order needs a second day: a record must have two states.
    for path in days(command.commands, 2 if defect == "reversed" else 1):
        command.commands.run(*producing(path))
    with_defect(command, defect, *products.arguments["webhook"], "--until-caught-up")
    published, state = Topics.of(command.commands.settings), products.states["webhook"]()
    with pytest.raises(AssertionError, match=noticed):
        state.has_all_committed(published, checker.committed(command.commands.settings, "webhook"))
        state.has_states_in_order(published)
    findings.add("control: consumer of webhook", f"defect: {defect}", "noticed")
