"""Which bus the integration tests run on, and how many examples the property tests draw: few in the
unit run, many in the full one.

Both draw the same ones each time, so that a run says something about the change and not about
luck; `HYPOTHESIS_PROFILE=explore` looks for new ones.

And the options of the fault tests (`tests/faults`), declared here as pytest wants them at the top;
and a note of how long the tests took, for `make test` to show.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests import times

settings.register_profile("quick", max_examples=8, derandomize=True)
settings.register_profile("full", max_examples=60, derandomize=True)
settings.register_profile("explore", max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bus",
        choices=("embedded", "testcontainers"),
        default="embedded",
        help="what the integration tests run on: the embedded bus, or Kafka and the registry in "
        "containers (needs a Docker engine on this machine; KAFKA_IMAGE and REGISTRY_IMAGE name "
        "other images than deploy/compose.yaml does)",
    )
    group = parser.getgroup("faults")
    group.addoption("--long", action="store_true", help="the fault tests in their long form")
    group.addoption("--seed", type=int, default=1, help="what the faults are drawn from (1)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    worker = hasattr(config, "workerinput")  # of pytest-xdist: it tells its parent, which notes
    if (named := os.environ.get(times.VARIABLE)) and not worker:
        part = times.folders(config.args)
        times.note(Path(named), part, len(terminalreporter.stats.get("passed", ())))
