"""One of three brokers is killed while a producer and consumers run, including the leader.

The cluster is one that a district runs, as `bus.toml` names it. The registry is that of the embedded
bus.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bus.local import endpoints
from bus.registry import subjects
from bus.settings import KafkaSettings, RegistrySettings
from tests.faults import checker
from tests.faults.checker import Topics
from tests.faults.conftest import Findings
from tests.faults.killing import KilledCommand, ready, watching
from tests.faults.test_kills import PRODUCTS, SECRET, Products, days, producing
from tests.faults.three_brokers import IDS, OFFSETS, TRANSACTIONS, Brokers, three_brokers
from tests.integration.commands import Commands
from tests.integration.conftest import Bus
from tests.webhook_receiver import Receiver

PREFIX = "district"


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    with three_brokers(tmp_path_factory.mktemp("three")) as found:
        yield found


@pytest.mark.long
def test_one_of_three_brokers(
    bus: Bus,
    brokers: Brokers,
    tmp_path_factory: pytest.TempPathFactory,
    rng: random.Random,
    findings: Findings,
    long: bool,
) -> None:
    folder = tmp_path_factory.mktemp("district")
    url = endpoints(bus.home).registry
    settings = bus.settings.model_copy(
        update={
            "home": folder / "home",
            "topic_prefix": PREFIX,
            "kafka": KafkaSettings(bootstrap=brokers.bootstrap),
            "registry": RegistrySettings(url=url),
        }
    )
    subjects.apply(settings)
    commands = Commands(settings, folder)
    commands.variables |= {
        **ready({}, SECRET),
        "BUS_KAFKA__BOOTSTRAP": brokers.bootstrap,
        "BUS_REGISTRY__URL": url,
    }
    command, tries = KilledCommand(commands, rng), 0
    with Receiver(SECRET) as vendor, ExitStack() as stack:
        products = Products(folder, vendor)
        watched = stack.enter_context(watching(settings))
        for product in PRODUCTS:
            stack.enter_context(commands.running(*products.arguments[product]))
        for path in days(commands, 4 if long else 2):
            for role in ("transactions", "group", "partition", "any")[: None if long else 2]:
                command.beside(
                    *producing(path),
                    then=lambda role=role: kill(brokers, role, rng),  # type: ignore[misc]
                )
                time.sleep(rng.uniform(0, 2))
                for killed in set(IDS) - brokers.running.keys():
                    brokers.start(killed)
                brokers.wait()
            tries += command.finish(*producing(path), tries=3)
        published = Topics.of(settings)
        for product in PRODUCTS:
            products.wait(product, path)
        stack.close()
        published.has_valid_histories()
        published.equals_sis(path)
        published.has_whole_transactions(checker.log_lines(command.log))
        watched.received_only(published)
        for product in PRODUCTS:
            commands.run(*products.arguments[product], "--until-caught-up")
            products.check(commands, product, path)
    findings.add(
        "kill -9: one of three brokers",
        f"{len(brokers.killed)} kills, each of the leader of: " + ", ".join(brokers.killed),
        f"published in {tries} more runs; three products equal the SIS, in order, nothing twice",
    )


def kill(brokers: Brokers, role: str, rng: random.Random) -> None:
    """Kill the broker that leads the part that `why` names."""
    number = {
        "transactions": lambda: brokers.coordinator(TRANSACTIONS, f"{PREFIX}/oneroster-csv"),
        "group": lambda: brokers.coordinator(OFFSETS, f"{PREFIX}.{rng.choice(PRODUCTS)}"),
        "partition": lambda: brokers.leader(f"{PREFIX}.enrollment", rng.randrange(4)),
        "any": lambda: rng.choice(IDS),
    }[role]()
    brokers.kill(number, role)
