"""Settings for all tests: the bus, the number of examples, the fault tests and the times.

The integration tests run on the chosen bus. The property tests draw few examples in the unit run
and many in the full run. They draw the same examples each time, so that a failure comes from the
change and not from chance; `HYPOTHESIS_PROFILE=explore` looks for new ones.

pytest requires the options of the fault tests (`tests/faults`) here, at the top. The times of the
tests are noted for `make test` to show.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests import times

settings.register_profile("quick", max_examples=8, derandomize=True)
settings.register_profile("full", max_examples=60, derandomize=True)
settings.register_profile("explore", max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure() -> None:
    # pytest cleans up after Ctrl-C but not after SIGTERM, with which CI and `timeout` end it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bus",
        choices=("embedded", "testcontainers"),
        default="embedded",
        help="what the integration tests run on: the embedded bus, or Kafka and the registry in "
        "containers (needs a Docker engine on this machine; KAFKA_IMAGE and REGISTRY_IMAGE name "
        "other images than deploy/compose.yaml does)",
    )
    parser.addoption(
        "--clients",
        action="store_true",
        help="build and run the vendors' programs of docs/clients (needs Java, Go and Node, and "
        "downloads their libraries)",
    )
    group = parser.getgroup("faults")
    group.addoption("--long", action="store_true", help="the fault tests in their long form")
    group.addoption("--seed", type=int, default=1, help="what the faults are drawn from (1)")


TOGETHER = {
    "integration/test_http.py": "http",
    "integration/test_own_cluster.py": "own cluster",
    "integration/test_secure_bus.py": "secure",
    "integration/test_versions.py": "versions",
    "integration/test_vendor_access.py": "wire",
    "integration/test_vendor_clients.py": "wire",
    "upgrade/test_upgrade.py": "upgrade",
    "faults/test_network.py": "network",
    "faults/test_products.py": "network",
    "faults/test_transactions.py": "network",
}
"""Files whose tests share fixtures that take long to make.

One worker of pytest-xdist runs all files of one name here.
"""


class Together(LoadScopeScheduling):
    """Gives a worker one test at a time, or all tests of one name in `TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0].removeprefix("tests/")
        return TOGETHER.get(file, nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return the scheduler of `--dist loadgroup`.

    xdist 3.8 finds no `xdist_group` marks under pytest 9.2.
    """
    return Together(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_collection_finish() -> None:
    gc.freeze()  # what the tests' modules made stays until the end, and is not looked at again


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    worker = hasattr(config, "workerinput")  # of pytest-xdist: its parent notes the times
    if (named := os.environ.get(times.VARIABLE)) and not worker:
        part = times.folders(config.args)
        passed = terminalreporter.stats.get("passed", ())
        times.note(Path(named), part, len(passed), times.by_folder(passed))
