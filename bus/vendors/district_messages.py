"""Decodes messages of the district's topics, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bus.registry.codec import Decoder
from bus.standard.kinds import Record

if TYPE_CHECKING:
    from confluent_kafka import Message


def decoded(
    decoder: Decoder, messages: Sequence[Message]
) -> tuple[list[tuple[Message, Record | None]], list[Message]]:
    """Return messages of one kind with their records, in order, and those that do not decode.

    An erasure has None as its record.
    """
    records, failures = decoder.decode_all([message.value() for message in messages])
    found, failed = iter(records), {index for index, _ in failures}
    pairs: list[tuple[Message, Record | None]] = []
    undecodable = []
    for index, message in enumerate(messages):
        if index not in failed:
            pairs.append((message, next(found)))
        elif message.value() is None:
            pairs.append((message, None))
        else:
            undecodable.append(message)
    return pairs, undecodable


def key_of(message: Message) -> str:
    """Return the id of a message's record."""
    return (message.key() or b"").decode("utf-8", "replace")
