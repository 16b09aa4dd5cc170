"""The bus of the integration run: embedded in a temporary home, or in containers.

With `--bus=testcontainers`, Kafka and the registry run in containers, and the settings name them as
a district names its own. Workers of pytest-xdist share the embedded bus: the first that needs it
starts it, and the parent stops it when all workers have ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bus import local
from bus.errors import BusError
from bus.kafka.client import client_settings
from bus.registry import subjects
from bus.settings import KafkaSettings, RegistrySettings, Settings
from tests.integration import containers
from tests.integration.commands import Commands

EMBEDDED = "embedded: a test of the embedded bus itself, or of commands that start one"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
"""The name of this worker of pytest-xdist; empty in the parent and without workers."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", EMBEDDED)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the bus that the workers have shared, in the parent."""
    factory: pytest.TempPathFactory = session.config._tmp_path_factory
    if not WORKER and (home := shared_home(factory)).exists():
        local.down(home)


def shared_home(factory: pytest.TempPathFactory) -> Path:
    """Return the home of the shared bus; each worker has a folder within the parent's."""
    base = factory.getbasetemp()
    return (base.parent if WORKER else base) / "bus" / "home"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--bus") == "testcontainers":
        reason = "is about the embedded bus, and --bus=testcontainers runs on another"
        for item in items:
            if item.get_closest_marker("embedded"):
                item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True, slots=True)
class Bus:
    """A running bus and the settings that lead to it."""

    home: Path
    settings: Settings

    @property
    def registry(self) -> str:
        """The address of the registry."""
        return self.settings.registry.url or local.endpoints(self.home).registry


@pytest.fixture(scope="session")
def bus(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """The bus of this run; `pytest_sessionfinish` stops the embedded one."""
    home = shared_home(tmp_path_factory)
    home.parent.mkdir(exist_ok=True)
    if pytestconfig.getoption("--bus") == "testcontainers":
        with containers.cluster() as (bootstrap, registry_url):
            named = {
                "kafka": KafkaSettings(bootstrap=bootstrap),
                "registry": RegistrySettings(url=registry_url),
            }
            yield Bus(home, settings_of(home).model_copy(update=named))
        return
    local.up(home)  # when several call this at once, one starts the bus and the others wait
    yield Bus(home, settings_of(home))


def settings_of(home: Path) -> Settings:
    """Return explicit settings, so that no bus.toml or variable leads a test to a real cluster."""
    return Settings(home=home, kafka=KafkaSettings(), registry=RegistrySettings())


NUMBERS = count(1)
PARTITIONS = 2
"""The number of partitions of each topic in a test: enough to have an order only within each."""


@pytest.fixture
def commands(bus: Bus, tmp_path: Path) -> Iterator[Commands]:
    """`bus …` for one test, under separate topics, with registered schemas."""
    with _commands(bus, tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def module_commands(bus: Bus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """`bus …` for all tests of a module, under separate topics, with registered schemas."""
    with _commands(bus, tmp_path_factory.mktemp("module")) as found:
        yield found


@contextmanager
def _commands(bus: Bus, folder: Path) -> Iterator[Commands]:
    kafka = bus.settings.kafka.model_copy(update={"partitions": PARTITIONS})
    settings = bus.settings.model_copy(
        update={"topic_prefix": f"test{WORKER}{next(NUMBERS)}", "kafka": kafka}
    )
    subjects.apply(settings)
    try:
        yield Commands(settings, folder)
    finally:
        _delete_topics(settings)


def _delete_topics(settings: Settings) -> None:
    """Delete the topics of a test. Every client lists all topics, so unused ones slow it down."""
    try:
        admin = AdminClient(client_settings(settings))
        there = admin.list_topics(timeout=10).topics
    except (BusError, KafkaException):
        return  # the test has stopped the bus
    names = [name for name in there if name.startswith(f"{settings.topic_prefix}.")]
    if names:
        for deleted in admin.delete_topics(names).values():
            deleted.exception()
