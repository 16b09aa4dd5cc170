"""The events of a request, which go to Kafka in one transaction, and their outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bus.errors import RetryLater, Stop
from bus.kafka.cloudevents import Headers


class Event(NamedTuple):
    """A Kafka message that is about to be published."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: Headers


class Full(Exception):  # noqa: N818
    """The queue has no room for more events."""


@dataclass(slots=True, eq=False)
class Work:
    """The events of one request.

    outcome:   a future of the server's event loop: None when Kafka has committed the events,
               otherwise why they were not committed.
    abandoned: whether the request no longer waits. Its events are then not published, unless their
               transaction has already begun.
    """

    events: Sequence[Event]
    outcome: asyncio.Future[RetryLater | Stop | None]
    abandoned: bool = False
