"""What the fault tests share: how long they go on, their seed, and the table of what was found."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from tests.faults.network import net
from tests.faults.published import extracts, published

__all__ = ["extracts", "net", "published"]

FINDINGS = pytest.StashKey["Findings"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the fault tests in their long form")
    parser.addoption("--seed", type=int, default=1, help="what the faults are drawn from")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is drawn is drawn once, or ten times in the long form; `rng` is another each time."""
    if "turn" in metafunc.fixturenames:
        turns = 10 if metafunc.config.getoption("--long") else 1
        metafunc.parametrize("turn", range(1, turns + 1))


@dataclass(slots=True)
class Findings:
    """What was done, and what came of it."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, fault: str, done: object, found: object) -> None:
        """One line of the table."""
        self.rows.append((fault, str(done), str(found)))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Chance that can be had again: of the seed and the test's name."""
    return random.Random(f"{request.config.getoption('--seed')} {request.node.name}")


@pytest.fixture(scope="session")
def findings(request: pytest.FixtureRequest) -> Findings:
    """The table that is printed at the end."""
    return request.config.stash.setdefault(FINDINGS, Findings())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if found := terminalreporter.config.stash.get(FINDINGS, None):
        terminalreporter.section("faults")
        for row in found.rows:
            terminalreporter.write_line(" | ".join(row))
