"""A home: the folder in which one embedded bus keeps everything.

A home has these files and folders:

    bus.json     ports, and the versions that wrote the data
    kafka/       Kafka's data; kafka.properties: a copy of its meta.properties
    registry/    the registry's data (H2)
    logs/        the logs of both, rolled at 10 MB
    run/         process ids, Kafka's configuration, temporary files; not needed after `bus down`
    tls/         certificates, keys and passwords, if the home is secure
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from filelock import FileLock, Timeout

from bus.errors import Stop

LOCK_SECONDS = 900.0
"""How many seconds a command waits for another one that is changing the same home."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The addresses of the embedded bus of a home.

    bootstrap: Kafka, for this machine.
    registry:  the registry, for this machine.
    secure:    whether both need TLS and a password, which `bus.local.credentials` has.
    vendors:   Kafka, for vendors, if the home is secure; else "".
    """

    bootstrap: str
    registry: str
    secure: bool = False
    vendors: str = ""


@dataclass(frozen=True, slots=True)
class BusFile:
    """What a home remembers (bus.json).

    ports:      the port of each service.
    versions:   the version of each program that last wrote the data.
    secure:     whether the home is secure; `is_secure` answers that, also when this file is lost.
    advertised: the names at which vendors reach this machine; the first is the one that Kafka
                tells them.
    """

    ports: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    secure: bool = False
    advertised: list[str] = field(default_factory=list)


def read_bus_file(home: Path) -> BusFile:
    """Return what the home remembers; empty if the home is new or the file is unreadable."""
    found = read_json(home / "bus.json")
    ports, versions = found.get("ports"), found.get("versions")
    advertised = found.get("advertised")
    return BusFile(
        ports=ports if isinstance(ports, dict) else {},
        versions=versions if isinstance(versions, dict) else {},
        secure=found.get("secure") is True,
        advertised=list(map(str, advertised)) if isinstance(advertised, list) else [],
    )


def write_bus_file(home: Path, content: BusFile) -> None:
    """Store what the home remembers, for the next start."""
    write_json(home / "bus.json", asdict(content))


def is_secure(home: Path) -> bool:
    """Return whether the home is secure. It never becomes plain again because a file is lost."""
    return tls(home).is_dir() or read_bus_file(home).secure


def tls(home: Path) -> Path:
    """Return the folder of the certificates, keys and passwords of a secure home."""
    return home / "tls"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; empty if the file is missing or incomplete."""
    try:
        found = json.loads(read_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_text(path: Path) -> str:
    """Return a file's text; "" if the file is missing or unreadable."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file so that it is whole at any moment."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1), "utf-8")
    part.replace(path)


def prepare(home: Path) -> None:
    """Create the home's folders; raises `Stop` if that is not possible.

    Only its owner can read a new home, as it holds records of students.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("logs", "run/tmp", "registry"):
            (home / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(home, error) from None
    check_writable(home / "run")


def check_writable(folder: Path) -> None:
    """Raise `Stop` if the folder is not writable."""
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from None


def _not_writable(folder: Path, error: OSError) -> Stop:
    return Stop(
        f"{folder} is not writable ({error.strerror}): give your user access or set BUS_HOME "
        "to another folder"
    )


@contextmanager
def alone(home: Path, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Let one `bus up` or `bus down` at a time change this home."""
    lock = FileLock(home / "run" / "lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another `bus up` or `bus down` is busy in {home}; waiting for it")
            lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise Stop(
            f"another `bus up` or `bus down` has been busy in {home} for {LOCK_SECONDS:.0f} s: "
            "wait for it or end it"
        ) from None
    except OSError as error:
        raise _not_writable(home, error) from None
    try:
        yield
    finally:
        lock.release()
