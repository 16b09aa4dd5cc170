"""`up`, `down`, `status`, `endpoints`: the life of an embedded bus."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bus.failures import Stop
from bus.local import kafka, machine, process, registry
from bus.local.download import Programs, Say, programs
from bus.local.home import Endpoints, Memory, alone, prepare, recall, remember

PARTS = ("kafka", "registry")
READY_SECONDS = 120.0
"""How long both may take to answer; it is 5 s on an idle machine and much more on a busy one."""


@dataclass(frozen=True, slots=True)
class Running:
    """One of the two processes."""

    pid: int
    port: int
    version: str


@dataclass(frozen=True, slots=True)
class Status:
    """What runs in a home. `endpoints` only when both do; `dead`: was started, runs no more."""

    endpoints: Endpoints | None
    running: dict[str, Running]
    dead: tuple[str, ...]


def up(home: Path, *, say: Say = lambda _: None, ready_seconds: float = READY_SECONDS) -> Endpoints:
    """Start what of the bus is not running, and come back when it answers.

    Programs are fetched when they are not in the cache. `say` gets a line for whatever a person
    should know. Raises `Stop` with what is wrong and how to mend it; then what this call has
    started is stopped again.
    """
    home = home.absolute()
    prepare(home)
    with alone(home):
        here = {name: found for name in PARTS if (found := process.find(home, name))}
        missing = [name for name in PARTS if name not in here]
        if missing:
            _start(home, missing, say, ready_seconds)
    return endpoints(home)


def down(home: Path) -> list[str]:
    """Stop the bus; answers with what was running (kafka, registry). Data stays."""
    home = home.absolute()
    if not (home / "run").is_dir():
        return []
    with alone(home):
        return process.stop(home, PARTS)


def status(home: Path) -> Status:
    """What runs in this home."""
    home = home.absolute()
    memory = recall(home)
    running, dead = {}, []
    for name in PARTS:
        if found := process.find(home, name):
            running[name] = Running(found.pid, memory.ports[name], memory.versions.get(name, ""))
        elif process.recorded(home, name):
            dead.append(name)
    whole = len(running) == len(PARTS)
    return Status(_endpoints(memory) if whole else None, running, tuple(dead))


def endpoints(home: Path) -> Endpoints:
    """Where the bus in this home answers; raises `Stop` when it is not up."""
    home = home.absolute()
    missing = [name for name in PARTS if not process.find(home, name)]
    if not missing:
        return _endpoints(recall(home))
    if len(missing) < len(PARTS):
        raise Stop(f"the {missing[0]} of the bus in {home} is not running: run `bus up`")
    raise Stop(f"the bus in {home} is not up: run `bus up`")


def _endpoints(memory: Memory) -> Endpoints:
    return Endpoints(
        bootstrap=f"127.0.0.1:{memory.ports['kafka']}",
        registry=registry.url(memory.ports["registry"]),
    )


def _start(home: Path, missing: list[str], say: Say, ready_seconds: float) -> None:
    for name in missing:
        if process.recorded(home, name):
            say(f"{name} was found dead (killed, or the machine restarted); starting it again")
    java = machine.java()
    found = programs(say)
    _check_versions(home, found)
    machine.check_memory()
    machine.check_disk(home)
    try:
        for attempt in (1, 2):
            memory = _settle(home, missing, found, say)
            started = _launch(home, missing, java, found, memory)
            failed = _wait(started, memory.ports, time.monotonic() + ready_seconds)
            if failed is None:
                return
            if attempt == 1 and _port_was_lost(started, memory.ports):
                process.stop(home, missing)
                continue
            raise Stop(_explain(home, failed, started, java, ready_seconds))
    except BaseException:
        process.stop(home, missing)
        raise


def _launch(
    home: Path, missing: list[str], java: str, found: Programs, memory: Memory
) -> dict[str, psutil.Process]:
    """Start both at once; making Kafka's data folder takes as long as the registry's start."""
    started = {}
    if "registry" in missing:
        started["registry"] = process.start(
            home,
            "registry",
            registry.command(java, found),
            cwd=home / "registry",
            env=registry.environment(home, memory.ports["registry"]),
        )
    if "kafka" in missing:
        if not kafka.formatted(home):
            kafka.format_data(java, found, home, memory.ports)
        command = kafka.command(java, found, home, memory.ports)
        started["kafka"] = process.start(home, "kafka", command, cwd=home, env={})
    return started


def _wait(started: dict[str, psutil.Process], ports: dict[str, int], until: float) -> str | None:
    """Wait until all answer; else the name of one that does not."""
    answers: dict[str, Callable[[int], bool]] = {
        "kafka": kafka.answers,
        "registry": registry.answers,
    }
    waiting = list(started)
    while waiting:
        for name in list(waiting):
            if machine.port_open(ports[name]) and answers[name](ports[name]):
                waiting.remove(name)
            elif not process.alive(started[name]) or time.monotonic() > until:
                return name
        time.sleep(0.05)
    # an answer may have come from a stranger on the same port
    return next((name for name in started if not process.alive(started[name])), None)


def _settle(home: Path, missing: list[str], found: Programs, say: Say) -> Memory:
    """Choose ports for what is to be started, the last ones if they are free, and remember them."""
    before = recall(home)
    ports = dict(before.ports)
    wanted = ["kafka", "controller"] if "kafka" in missing else []
    for name in [*wanted, *(name for name in missing if name == "registry")]:
        last = ports.pop(name, None)
        if last and machine.port_free(last):
            ports[name] = last
        else:
            ports[name] = machine.free_port([*ports.values(), last or 0])
            if last:
                say(f"port {last} is in use by another program; {name} now has {ports[name]}")
    versions = {"kafka": found.kafka_version, "registry": found.registry_version}
    memory = Memory(ports, before.versions | {name: versions[name] for name in missing})
    remember(home, memory)
    return memory


def _port_was_lost(started: dict[str, psutil.Process], ports: dict[str, int]) -> bool:
    """Whether another program took a port between the choice and the start."""
    names = [name for name, process_ in started.items() if not process.alive(process_)]
    if "kafka" in names:
        names.append("controller")
    return any(machine.port_open(ports[name]) for name in names)


def _check_versions(home: Path, found: Programs) -> None:
    """Older data is taken over by a newer program; the other way round neither would start."""
    ours = {"kafka": found.kafka_version, "registry": found.registry_version}
    for name, wrote in recall(home).versions.items():
        if name in ours and _parts(wrote) > _parts(ours[name]):
            raise Stop(
                f"the data in {home} was written by {name} {wrote}, and this bus has {ours[name]}, "
                "which cannot read it: use the newer bus, or name another folder in BUS_HOME"
            )


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _explain(
    home: Path, name: str, started: dict[str, psutil.Process], java: str, seconds: float
) -> str:
    log = home / "logs" / f"{name}.log"
    if process.alive(started[name]):
        return (
            f"{name} did not answer within {seconds:.0f} s (is the machine very busy?): see {log} "
            "and run `bus up` again"
        )
    machine.java_version(java)  # raises with the cause when Java itself does not run
    return process.died(home, name)
