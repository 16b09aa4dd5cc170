"""Starts and stops an embedded bus, and reports its state.

An embedded bus is Kafka and the schema registry as child processes on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from bus.errors import Stop
from bus.local import damage, kafka_process, machine, process, registry_process, sharing
from bus.local.credentials import (
    PASSWORD,
    REGISTRY_PASSWORD,
    client_options,
    credentials,
    ensure_password,
)
from bus.local.download import Programs, Say, programs
from bus.local.home import (
    BusFile,
    Endpoints,
    alone,
    is_secure,
    prepare,
    read_bus_file,
    tls,
    write_bus_file,
)

PARTS = ("kafka", "registry")
PORTS: dict[str, tuple[str, ...]] = {
    "kafka": ("kafka", "controller"),
    "registry": ("registry", "management"),
}
"""`controller` is Kafka's internal port; `management` serves the registry's health and metrics."""

SECURE_PORTS = PORTS | {"kafka": (*PORTS["kafka"], "inside", "vendors")}
"""The ports of a secure home. Kafka's node reaches itself at `inside`."""

ATTEMPTS = 3
READY_SECONDS = 120.0
"""The limit, in seconds, for both processes together to answer. They usually take 5 on an idle
machine, and much longer on a busy one."""


@dataclass(frozen=True, slots=True)
class Running:
    """One of the two processes."""

    pid: int
    port: int
    version: str


@dataclass(frozen=True, slots=True)
class Status:
    """What runs in a home.

    endpoints: the addresses, if both processes run; else None.
    running:   the processes that run.
    dead:      the names of those that have ended although nobody ran `bus down`.
    """

    endpoints: Endpoints | None
    running: dict[str, Running]
    dead: tuple[str, ...]


def up(
    home: Path,
    *,
    say: Say = lambda _: None,
    ready_seconds: float = READY_SECONDS,
    secure: bool = False,
    advertise: Sequence[str] = (),
) -> Endpoints:
    """Start the parts of the bus that are not running, and return when both answer.

    Programs that are not in the cache are downloaded. `say` gets a line for everything that a
    person should know.

    secure:    make the home secure. It then stays secure, also without this argument.
    advertise: the names at which vendors reach this machine. Empty: those of the last start.

    Raises `Stop`, with what is wrong and how to fix it, after it has stopped the processes that
    this call started.
    """
    home = home.absolute()
    prepare(home)
    with alone(home, say):
        _remember(home, secure, advertise)
        for _ in range(ATTEMPTS):
            if _attempt(home, say, ready_seconds):
                return endpoints(home)
    raise Stop(
        f"the bus in {home} did not stay up ({ATTEMPTS} attempts): another program takes its ports "
        f"or kills its processes; see {home / 'logs'}"
    )


def down(home: Path) -> list[str]:
    """Stop the bus and return the names of what was running (kafka, registry); the data stays."""
    home = home.absolute()
    if not (home / "run").is_dir():
        return []
    with alone(home):
        return process.stop(home, PARTS)


def status(home: Path) -> Status:
    """Return what runs in this home."""
    home = home.absolute()
    found = {name: there for name in PARTS if (there := process.find(home, name))}
    ports, versions = _ports(home, found), read_bus_file(home).versions
    running = {
        name: Running(there.pid, ports[name], versions.get(name, ""))
        for name, there in found.items()
    }
    dead = tuple(name for name in PARTS if name not in found and process.recorded(home, name))
    return Status(_endpoints(home, ports) if len(found) == len(PARTS) else None, running, dead)


def endpoints(home: Path) -> Endpoints:
    """Return the addresses of the bus in this home; raises `Stop` if it is not running."""
    home = home.absolute()
    missing = [name for name in PARTS if not process.find(home, name)]
    if not missing:
        return _endpoints(home, _ports(home, PARTS))
    if len(missing) < len(PARTS):
        raise Stop(f"the {missing[0]} of the bus in {home} is not running: run `bus up`")
    raise Stop(f"the bus in {home} is not up: run `bus up`")


_reached: dict[Path, Endpoints] = {}


def reach(home: Path) -> Endpoints:
    """Return the addresses of the bus, also those of a part that has stopped since an earlier call.

    Raises `Stop` only if this process has never found the bus running. Once this process has found
    the bus running, a part that stops is treated like a cluster elsewhere that does not answer:
    callers get no connection and wait. A part that was killed comes back at the same port.
    """
    home = home.absolute()
    try:
        _reached[home] = endpoints(home)
    except Stop:
        if home not in _reached:
            raise
    return _reached[home]


def answers(home: Path, name: str, port: int) -> bool:
    """Return whether Kafka or the registry of this home answers requests at this port."""
    if not machine.port_open(port):
        return False
    secure = is_secure(home)
    if name == "kafka":
        return kafka_process.answers(port, client_options(home) if secure else None)
    return registry_process.answers(port, credentials(home) if secure else None)


def check_versions(home: Path, found: Programs) -> None:
    """Raise `Stop` if a newer version of Kafka or of the registry wrote the data.

    A newer program can read older data. An older program cannot start with newer data.
    """
    ours = {"kafka": found.kafka_version, "registry": found.registry_version}
    for name, wrote in read_bus_file(home).versions.items():
        if name in ours and _numbers(wrote) > _numbers(ours[name]):
            raise Stop(
                f"the data in {home} was written by {name} {wrote}, but this Schoolbus has "
                f"{ours[name]}, which cannot read it: use the newer version of Schoolbus that "
                "wrote the data, or set BUS_HOME to another folder"
            )


def _remember(home: Path, secure: bool, advertise: Sequence[str]) -> None:
    """Store what the home becomes. Raises `Stop` if it runs and must first be stopped for that."""
    known, was = read_bus_file(home), is_secure(home)
    if advertise and not (secure or was):
        raise Stop("only a secure home is advertised to vendors: give --secure, too")
    if secure or advertise:
        from bus.local.certificates import check_name

        names = [check_name(name) for name in advertise] or known.advertised
        if was and names == known.advertised:
            return
        if running := [name for name in PARTS if process.find(home, name)]:
            raise Stop(
                f"{' and '.join(running)} of the bus in {home} must be started again for that: "
                "run `bus down`, then this command again"
            )
        write_bus_file(home, replace(known, secure=True, advertised=names))


def _secure_files(home: Path, missing: list[str], say: Say) -> None:
    """Make the certificates and passwords of a secure home that the missing parts need."""
    from bus.local import certificates

    folder = tls(home)
    fresh = not folder.exists()
    if "kafka" in missing or fresh:
        wrote = certificates.ensure(folder, read_bus_file(home).advertised)
        authority = folder / certificates.CA
        if wrote and not fresh:
            if certificates.CA_KEY in wrote:
                say(f"the authority of this home was lost and is new: vendors need {authority} now")
            elif certificates.CA in wrote:
                say(f"{authority} is renewed: vendors need it before the earlier one ends")
            else:
                say(f"new certificates in {folder}: {', '.join(wrote)}")
    for name in (PASSWORD, REGISTRY_PASSWORD):
        ensure_password(folder / name)


def _endpoints(home: Path, ports: dict[str, int]) -> Endpoints:
    bootstrap = f"127.0.0.1:{ports['kafka']}"
    if not is_secure(home):
        return Endpoints(bootstrap, registry_process.url(ports["registry"]))
    name = (read_bus_file(home).advertised or [kafka_process.LOOPBACK])[0]
    return Endpoints(
        bootstrap,
        registry_process.url(ports["registry"], secure=True),
        secure=True,
        vendors=f"{name}:{ports['vendors']}",
    )


def _ports(home: Path, running: Iterable[str]) -> dict[str, int]:
    ports, names = read_bus_file(home).ports, _port_names(home)
    if not all(name in ports for part in running for name in names[part]):
        raise Stop(f"{home / 'bus.json'} is missing or damaged: run `bus down`, then `bus up`")
    return ports


def _port_names(home: Path) -> dict[str, tuple[str, ...]]:
    return SECURE_PORTS if is_secure(home) else PORTS


def _attempt(home: Path, say: Say, ready_seconds: float) -> bool:
    """Start what does not run, and wait until both answer.

    Returns True if both answer. Returns False if they do not, but another attempt may succeed.
    Raises `Stop` if no further attempt can help.
    """
    running = {name: found for name in PARTS if (found := process.find(home, name))}
    missing = [name for name in PARTS if name not in running]
    try:
        if missing:
            running |= _launch(home, missing, say)
        ports = _ports(home, running)
        failed = _wait(home, running, ports, time.monotonic() + ready_seconds)
        if failed is None:
            damage.back_up(home)
            return True
        if failed in missing and not _port_was_lost(home, running, ports):
            raise Stop(_explain(home, failed, running[failed], ready_seconds))
        if process.alive(running[failed]):  # it ran before this call, or took too long
            raise Stop(
                f"{failed} of the bus in {home} runs (process {running[failed].pid}) but does not "
                "answer: run `bus down`, then `bus up`"
            )
    except BaseException:
        process.stop(home, missing)
        raise
    process.stop(home, [name for name in missing if not process.alive(running[name])])
    return False


def _launch(home: Path, missing: list[str], say: Say) -> dict[str, psutil.Process]:
    """Start these parts at the same time.

    The registry starts first. It starts in the background while Kafka's data folder is formatted,
    which takes about as long.
    """
    unclean = [name for name in missing if process.recorded(home, name)]
    for name in unclean:
        say(f"{name} had stopped (killed, or the machine restarted); starting it again")
    java = machine.java()
    found = programs(say)
    check_versions(home, found)
    if "kafka" in missing:
        damage.mend(home, say)
    else:  # Kafka has its files open
        damage.check(home)
    machine.check_memory()
    machine.check_disk(home)
    secure = is_secure(home)
    if secure:
        _secure_files(home, missing, say)
    ports = _choose_ports(home, missing, unclean, say)
    versions = {"kafka": found.kafka_version, "registry": found.registry_version}
    known = read_bus_file(home)
    write_bus_file(
        home,
        BusFile(
            ports,
            known.versions | {name: versions[name] for name in missing},
            secure,
            known.advertised,
        ),
    )
    started = {}
    if "registry" in missing:
        quicker = sharing.options(java, "registry", registry_process.FLAGS, found.registry)
        command = registry_process.command(java, found, quicker)
        if secure:
            registry_process.write_secure(home, ports)
        env = registry_process.environment(ports, secure=secure)
        started["registry"] = process.start(
            home, "registry", command, cwd=home / "registry", env=env
        )
    if "kafka" in missing:
        quicker = sharing.options(java, "kafka", kafka_process.FLAGS, found.kafka)
        if not kafka_process.formatted(home):
            kafka_process.format_data(java, found, home, ports, sharing.reading(quicker))
        command = kafka_process.command(java, found, home, ports, quicker)
        started["kafka"] = process.start(home, "kafka", command, cwd=home, env={})
    return started


def _wait(
    home: Path, running: dict[str, psutil.Process], ports: dict[str, int], until: float
) -> str | None:
    """Wait until all parts answer and return None, or return the name of one that does not.

    A secure Kafka first learns the password of the bus's own clients, also if it ran before: an
    earlier `up` may have been killed before that.
    """
    waiting, admitted = list(running), not is_secure(home)
    while waiting:
        for name in list(waiting):
            if not process.alive(running[name]) or time.monotonic() > until:
                return name
            if name == "kafka" and not admitted:
                inside = ports["inside"]
                admitted = machine.port_open(inside) and kafka_process.admit(home, inside)
            elif answers(home, name, ports[name]):
                waiting.remove(name)
        time.sleep(0.05)
    # the answer may have come from another program at the same port
    return next((name for name in running if not process.alive(running[name])), None)


def _choose_ports(home: Path, missing: list[str], unclean: list[str], say: Say) -> dict[str, int]:
    """Return the ports of all parts.

    A part that starts gets its last ports again if they are free, else new ones.
    """
    ports = dict(read_bus_file(home).ports)
    names = _port_names(home)
    for part in missing:
        for name in names[part]:
            last = ports.pop(name, 0)
            # a process that was just killed may not have released its ports yet
            if last and machine.port_free(last, wait=2.0 if part in unclean else 0.0):
                ports[name] = last
                continue
            ports[name] = machine.free_port([*ports.values(), last])
            if last:
                say(f"port {last} is in use by another program; {name} now has {ports[name]}")
    return ports


def _port_was_lost(home: Path, running: dict[str, psutil.Process], ports: dict[str, int]) -> bool:
    """Return whether another program took a port after this call chose it."""
    dead, names = [name for name in running if not process.alive(running[name])], _port_names(home)
    return any(not machine.port_free(ports[name]) for part in dead for name in names[part])


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _explain(home: Path, name: str, started: psutil.Process, seconds: float) -> str:
    if process.alive(started):
        return (
            f"{name} did not answer within {seconds:.0f} s (is the machine very busy?): see "
            f"{home / 'logs' / name}.log and run `bus up` again, or `bus up --timeout SECONDS`"
        )
    machine.java_version(machine.java())  # raises with the cause when Java itself does not run
    return process.died(home, name)
