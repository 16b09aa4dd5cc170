"""One embedded bus for the whole integration run, in a home of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bus import local
from bus.settings import KafkaSettings, RegistrySettings, Settings


@dataclass(frozen=True, slots=True)
class Bus:
    """A running bus and the settings that lead to it."""

    home: Path
    settings: Settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bus",
        choices=["embedded"],
        default="embedded",
        help="on which Kafka and registry the integration tests run",
    )


@pytest.fixture(scope="session")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """The bus of this run; stopped at its end, whatever happened."""
    home = tmp_path_factory.mktemp("bus") / "home"
    local.up(home)
    try:
        # named here, so that a bus.toml or the environment cannot lead the tests to a real cluster
        yield Bus(home, Settings(home=home, kafka=KafkaSettings(), registry=RegistrySettings()))
    finally:
        local.down(home)
