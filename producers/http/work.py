"""What a request asks of Kafka: its events, all in one transaction, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bus.errors import RetryLater, Stop
from bus.kafka.cloudevents import Headers


class Event(NamedTuple):
    """One message as it goes to Kafka."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: Headers


class Full(Exception):  # noqa: N818
    """No more can wait for Kafka at this moment."""


@dataclass(slots=True, eq=False)
class Work:
    """The events of one request.

    outcome:   None when Kafka has committed them, else why it will not; of the server's loop.
    abandoned: whether nobody waits any more: what has not been begun is not begun.
    """

    events: Sequence[Event]
    outcome: asyncio.Future[RetryLater | Stop | None]
    abandoned: bool = False
