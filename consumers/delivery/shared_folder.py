"""A folder into which several instances of a consumer deliver: its mode, its lock, who is who.

`OUT/.schoolbus` holds the lock, and what a delivery keeps for itself. The folder is for its owner
alone (0700) when it is made here; an older one keeps its mode.

A partition belongs to the instance that asked for it last (`Delivery.resume`). What another one
still brings of it is left out (`without`): the owner brings it, and old rows must not come after
newer ones. Each delivery stores the owners, the offsets and Kafka's cluster id itself, in the same
step as its rows. That is why this module does not.
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
"""How long one instance waits for another, before the loop tries again."""


class SharedFolder:
    """See the module's docstring. `name` is the lock's; every version must use the same.

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
        """Hold the lock, and tell what the disk says in the bus's terms.

        Raises `RetryLater` when another instance holds it for too long, `Stop` when the folder is
        gone.
        """
        try:
            with explained(self.out):
                self.own.stat()  # one that is gone (a mount) is not made anew by the lock
            with explained(self.out), self._lock:
                yield
        except Timeout:
            raise RetryLater(
                f"another instance has been writing to {self.out} for {LOCK_SECONDS:.0f} seconds; "
                "trying again"
            ) from None


def without(part: Part, lost: Collection[Position]) -> Part:
    """A part without what comes of partitions that this instance has lost."""
    if not lost:
        return part
    return sifted(part, lambda message: (message.topic(), message.partition()) not in lost)


def sifted(part: Part, keep: Callable[[Message], bool]) -> Part:
    """A part with only the rows whose messages are to be kept."""
    kept = [at for at, message in enumerate(part.messages) if keep(message)]
    return part.only(kept)
