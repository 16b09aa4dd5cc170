"""One embedded bus for the whole integration run, in a home of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from bus import local, registry
from bus.settings import KafkaSettings, RegistrySettings, Settings
from tests.integration.commands import Commands


@dataclass(frozen=True, slots=True)
class Bus:
    """A running bus and the settings that lead to it."""

    home: Path
    settings: Settings


@pytest.fixture(scope="session")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """The bus of this run; stopped at its end, whatever happened."""
    # pytest tidies up after Ctrl-C and not after SIGTERM, with which CI and `timeout` end it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = tmp_path_factory.mktemp("bus") / "home"
    local.up(home)
    try:
        # named here, so that a bus.toml or the environment cannot lead the tests to a real cluster
        yield Bus(home, Settings(home=home, kafka=KafkaSettings(), registry=RegistrySettings()))
    finally:
        local.down(home)


NUMBERS = count(1)


@pytest.fixture
def commands(bus: Bus, tmp_path: Path) -> Commands:
    """`bus …` for one test, under topics of its own; the schemas are registered."""
    return _commands(bus, tmp_path)


@pytest.fixture(scope="module")
def module_commands(bus: Bus, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """`bus …` for all tests of a module, under topics of its own; the schemas are registered."""
    return _commands(bus, tmp_path_factory.mktemp("module"))


def _commands(bus: Bus, folder: Path) -> Commands:
    settings = bus.settings.model_copy(update={"topic_prefix": f"test{next(NUMBERS)}"})
    registry.apply(settings)
    return Commands(settings, folder)
