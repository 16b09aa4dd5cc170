"""A folder into which several instances of a consumer deliver: its mode, its lock and its owners.

`OUT/.schoolbus` holds the lock and the private files of a delivery. If this module creates the
folder, only its owner can read it (0700). An existing folder keeps its mode.

A partition belongs to the instance that asked for it last (`Delivery.resume`). If another instance
still delivers rows of it, they are left out (`without`): the owner delivers them, and old rows must
not come after newer ones. Each delivery stores the owners, the offsets and Kafka's cluster id
itself, in the same step as its rows. So this module does not store them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from bus.delivery import Part, Position
from bus.errors import RetryLater
from consumers.delivery.disk import explained

if TYPE_CHECKING:
    from confluent_kafka import Message

LOCK_SECONDS = 60.0
"""How many seconds one instance waits for another before it raises `RetryLater`."""


class SharedFolder:
    """A shared folder with its lock; every version must use the same `name`, which names the lock.

    out:      the folder.
    own:      its `.schoolbus`.
    instance: the id of this instance, which names the owner of a partition; new at each start.
    """

    def __init__(self, out: Path, name: str) -> None:
        self.out = out
        self.own = out / ".schoolbus"
        self.instance = uuid.uuid4().hex
        with explained(out):
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.own.mkdir(mode=0o700, exist_ok=True)
        self._lock = FileLock(self.own / f"{name}.lock", timeout=LOCK_SECONDS, mode=0o600)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock, and turn errors of the disk into `RetryLater` and `Stop`.

        Raises `RetryLater` when another instance holds the lock for too long, and `Stop` when the
        folder does not exist.
        """
        try:
            with explained(self.out):
                self.own.stat()  # otherwise the lock would create a missing folder (a mount)
            with explained(self.out), self._lock:
                yield
        except Timeout:
            raise RetryLater(
                f"another instance has been writing to {self.out} for {LOCK_SECONDS:.0f} seconds; "
                "trying again"
            ) from None


def without(part: Part, lost: Collection[Position]) -> Part:
    """Return the part without rows of partitions that this instance has lost."""
    if not lost:
        return part
    return sifted(part, lambda message: (message.topic(), message.partition()) not in lost)


def sifted(part: Part, keep: Callable[[Message], bool]) -> Part:
    """Return the part with only the rows whose messages `keep` accepts."""
    kept = [at for at, message in enumerate(part.messages) if keep(message)]
    return part.only(kept)
