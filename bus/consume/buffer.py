"""The messages that a consumer has read and not yet ordered.

Messages are kept as they came. All messages of one kind are decoded at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from typing import TYPE_CHECKING, Any

from bus.consume.dependency_order import KindRecords
from bus.consume.feed import Feed, deletion, whole
from bus.delivery import Position
from bus.kafka.reader import position
from bus.registry.codec import Decoder
from bus.standard.fault_codes import FaultCode, Reason

if TYPE_CHECKING:
    from confluent_kafka import Message

Buffered = dict[str, list["Message"]]
"""Messages by kind. Each kind's messages are in the order in which they were read."""


class Buffer:
    """Keeps messages until they are taken for a batch. Not thread-safe.

    feed:          the topics, and how to read their records.
    writer_schema: see `bus.registry.codec.Decoder`.
    since:         when the first message came into the empty buffer, by `clock`.
    """

    def __init__(
        self,
        feed: Feed,
        writer_schema: Callable[[int], dict[str, Any]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.since = 0.0
        self._clock = clock
        self._feed = feed
        self._kinds = feed.topics
        self._decoders = {
            kind: Decoder(kind, writer_schema, feed.schemas.get(kind))
            for kind in feed.topics.values()
        }
        self._taken: Buffered = {}
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def add(self, messages: Sequence[Message]) -> dict[Position, int]:
        """Keep these messages. Return for each partition the offset after its last message.

        None of the messages may be an error.
        """
        if messages and not self._number:
            self.since = self._clock()
        ends: dict[Position, int] = {}
        by_topic: dict[str | None, list[Message]] = {}
        for message in messages:
            by_topic.setdefault(message.topic(), []).append(message)
        for topic, read in by_topic.items():
            self._taken.setdefault(self._kinds[topic or ""], []).extend(read)
            for partition, offset in {m.partition(): m.offset() for m in read}.items():
                ends[Position(topic or "", partition or 0)] = (offset or 0) + 1
        self._number += len(messages)
        return ends

    def take(self) -> Buffered:
        """Return all messages and empty the buffer."""
        taken, self._taken, self._number = self._taken, {}, 0
        return taken

    def drop(self, partitions: Set[Position]) -> None:
        """Forget the messages of these partitions."""
        for kind, messages in self._taken.items():
            self._taken[kind] = [m for m in messages if position(m) not in partitions]
        self._number = sum(map(len, self._taken.values()))

    def decoded(self, taken: Buffered) -> tuple[dict[str, KindRecords], list[tuple[Message, str]]]:
        """Decode messages.

        Returns the records by kind, and (message, reason) for each message that does not decode.

        Raises `RetryLater` when the schema registry is needed and does not answer.
        """
        by_kind: dict[str, KindRecords] = {}
        undecodable: list[tuple[Message, str]] = []
        for kind, messages in taken.items():
            if self._feed.under_agreement:
                by_kind[kind] = KindRecords()
                undecodable += self._decode_shared(kind, messages, by_kind[kind])
                continue
            values = [message.value() for message in messages]
            records, failures, columns = self._decoders[kind].decode_with_columns(values)
            if failures:
                bad = {index for index, _ in failures}
                undecodable += [
                    (messages[index], Reason(str(why), FaultCode.UNDECODABLE))
                    for index, why in failures
                ]
                messages = [m for index, m in enumerate(messages) if index not in bad]
            by_kind[kind] = KindRecords(records, messages, columns)
        return by_kind, undecodable

    def _decode_shared(
        self, kind: str, messages: list[Message], into: KindRecords
    ) -> list[tuple[Message, str]]:
        """Decode messages of an agreement's topic; see `bus.consume.feed`."""
        if kind in self._feed.ended:
            messages = [message for message in messages if message.value() is None]
        live = [message for message in messages if message.value() is not None]
        records, failures, _ = self._decoders[kind].decode_with_columns(
            [message.value() for message in live]
        )
        failed = {
            id(live[index]): Reason(str(why), FaultCode.UNDECODABLE) for index, why in failures
        }
        decoded = iter(records)
        for message in messages:
            if message.value() is None:
                key = (message.key() or b"").decode("utf-8", "replace")
                into.add(deletion(kind, key), message)
            elif id(message) not in failed:
                into.add(whole(kind, next(decoded)), message)
        return [(message, failed[id(message)]) for message in live if id(message) in failed]
