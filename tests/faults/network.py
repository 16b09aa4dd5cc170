"""A bus with a proxy for producers to Kafka, one for consumers to Kafka, and one to the registry.

Clients of Kafka connect to the address that the broker advertises. The broker therefore has one
listener for each proxy, which advertises the port of that proxy. The broker's requests to itself
use its own listener, without a proxy.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bus import local
from bus.local import kafka_process, machine
from bus.local.home import read_bus_file
from bus.settings import KafkaSettings, RegistrySettings, Settings
from tests.faults.proxy import Behavior, Proxy

LISTENERS = ("PRODUCE", "CONSUME")
ABORT_SOON = "transaction.abort.timed.out.transaction.cleanup.interval.ms=500"
"""The broker aborts expired transactions within this time instead of 10 s, to keep tests short."""


@dataclass(frozen=True, slots=True)
class Network:
    """The bus and its proxies; `settings` connect without a proxy."""

    home: Path
    settings: Settings
    produce: Proxy
    consume: Proxy
    registry: Proxy

    def through(self, proxy: Proxy, settings: Settings | None = None) -> Settings:
        """Return settings for Kafka through this proxy and for the registry through its own."""
        registry = (settings or self.settings).registry.model_copy(
            update={"url": f"http://127.0.0.1:{self.registry.port}/apis/ccompat/v7"}
        )
        cluster = (settings or self.settings).kafka.model_copy(
            update={"bootstrap": f"127.0.0.1:{proxy.port}"}
        )
        return (settings or self.settings).model_copy(
            update={"kafka": cluster, "registry": registry}
        )

    def pass_all(self) -> None:
        """Let all traffic pass."""
        for proxy in (self.produce, self.consume, self.registry):
            proxy.behave("pass")


@contextmanager
def network(home: Path) -> Iterator[Network]:
    """Run the bus and the proxies in a home while the block runs."""
    ports: list[int] = []
    for _ in range(2 * len(LISTENERS)):
        ports.append(machine.free_port(ports))
    direct_ports, proxy_ports = ports[: len(LISTENERS)], ports[len(LISTENERS) :]
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kafka_process, "PROPERTIES", _with_listeners(direct_ports, proxy_ports))
            bus = local.up(home)
        stack.callback(local.down, home)
        proxies = [
            stack.enter_context(Proxy(to, port, kafka=True))
            for to, port in zip(direct_ports, proxy_ports, strict=True)
        ]
        registry = stack.enter_context(Proxy(read_bus_file(home).ports["registry"]))
        settings = Settings(
            home=home,
            kafka=KafkaSettings(bootstrap=bus.bootstrap),
            registry=RegistrySettings(url=bus.registry),
        )
        yield Network(home, settings, *proxies, registry)


def _with_listeners(direct_ports: list[int], proxy_ports: list[int]) -> str:
    """Return the embedded Kafka's configuration with more listeners."""
    lines = kafka_process.PROPERTIES.splitlines()
    more = {
        "listeners=": [
            f"{name}://127.0.0.1:{at}" for name, at in zip(LISTENERS, direct_ports, strict=True)
        ],
        "advertised.listeners=": [
            f"{name}://127.0.0.1:{at}" for name, at in zip(LISTENERS, proxy_ports, strict=True)
        ],
        "listener.security.protocol.map=": [f"{name}:PLAINTEXT" for name in LISTENERS],
    }
    for start, parts in more.items():
        at = next(i for i, line in enumerate(lines) if line.startswith(start))
        lines[at] = ",".join([lines[at], *parts])
    return "\n".join([*lines, ABORT_SOON, ""])


Disturbance = tuple[Behavior, float, float]
"""A behavior of the proxy, the latency in seconds, and the rate in bytes a second."""
SLOW: Disturbance = ("pass", 0.05, 200_000)
DISTURBANCES: dict[str, Disturbance] = {
    "slow": SLOW,
    "cut": ("cut", 0, 0),
    "silent": ("hang", 0, 0),
    "requests lost": ("deaf", 0, 0),
    "answers lost": ("mute", 0, 0),
}


MOST_TURNS = 12
"""The largest number of bad turns, so that slow machines do not get more of them."""


@contextmanager
def disturbances(
    proxy: Proxy,
    rng: random.Random,
    *,
    kinds: Sequence[str] = tuple(DISTURBANCES),
    bad: tuple[float, float] = (0.2, 1.5),
    good: tuple[float, float] = (0.05, 0.5),
) -> Iterator[Counter[str]]:
    """Disturb the network in turns while the block runs, then let all traffic pass.

    There are at most `MOST_TURNS` bad turns. Yields the number of bad turns of each kind.

    bad, good: the shortest and the longest turn, in seconds.
    """
    counts: Counter[str] = Counter()
    over = threading.Event()

    def turn() -> None:
        for _ in range(MOST_TURNS):
            if over.is_set():
                return
            behavior, latency, rate = DISTURBANCES[kind := rng.choice(kinds)]
            proxy.behave(behavior, latency=latency, rate=rate)
            counts[kind] += 1
            over.wait(rng.uniform(*bad))
            proxy.behave("pass")
            over.wait(rng.uniform(*good))

    thread = threading.Thread(target=turn, name="disturbances")
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()
        proxy.behave("pass")


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """One bus with proxies for all tests; each test lets all traffic pass at its end."""
    with network(tmp_path_factory.mktemp("network") / "home") as one:
        yield one
