"""`bus doctor`: looks at each thing that the bus stands on, changes nothing, and says the mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bus.failures import BusError, Stop
from bus.local import kafka, lifecycle, machine, registry
from bus.local.download import cache, fetched, repository
from bus.local.home import check_writable, recall
from bus.settings import Settings, kafka_client


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `says` tells how it is, or what is wrong and how to mend it."""

    name: str
    ok: bool
    says: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, one after the other; nothing is raised."""
    looks: list[tuple[str, Callable[[], str]]]
    if settings.embedded:
        home = settings.home.absolute()
        looks = [
            ("Java", lambda: machine.java_version(machine.java())),
            ("memory", lambda: _memory(home)),
            ("disk", lambda: _disk(home)),
            ("home", lambda: _home(home)),
            ("programs", _programs),
            ("Kafka's data", lambda: _data(home)),
            ("Kafka", lambda: _part(home, "kafka", kafka.answers)),
        ]
        if not settings.registry.url:
            looks.append(("registry", lambda: _part(home, "registry", registry.answers)))
    else:
        looks = [("Kafka", lambda: _cluster(settings))]
    if settings.registry.url:
        looks.append(("registry", lambda: _registry(settings)))
    for name, look in looks:
        try:
            yield Finding(name, True, look())
        except BusError as error:
            yield Finding(name, False, str(error))


def _memory(home: Path) -> str:
    if not lifecycle.status(home).endpoints:  # what runs has its memory already
        machine.check_memory()
    return f"{machine.memory_left_mb()} MB left"


def _disk(home: Path) -> str:
    machine.check_disk(home)
    return f"{machine.disk_left_mb(home)} MB left"


def _home(home: Path) -> str:
    if not home.exists():
        return f"{home} will be made by `bus up`"
    check_writable(home)
    return str(home)


def _programs() -> str:
    found, missing = fetched()
    if missing:
        return f"`bus up` will fetch {missing // 1_000_000} MB from {repository()} to {cache()}"
    lifecycle.check_versions
    return f"Kafka {found.kafka_version}, Apicurio Registry {found.registry_version} in {cache()}"


def _data(home: Path) -> str:
    lifecycle.check_versions(home, fetched()[0])
    if kafka.formatted(home):
        return f"{home / kafka.DATA} is whole"
    return "none yet"


def _part(home: Path, name: str, answers: Callable[[int], bool]) -> str:
    state = lifecycle.status(home)
    if name in state.dead:
        raise Stop(f"it was started but runs no more: see {home / 'logs' / name}.log and `bus up`")
    if not (running := state.running.get(name)):
        return "not up; start it with `bus up`"
    if not machine.port_open(running.port) or not answers(running.port):
        raise Stop(
            f"process {running.pid} runs but does not answer on port {running.port}: run "
            "`bus down`, then `bus up`"
        )
    return f"answers on 127.0.0.1:{recall(home).ports[name]} (process {running.pid})"
