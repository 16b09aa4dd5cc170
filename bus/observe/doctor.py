"""`bus doctor`: checks everything that the bus depends on, and suggests corrections.

It changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bus.errors import BusError, Stop
from bus.kafka.reachability import check_reachable
from bus.local import damage, kafka_process, lifecycle, machine
from bus.local.download import cache, damaged, fetched, repository, without_password
from bus.local.home import check_writable
from bus.registry.registry_client import answered, client
from bus.settings import Settings, config_file

SECONDS = 10.0
"""Seconds that a district's cluster may take to answer."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of one check.

    `says` describes the current state, or what is wrong and how to correct it.
    """

    name: str
    ok: bool
    says: str


def examine(settings: Settings) -> Iterator[Diagnosis]:
    """Check everything that the bus depends on, one item after the other.

    A `BusError` becomes a diagnosis; it is not raised.
    """
    checks: list[tuple[str, Callable[[], str]]]
    if settings.embedded:
        home = settings.home.absolute()
        checks = [
            ("Java", lambda: machine.java_version(machine.java())),
            ("memory", partial(_memory, home)),
            ("disk", partial(_disk, home)),
            ("home", partial(_home, home)),
            ("programs", _programs),
            ("data", partial(_data, home)),
            ("Kafka", partial(_process, home, "kafka")),
        ]
        if not settings.registry.url:
            checks.append(("registry", partial(_process, home, "registry")))
    else:
        checks = [("Kafka", partial(_cluster, settings))]
    if settings.registry.url:
        checks.append(("registry", partial(_registry, settings)))
    for name, check in checks:
        try:
            yield Diagnosis(name, True, check())
        except BusError as error:
            yield Diagnosis(name, False, str(error))


def examine_settings(wrong: Iterable[str]) -> Diagnosis:
    """Return the diagnosis of the settings.

    wrong: what is not right with them, one text for each problem.
    """
    if found := "\n".join(wrong):
        return Diagnosis("settings", False, found)
    file = config_file()
    where = str(file) if file.exists() else f"no {file} here, so the defaults apply"
    return Diagnosis("settings", True, where)


def _memory(home: Path) -> str:
    if not lifecycle.status(home).endpoints:  # a running bus already has its memory
        machine.check_memory()
    return f"{machine.memory_left_mb()} MB left"


def _disk(home: Path) -> str:
    machine.check_disk(home)
    return f"{machine.disk_left_mb(home)} MB left"


def _home(home: Path) -> str:
    if not home.exists():
        return f"{home} does not exist yet; `bus up` creates it"
    check_writable(home)
    return str(home)


def _programs() -> str:
    found, missing = fetched()
    if missing:
        size, source = f"{missing // 1_000_000} MB", without_password(repository())
        return f"`bus up` will download {size} from {source} to {cache()}"
    if wrong := damaged(found):
        raise Stop(
            f"{wrong[0]} differs from the download (is the disk damaged?): run `bus down`, delete "
            f"{cache()} and run `bus up`, which downloads everything again"
        )
    return f"Kafka {found.kafka_version}, Apicurio Registry {found.registry_version} in {cache()}"


def _data(home: Path) -> str:
    lifecycle.check_versions(home, fetched()[0])
    damage.check(home)
    if spare := damage.damage(home).spare:
        raise Stop(f"{', '.join(map(str, spare))} is damaged: run `bus up`, which restores it")
    return f"{home} is not damaged" if kafka_process.holds_data(home) else "no data yet"


def _process(home: Path, name: str) -> str:
    state = lifecycle.status(home)
    if name in state.dead:
        raise Stop(
            f"it started but no longer runs: see {home / 'logs' / name}.log, then run `bus up`"
        )
    if not (running := state.running.get(name)):
        raise Stop("not running; start it with `bus up`")
    if not lifecycle.answers(home, name, running.port):
        raise Stop(
            f"process {running.pid} runs but does not answer on port {running.port}: run "
            "`bus down`, then `bus up`"
        )
    return f"answers on 127.0.0.1:{running.port} (process {running.pid})"


def _cluster(settings: Settings) -> str:
    """Check that the district's cluster accepts us."""
    brokers = check_reachable(settings, SECONDS)
    return f"{brokers} broker(s) at {settings.kafka.bootstrap}"


def _registry(settings: Settings) -> str:
    """Check that the district's registry accepts us."""
    with client(settings) as registry, answered():
        registry.subjects()
    return f"answers at {without_password(settings.registry.url)}"
