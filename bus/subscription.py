"""A vendor's way in: the events of some kinds, decoded and typed, at least once.

    from bus import subscribe

    for event in subscribe("student", "enrollment", group="acme"):
        print(event.kind, event.record["sourcedId"], event.record["status"])

An event counts as handled when the next one is asked for; its offset is committed within a second
then, and at the end. After a crash the last ones come again, with the same `event.id`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as Error

from bus.errors import BusError, Never, RetryLater
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.kafka.cloudevents import attributes
from bus.kafka.reachability import check_reachable
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings, load
from bus.standard import KINDS


@dataclass(frozen=True, slots=True)
class Event:
    """One event, decoded.

    kind:   the kind of record ("student"); record: the record as it now stands, a TypedDict of
            `bus.standard` (`Student` for "student").
    id, type, source, time, traceparent: its CloudEvents attributes; time is UTC.
    place:  topic/partition/offset.
    """

    kind: str
    record: Any
    id: str
    type: str
    source: str
    time: datetime
    traceparent: str | None
    place: str


def subscribe(
    *kinds: str,
    group: str,
    settings: Settings | None = None,
    until_caught_up: bool = False,
) -> Iterator[Event]:
    """The events of these kinds, from the first that this group has not handled; for ever, or until
    all is read that was there at the start.

    One student's events of a kind come in order. What does not decode is passed over: it is in
    nobody's power here, and its producer sees it in the bus's own dead letters. Raises `RetryLater`
    when Kafka or the registry does not answer, `Stop` when no bus is up, ValueError for a kind that
    the standard does not have.
    """
    if unknown := set(kinds) - KINDS.keys():
        raise ValueError(
            f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}"
        )
    _tell_in_one_line()
    settings = settings or load()
    if not settings.embedded:
        check_reachable(settings)
    lookup = schema_lookup(settings)
    decoders = {topics.topic(settings, kind): (kind, Decoder(kind, lookup)) for kind in kinds}
    consumer = Consumer(
        group_settings(settings, group)
        | {
            # librdkafka commits what is stored: every second, when partitions go, at the end.
            "enable.auto.commit": True,
            "auto.commit.interval.ms": 1000,
            "enable.auto.offset.store": False,
        }
    )
    behind: set[tuple[str, int]] | None = None

    def assigned(_: Consumer, partitions: list[TopicPartition]) -> None:
        nonlocal behind
        behind = (behind or set()) | {(p.topic, p.partition) for p in partitions}

    def revoked(_: Consumer, partitions: list[TopicPartition]) -> None:
        (behind or set()).difference_update((p.topic, p.partition) for p in partitions)

    try:
        consumer.subscribe(list(decoders), on_assign=assigned, on_revoke=revoked)
        while not (until_caught_up and behind is not None and not behind):
            message = consumer.poll(1.0)
            if message is None:
                continue
            place = (message.topic() or "", message.partition() or 0)
            if error := message.error():
                if error.code() == Error._PARTITION_EOF:
                    (behind or set()).discard(place)
                elif error.fatal():
                    raise KafkaException(error)
                continue
            if event := _event(message, *decoders[place[0]]):
                yield event
            _handled(consumer, message)
    except KafkaException as error:
        raise RetryLater(f"Kafka says {error.args[0].name()}; try again when it is up") from None
    finally:
        consumer.close()


def _tell_in_one_line() -> None:
    """Let a `BusError` that ends the program be told by its text, which is for a person, alone.

    A program that shows its errors in a way of its own (`sys.excepthook`) goes on to do so.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, BusError):
            sys.stderr.write(f"error: {error}\n")
        else:
            sys.__excepthook__(kind, error, trace)

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = hook


def _event(message: Message, kind: str, decoder: Decoder) -> Event | None:
    """The event of a message; None when it does not decode."""
    try:
        record = decoder.decode(message.value())
    except Never:
        return None
    about = attributes(message)
    return Event(
        kind=kind,
        record=record,
        id=about.id,
        type=about.type,
        source=about.source,
        time=about.time,
        traceparent=about.traceparent,
        place=f"{message.topic()}/{message.partition()}/{message.offset()}",
    )


def _handled(consumer: Consumer, message: Message) -> None:
    """Let the message's offset be committed, unless another reader has the partition by now."""
    try:
        consumer.store_offsets(message=message)
    except KafkaException as error:
        if error.args[0].code() != Error._STATE:
            raise
