"""Whether an instance of `bus vendors run` may work, and whether agreements have changed."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Protocol

import structlog
from confluent_kafka import Consumer, TopicPartition

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.kafka.reader import Reader
from bus.settings import Settings
from bus.vendors import shard_number

log = structlog.get_logger(__name__)

STANDBY_SECONDS = 5.0
"""An instance that waits this long for another one, or for messages at its start, says so."""


class Turn(Protocol):
    """An instance's turn. Use it from one thread only."""

    settle: Callable[[], None]
    """Called before another instance may work."""

    def wait(self, stopping: threading.Event, clock: Callable[[], float]) -> None:
        """Wait until this instance may work, or a stop is requested."""

    def changed(self) -> bool:
        """Return whether a command may have changed an agreement since the last call.

        Raises `RetryLater` if another instance works now.
        """

    def close(self) -> None:
        """Close the clients."""


class OnlyInstance:
    """The turn of the one instance that works: the one with the partition of `PREFIX.vendors`."""

    def __init__(self, settings: Settings) -> None:
        self.settle: Callable[[], None] = lambda: None
        self._settings = settings
        self._owner = False
        self._consumer = Consumer(
            group_settings(settings, shard_number.GROUP)
            | {
                "partition.assignment.strategy": "range",
                "client.id": shard_number.client_id(settings.vendors.shards),
            }
        )
        self._consumer.subscribe(
            [topics.vendors(settings)],
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._revoked,
        )

    def _assigned(self, _: Consumer, parts: list[TopicPartition]) -> None:
        self._owner = bool(parts)

    def _revoked(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._owner = False
        self.settle()  # the next instance sends only after this one

    def wait(self, stopping: threading.Event, clock: Callable[[], float]) -> None:
        """Wait until this instance may work, or a stop is requested.

        It may work if no instance has another number of shards.
        """
        late = clock() + STANDBY_SECONDS
        while not self._owner and not stopping.is_set():
            self._consumer.poll(0.05)  # the caller reads all agreements anyway
            if clock() > late:
                log.info(
                    "another instance works, or was killed a moment ago; this one waits. "
                    "vendors.shards lets several instances work at the same time"
                )
                late = math.inf
        shard_number.agreed(self._settings, stopping, self.changed)

    def changed(self) -> bool:
        """Return whether a command may have changed an agreement since the last call.

        Raises `RetryLater` if another instance works now.
        """
        changed = False
        while (message := self._consumer.poll(0)) is not None:
            changed = changed or message.error() is None
        if not self._owner:
            raise RetryLater("another instance has taken over; this one waits")
        return changed

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()


class ShardTurn:
    """The turn of a shard. `bus.vendors.shard_group` stops the shard when the turn ends.

    there: whether this instance still has the shard, as far as it can know.
    """

    def __init__(self, settings: Settings, there: Callable[[], bool]) -> None:
        self._there = there
        self.settle: Callable[[], None] = lambda: None
        self._reader = Reader(settings, "could not read the agreements: Kafka reports {}")
        place = Position(topics.vendors(settings), 0)
        self._reader.assign({place: self._reader.ends([place.topic])[place]})

    def wait(self, stopping: threading.Event, clock: Callable[[], float]) -> None:
        """Return at once."""

    def changed(self) -> bool:
        """Return whether a command may have changed an agreement since the last call.

        Raises `RetryLater` if another instance may work now.
        """
        if not self._there():
            raise RetryLater("this process was paused; another instance may have taken over")
        messages, _ = self._reader.take(patience=0.0)
        return bool(messages)

    def close(self) -> None:
        """Close the client."""
        self._reader.close()
