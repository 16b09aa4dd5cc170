"""The producer, each consumer, the broker and the registry are killed (kill -9) at any moment.

After each kill, `tests.faults.checker` checks that nothing is lost, duplicated, out of order, half
published, or committed before it was delivered.
"""

from __future__ import annotations

import base64
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bus import local
from bus.demo.sample import District
from bus.local import process
from tests.faults import checker
from tests.faults.checker import ProductState, Topics
from tests.faults.conftest import Findings
from tests.faults.killing import KilledCommand, ready, watching
from tests.integration.commands import Commands, until
from tests.integration.conftest import Bus
from tests.webhook_receiver import Receiver

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
DISTRICT = District(seed=5, students=60, change=0.3)
PRODUCTS = ("canvas", "microsoft-sds", "webhook")


@dataclass(slots=True)
class Products:
    """The three products, with the arguments of their consumers, and what each has."""

    folder: Path
    vendor: Receiver
    states: dict[str, Callable[[], ProductState]] = field(init=False)
    arguments: dict[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        canvas, sds = self.folder / "canvas", self.folder / "sds"
        self.arguments = {
            "canvas": ("consume", "canvas", "--out", str(canvas)),
            "microsoft-sds": ("consume", "microsoft-sds", "--out", str(sds)),
            "webhook": ("consume", "webhook", "--url", self.vendor.url),
        }
        self.states = {
            "canvas": lambda: checker.canvas(canvas),
            "microsoft-sds": lambda: checker.sds(sds),
            "webhook": lambda: checker.webhook(self.vendor.accepted),
        }

    def wait(self, product: str, extract: Path) -> None:
        """Wait until the product has what the SIS has."""

        def reached() -> bool:
            try:
                self.states[product]().equals_sis(extract)
            except AssertionError:
                return False
            return True

        until(reached, f"{product}: the state of the SIS", 90)

    def check(self, commands: Commands, product: str, extract: Path) -> None:
        """Check that the product has what the SIS has, in order, and no dead letter."""
        published = Topics.of(commands.settings)
        state = self.states[product]()
        state.equals_sis(extract)
        if product != "microsoft-sds":
            state.has_states_in_order(published)
        state.has_all_committed(published, checker.committed(commands.settings, product))
        assert checker.dead_letters(commands.settings, product) == 0


@pytest.fixture
def products(commands: Commands) -> Iterator[Products]:
    with Receiver(SECRET) as vendor:
        commands.variables |= ready(commands.variables, SECRET)
        yield Products(commands.cwd, vendor)


def days(commands: Commands, number: int) -> list[Path]:
    return [DISTRICT.write(commands.cwd / f"{day}.zip", day) for day in range(1, number + 1)]


def producing(path: Path) -> tuple[str, ...]:
    return ("produce", "oneroster-csv", str(path), "--allow-mass-withdrawal")


@pytest.mark.longest
def test_the_producer(
    commands: Commands, rng: random.Random, findings: Findings, long: bool
) -> None:
    with watching(commands.settings) as watched:
        # The first kills of a day show most; after later ones, the day is already published.
        for path in days(commands, 15 if long else 2):
            command = KilledCommand(commands, rng)
            for _ in range(6 if long else 4):
                command.kill_once(*producing(path))
            command.finish(*producing(path))
            published = Topics.of(commands.settings)
            published.has_valid_histories()
            published.equals_sis(path)
            complete, none = published.has_whole_transactions(checker.log_lines(command.log))
            findings.add(
                f"kill -9: producer, day {path.stem}",
                command.summary,
                f"{complete} transactions whole, {none} not at all; topics equal the SIS",
            )
    watched.received_only(published)


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_consumer(
    commands: Commands,
    products: Products,
    rng: random.Random,
    findings: Findings,
    long: bool,
    product: str,
) -> None:
    command = KilledCommand(commands, rng)
    arguments = (*products.arguments[product], "--until-caught-up")
    for path in days(commands, 5 if long else 2):
        commands.run(*producing(path))
        published = Topics.of(commands.settings)
        for _ in range(10 if long else 2):
            command.kill_once(*arguments)
            if product != "microsoft-sds":  # its set is written when it has caught up
                at = checker.committed(commands.settings, product)
                products.states[product]().has_all_committed(published, at)
        command.finish(*arguments)
        products.check(commands, product, path)
    findings.add(
        f"kill -9: consumer of {product}",
        command.summary,
        "equals the SIS; in order; nothing twice",
    )


@pytest.mark.longest
@pytest.mark.parametrize("part", ["kafka", "registry"])
def test_a_part_of_the_bus(
    bus: Bus,
    commands: Commands,
    products: Products,
    rng: random.Random,
    findings: Findings,
    long: bool,
    part: str,
) -> None:
    command, kills, tries = KilledCommand(commands, rng), 0, 0
    with ExitStack() as stack:
        for product in PRODUCTS:
            stack.enter_context(commands.running(*products.arguments[product]))
        for path in days(commands, 5 if long else 2):
            for _ in range(5 if long else 1):
                kills += 1
                command.beside(*producing(path), then=lambda: kill(bus.home, part, rng))
            tries += command.finish(*producing(path), tries=3)
        published = Topics.of(commands.settings)
        for product in PRODUCTS:
            products.wait(product, path)
    published.has_valid_histories()
    published.equals_sis(path)
    published.has_whole_transactions(checker.log_lines(command.log))
    for product in PRODUCTS:
        commands.run(*products.arguments[product], "--until-caught-up")
        products.check(commands, product, path)
    findings.add(
        f"kill -9: {part}",
        f"{kills} times while producing and consuming",
        f"published in {tries} more runs; three products equal the SIS, in order, nothing twice",
    )


def kill(home: Path, part: str, rng: random.Random) -> None:
    """Kill a part of the embedded bus, and start it again a moment later."""
    running = process.find(home, part)
    assert running is not None
    running.kill()
    time.sleep(rng.uniform(0, 2))
    local.up(home)
