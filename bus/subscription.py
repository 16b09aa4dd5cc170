"""A vendor's way in: the events of some kinds, decoded and typed, at least once.

    from bus import subscribe

    for event in subscribe("student", "enrollment", group="acme"):
        print(event.kind, event.record["sourcedId"], event.record["status"])

An event counts as handled when the next one is asked for; its offset is committed within a second
then, and at the end. After a crash the last ones come again, with the same `event.id`.

What does not decode is passed over: counted, logged, and given to a hook:

    events = subscribe("student", group="acme", undecodable=lambda lost: alarm(lost.place))
    for event in events: ...
    print(events.undecodable.total())
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
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

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A message that is no event of its kind, as its bytes do not decode.

    kind:   the kind of record of its topic.
    place:  topic/partition/offset.
    reason: why it does not decode; without any value.
    key:    the id of its record ("" without a key).
    value:  its bytes; None: the record is to be forgotten (an erasure).
    """

    kind: str
    place: str
    reason: str
    key: str = field(repr=False)
    value: bytes | None = field(repr=False)


class Subscription(Iterator[Event]):
    """What `subscribe` gives: an iterator of events. Not for several threads.

    undecodable: how many messages were passed over, by kind, since it began.
    """

    def __init__(
        self,
        kinds: tuple[str, ...],
        group: str,
        settings: Settings | None,
        until_caught_up: bool,
        hook: Callable[[Undecodable], object] | None,
    ) -> None:
        self.undecodable: Counter[str] = Counter()
        # Not a method of this object: whoever lets go of the object leaves the group at once.
        losses = _Losses(group, self.undecodable, hook)
        self._events = _events(kinds, group, settings, until_caught_up, losses.add)

    def __next__(self) -> Event:
        """The next event; the one before it counts as handled."""
        return next(self._events)

    def close(self) -> None:
        """Leave the group. The last event that was given does not count as handled."""
        self._events.close()


@dataclass(frozen=True, slots=True)
class _Losses:
    """What a subscription passes over: counted, logged, told to the hook."""

    group: str
    counts: Counter[str]
    hook: Callable[[Undecodable], object] | None

    def add(self, lost: Undecodable) -> None:
        """One more."""
        number = self.counts[lost.kind] + 1
        if str(number).strip("0") == "1":  # the 1st, the 10th, the 100th: a topic may be full of it
            log.warning(
                "group %s passes over what does not decode: %d of kind %s by now, last %s: %s",
                *(self.group, number, lost.kind, lost.place, lost.reason),
            )
        if self.hook is not None:
            self.hook(lost)
        self.counts[lost.kind] = number


def subscribe(
    *kinds: str,
    group: str,
    settings: Settings | None = None,
    until_caught_up: bool = False,
    undecodable: Callable[[Undecodable], object] | None = None,
) -> Subscription:
    """The events of these kinds, from the first that this group has not handled; for ever, or until
    all is read that was there at the start.

    undecodable: called with each message that does not decode, before the next event comes. It
                 counts as handled when the call returns; when the call raises, reading ends with
                 that, and the message comes again.

    One student's events of a kind come in order. What does not decode is passed over, as its
    producer alone can mend it: it is counted (`Subscription.undecodable`) and logged as a warning
    of the logger `bus.subscription`, the 1st, the 10th, the 100th of a kind, without the record's
    id and bytes. Raises, when the first event is asked for, `RetryLater` when Kafka or the registry
    does not answer, `Stop` when no bus is up, and ValueError for a kind that the standard does not
    have.
    """
    return Subscription(kinds, group, settings, until_caught_up, undecodable)


def _events(
    kinds: tuple[str, ...],
    group: str,
    settings: Settings | None,
    until_caught_up: bool,
    pass_over: Callable[[Undecodable], None],
) -> Generator[Event, None, None]:
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
            found = _event(message, *decoders[place[0]])
            if isinstance(found, Event):
                yield found
            else:
                pass_over(found)
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


def _event(message: Message, kind: str, decoder: Decoder) -> Event | Undecodable:
    """The event of a message, if it decodes."""
    place, value = f"{message.topic()}/{message.partition()}/{message.offset()}", message.value()
    try:
        record = decoder.decode(value)
    except Never as reason:
        key: bytes | str = message.key() or b""
        name = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
        return Undecodable(kind, place, str(reason), name, value)
    about = attributes(message)
    return Event(
        kind=kind,
        record=record,
        id=about.id,
        type=about.type,
        source=about.source,
        time=about.time,
        traceparent=about.traceparent,
        place=place,
    )


def _handled(consumer: Consumer, message: Message) -> None:
    """Let the message's offset be committed, unless another reader has the partition by now."""
    try:
        consumer.store_offsets(message=message)
    except KafkaException as error:
        if error.args[0].code() != Error._STATE:
            raise
