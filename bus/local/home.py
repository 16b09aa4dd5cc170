"""A home: the folder in which one embedded bus keeps everything.

bus.json     ports, and the versions that wrote the data
kafka/       Kafka's data; kafka.properties: a copy of its meta.properties
registry/    the registry's data (H2)
logs/        what both log, rolled at 10 MB
run/         process ids, Kafka's configuration, temporary files: worth nothing after `bus down`
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
"""How long one command waits for another that is changing the same home."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the embedded bus of a home answers."""

    bootstrap: str
    registry: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What a home remembers (bus.json); versions are those that last wrote the data."""

    ports: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def recall(home: Path) -> Memory:
    """What the home remembers; nothing when it is new or the file is unreadable."""
    found = read_json(home / "bus.json")
    ports, versions = found.get("ports"), found.get("versions")
    return Memory(
        ports=ports if isinstance(ports, dict) else {},
        versions=versions if isinstance(versions, dict) else {},
    )


def remember(home: Path, memory: Memory) -> None:
    """Keep it for the next start."""
    write_json(home / "bus.json", asdict(memory))


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file; empty when there is none or it is half-written."""
    try:
        found = json.loads(read_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_text(path: Path) -> str:
    """A file's text; empty when there is none or it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file that is whole at any moment."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1), "utf-8")
    part.replace(path)


def prepare(home: Path) -> None:
    """Make the home's folders; raises `Stop` when that is not possible.

    A new home is its owner's alone: it holds the records of students.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("logs", "run/tmp", "registry"):
            (home / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(home, error) from None
    check_writable(home / "run")


def check_writable(folder: Path) -> None:
    """Raises `Stop` when nothing can be written there."""
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from None


def _not_writable(folder: Path, error: OSError) -> Stop:
    return Stop(
        f"{folder} cannot be written ({error.strerror}): give it to your user or name another "
        "folder in BUS_HOME"
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
