"""What the fault tests share: the long form, the seed, and the table of findings."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from bus import local
from tests.faults.network import net
from tests.faults.published import extracts, published
from tests.integration.conftest import Bus, commands, settings_of

__all__ = ["commands", "extracts", "net", "published"]

FINDINGS = pytest.StashKey["Findings"]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with `turn` once, or ten times in the long form; `rng` differs each time."""
    if "turn" in metafunc.fixturenames:
        turns = 10 if metafunc.config.getoption("--long") else 1
        metafunc.parametrize("turn", range(1, turns + 1))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that are marked `long` in the short form."""
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="only in the long form (--long)"))


@dataclass(slots=True)
class Findings:
    """The faults that the tests caused, and their results."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, fault: str, done: object, found: object) -> None:
        """Add a row to the table: the fault, what was done, and the result."""
        self.rows.append((fault, str(done), str(found)))


@pytest.fixture(scope="session")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A bus that no other worker of pytest-xdist uses, so that a test may kill it."""
    home = tmp_path_factory.mktemp("bus") / "home"
    local.up(home)
    try:
        yield Bus(home, settings_of(home))
    finally:
        local.down(home)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that can be repeated: they depend on the seed and the name of the test."""
    return random.Random(f"{request.config.getoption('--seed')} {request.node.name}")


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether this is the long form."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def findings(request: pytest.FixtureRequest) -> Findings:
    """The table that is printed at the end."""
    return request.config.stash.setdefault(FINDINGS, Findings())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the rows of a pytest-xdist worker to its parent, which prints them."""
    if hasattr(session.config, "workeroutput") and (
        found := session.config.stash.get(FINDINGS, None)
    ):
        session.config.workeroutput["findings"] = found.rows


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the rows of a worker; a worker that died has none."""
    rows = getattr(node, "workeroutput", {}).get("findings", ())
    node.config.stash.setdefault(FINDINGS, Findings()).rows.extend(rows)


def pytest_report_header(config: pytest.Config) -> str:
    return _how(config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = terminalreporter.config.stash.get(FINDINGS, None)
    if found is None or not found.rows:
        return
    terminalreporter.section(_how(terminalreporter.config))
    table = Table("fault", "what was done", "what was found", box=None, pad_edge=False)
    for row in found.rows:
        table.add_row(*row)
    console = Console(width=100, highlight=False, markup=False, color_system=None)
    with console.capture() as text:
        console.print(table)
    terminalreporter.write_line(text.get().rstrip())


def _how(config: pytest.Config) -> str:
    form = "long" if config.getoption("--long") else "short"
    return f"faults: the {form} form, --seed {config.getoption('--seed')}"
