"""Gives a vendor the events of some kinds, decoded and typed, at least once.

    from bus import subscribe

    for event in subscribe("student", "enrollment", group="acme"):
        print(event.kind, event.record["sourcedId"], event.record["status"])

An event counts as handled when your program asks for the next one. Its offset is committed within a
second after that, and at the end. After a crash the last events come again with the same
`event.id`.

A message that does not decode is skipped. It is counted, logged and passed to a hook:

    events = subscribe("student", group="acme", undecodable=lambda lost: alarm(lost.place))
    for event in events: ...
    print(events.undecodable.total())

A vendor with an agreement names it, and reads its own topics. Deletions are events there:

    for event in subscribe("student", agreement="math-app", group="reader"):
        if event.record is None:
            forget(event.kind, event.key)

If the program was away for so long that it may have missed deletions, `Stop` says so. Then delete
everything that you keep of this agreement, and read once with `subscribe(…, anew=True)`.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as Error

from bus.delivery import Position
from bus.errors import BusError, Never, RetryLater, Stop
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.kafka.cloudevents import TYPE_PREFIX, attributes
from bus.kafka.reachability import check_reachable
from bus.kafka.reader import marks_of
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings, load, registered_name
from bus.standard import KINDS
from bus.vendors.reading_times import TIMEOUT, ReadingTimes
from bus.vendors.vendor_schema import vendor_topic

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One decoded event.

    kind:                          the kind of record, such as "student".
    record:                        the new state of the record: a TypedDict of `bus.standard`, such
                                   as `Student` for "student". Under an agreement: a dict with the
                                   agreed fields, or None if the record must be deleted.
    id, type, source, traceparent: the CloudEvents attributes of the event.
    time:                          the CloudEvents time, in UTC.
    place:                         topic/partition/offset.
    key:                           the id of the record, its `sourcedId`.
    """

    kind: str
    record: Any
    id: str
    type: str
    source: str
    time: datetime
    traceparent: str | None
    place: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A message whose bytes do not decode as a record of its topic's kind.

    kind:   the kind of the topic.
    place:  topic/partition/offset.
    reason: why it does not decode, without any value.
    key:    the id of the record; "" if the message has no key.
    value:  the bytes. None means an erasure: delete what you keep of this record.
    """

    kind: str
    place: str
    reason: str
    key: str = field(repr=False)
    value: bytes | None = field(repr=False)


class Subscription(Iterator[Event]):
    """The iterator of events that `subscribe` returns; do not share it between threads.

    undecodable: a Counter of the messages that were skipped since the subscription began, by kind.
    """

    def __init__(
        self,
        kinds: tuple[str, ...],
        group: str,
        settings: Settings | None,
        until_caught_up: bool,
        hook: Callable[[Undecodable], object] | None,
        agreement: str | None = None,
        anew: bool = False,
    ) -> None:
        self.undecodable: Counter[str] = Counter()
        # Not a method of this object: a reference to it would keep the object alive, and dropping
        # the object must leave the group at once.
        skipped = _SkippedMessages(group, self.undecodable, hook)
        self._events = _events(
            kinds, group, settings, until_caught_up, skipped.add, agreement, anew
        )

    def __next__(self) -> Event:
        """The next event; the one before it counts as handled."""
        return next(self._events)

    def close(self) -> None:
        """Leave the group; the last event that was returned does not count as handled."""
        self._events.close()


@dataclass(frozen=True, slots=True)
class _SkippedMessages:
    """The messages that a subscription skips: counts them, logs them and calls the hook."""

    group: str
    counts: Counter[str]
    hook: Callable[[Undecodable], object] | None

    def add(self, lost: Undecodable) -> None:
        """Record one more skipped message."""
        number = self.counts[lost.kind] + 1
        if str(number).strip("0") == "1":  # the 1st, 10th, 100th …: there may be many
            log.warning(
                "group %s skips messages that do not decode: %d of kind %s so far, last at %s: %s",
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
    agreement: str | None = None,
    anew: bool = False,
) -> Subscription:
    """Return the events of these kinds, starting at the first that this group has not handled.

    kinds:           kinds of record, such as "student".
    group:           the consumer group. Instances with the same group share the events.
    settings:        the settings; by default those of bus.toml and the environment.
    until_caught_up: end after the events that were there at the start; otherwise, go on forever.
    undecodable:     called with each message that does not decode, before the next event comes. The
                     message counts as handled when the call returns. If the call raises, reading
                     ends with that exception, and the message comes again.
    agreement:       read a vendor's own topics under this agreement, named as in the topics.
    anew:            start at the first event of each partition, whatever this group has handled.
                     Then read on as always, so use it for one start only: the next start with it
                     begins at the first event again. Stop the other instances of the group first.

    Events of one student and one kind come in order. A message that does not decode is skipped, as
    only its producer can correct it. It is counted in `Subscription.undecodable`. The logger
    `bus.subscription` warns of the 1st, 10th, 100th … message of a kind, without the record's id
    and bytes.

    Under an agreement, a record has the fields of the schema with which it was written, and the
    group is `PREFIX.vendor.AGREEMENT.GROUP`. An event whose record is None is a deletion: delete
    what you keep of the record with this `key`. Its type is `org.schoolbus.KIND.deleted`.

    These errors are raised when the first event is requested: `RetryLater` if Kafka or the registry
    does not answer, `Stop` if no bus is running, and ValueError for a kind that the standard does
    not have. `Stop` is raised at any time when Kafka denies this user access, as when an agreement
    was changed, has ended or was revoked.

    Under an agreement, `Stop` is also raised when this group has left messages unread for more than
    30 days (`bus.kafka.topics.DELETION_DAYS`). Kafka may have removed deletions among them. Then
    delete everything that you keep of this agreement, and read once with `anew`. A group that
    begins at the first event may take 30 days to come to the end. Source: Apache Kafka
    documentation, "Log Compaction" and the topic setting `delete.retention.ms`.
    """
    return Subscription(kinds, group, settings, until_caught_up, undecodable, agreement, anew)


def _events(
    kinds: tuple[str, ...],
    group: str,
    settings: Settings | None,
    until_caught_up: bool,
    skip: Callable[[Undecodable], None],
    agreement: str | None,
    anew: bool,
) -> Generator[Event, None, None]:
    if unknown := set(kinds) - KINDS.keys():
        raise ValueError(
            f"unknown kind: {', '.join(sorted(unknown))}; the kinds are {', '.join(KINDS)}"
        )
    _print_errors_without_traceback()
    settings = settings or load()
    if not settings.embedded:
        check_reachable(settings)
    lookup = schema_lookup(settings)
    if agreement is None:
        decoders = {topics.topic(settings, kind): (kind, Decoder(kind, lookup)) for kind in kinds}
    else:
        registered_name("vendor's agreement", agreement)
        group = f"vendor.{agreement}.{group}"
        decoders = {
            vendor_topic(settings, agreement, kind): (kind, Decoder(kind, lookup, as_written=True))
            for kind in kinds
        }
    refusals: list[Error] = []

    def refused(error: Error) -> None:
        if error.code() in REFUSALS:
            refusals.append(error)

    consumer = Consumer(
        group_settings(settings, group)
        | {
            # Without this, librdkafka only logs that a password counts no more.
            "error_cb": refused,
            # librdkafka commits stored offsets every second, when partitions are revoked, and when
            # the consumer closes.
            "enable.auto.commit": True,
            "auto.commit.interval.ms": 1000,
            "enable.auto.offset.store": False,
        }
    )
    behind: set[Position] | None = None
    # A consumer must not be asked for offsets while it reports a rebalance (`bus.kafka.offsets`).
    # An exception would be lost there, too. So these are checked after the poll.
    unchecked: set[Position] = set()
    begun: set[Position] = set()
    times = ReadingTimes(consumer, agreement) if agreement is not None else None

    def assigned(member: Consumer, partitions: list[TopicPartition]) -> None:
        nonlocal behind
        places = {Position(p.topic, p.partition) for p in partitions}
        behind = (behind or set()) | places
        unchecked.update(places)
        if anew:
            for partition in partitions:
                if Position(partition.topic, partition.partition) not in begun:
                    partition.offset = OFFSET_BEGINNING
            member.incremental_assign(partitions)

    def revoked(_: Consumer, partitions: list[TopicPartition]) -> None:
        places = {Position(p.topic, p.partition) for p in partitions}
        (behind or set()).difference_update(places)
        unchecked.difference_update(places)
        if times is not None:
            times.forget(places)

    def check() -> None:
        new = unchecked - begun if anew else set()
        if times is not None:
            times.check(unchecked, new)
        if new:
            # An interrupted program then continues from here, without `anew`.
            lows = {place: low for place, (low, _) in marks_of(consumer, new, TIMEOUT).items()}
            _commit(consumer, lows, times)
        begun.update(unchecked)
        unchecked.clear()

    def keep() -> None:
        """Commit once a day that the group has missed nothing, even if no message comes."""
        if times is not None and (due := times.due()):
            _commit(consumer, due, times)

    try:
        consumer.subscribe(list(decoders), on_assign=assigned, on_revoke=revoked)
        while not (until_caught_up and behind is not None and not behind):
            message = consumer.poll(1.0)
            if refusals:
                raise _denied(settings, refusals[0], group, agreement)
            if unchecked:
                check()
            if message is None:
                keep()
                continue
            place = Position(message.topic() or "", message.partition() or 0)
            if error := message.error():
                if error.code() == Error._PARTITION_EOF:
                    (behind or set()).discard(place)
                    if times is not None and (part := times.ended(place, message.offset() or 0)):
                        # librdkafka may still have to commit the last message, with an earlier time
                        _store(consumer, offsets=[part])
                        keep()
                elif error.fatal():
                    raise KafkaException(error)
                else:
                    refused(error)
                continue
            found = _event(message, *decoders[place.topic], deletions=agreement is not None)
            if isinstance(found, Event):
                yield found
            else:
                skip(found)
            _store_offset(consumer, message, times)
    except KafkaException as error:
        if error.args[0].code() in REFUSALS:
            raise _denied(settings, error.args[0], group, agreement) from None
        raise RetryLater(f"Kafka reports {error.args[0].name()}; try again later") from None
    finally:
        consumer.close()


REFUSALS = frozenset(
    {
        Error.TOPIC_AUTHORIZATION_FAILED,
        Error.GROUP_AUTHORIZATION_FAILED,
        Error.SASL_AUTHENTICATION_FAILED,
        Error._AUTHENTICATION,
    }
)
"""Kafka's answers to a user who may not read, or no longer."""


def _denied(settings: Settings, error: Error, group: str, agreement: str | None) -> Stop:
    if agreement is None:
        return Stop(
            f"Kafka denies access ({error.name()}): give this user READ on the topics of these "
            f"kinds and on the group {settings.topic_prefix}.{group}, or correct [kafka] in "
            "bus.toml"
        )
    return Stop(
        f"the district does not let agreement {agreement} read this, or no longer: the agreement "
        "was changed, has ended or was revoked, or these credentials were replaced. After a "
        "change, the district writes the topics again: start the reader again after some minutes. "
        "If that does not help, ask the district's contact, who is named in the agreement"
    )


def _commit(consumer: Consumer, offsets: dict[Position, int], times: ReadingTimes | None) -> None:
    """Commit these offsets. If that fails, as during a rebalance, a later commit replaces it."""
    parts = [TopicPartition(*place, offset) for place, offset in offsets.items()]
    if times is not None:
        parts = [times.part(place, offset) for place, offset in offsets.items()]
    with suppress(KafkaException):
        consumer.commit(offsets=parts, asynchronous=True)


def _print_errors_without_traceback() -> None:
    """Print only the text of a `BusError` that ends the program, without a traceback.

    The text is written for a person. A program that has set `sys.excepthook` keeps its own hook.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, BusError):
            sys.stderr.write(f"error: {error}\n")
        else:
            sys.__excepthook__(kind, error, trace)

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = hook


def _event(
    message: Message, kind: str, decoder: Decoder, *, deletions: bool = False
) -> Event | Undecodable:
    """Return the event of a message, or `Undecodable`.

    deletions: whether a message without a value is an event.
    """
    place, value = f"{message.topic()}/{message.partition()}/{message.offset()}", message.value()
    raw: bytes | str = message.key() or b""
    key = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    about = attributes(message)
    if value is None and deletions:
        record, type_ = None, f"{TYPE_PREFIX}{kind}.deleted"
    else:
        try:
            record, type_ = decoder.decode(value), about.type
        except Never as reason:
            return Undecodable(kind, place, str(reason), key, value)
    return Event(
        kind=kind,
        record=record,
        id=about.id,
        type=type_,
        source=about.source,
        time=about.time,
        traceparent=about.traceparent,
        place=place,
        key=key,
    )


def _store_offset(consumer: Consumer, message: Message, times: ReadingTimes | None) -> None:
    """Store the message's offset for the next commit."""
    if times is None:
        _store(consumer, message=message)
    else:
        _store(consumer, offsets=[times.handled(message)])


def _store(consumer: Consumer, **what: Any) -> None:
    """Store an offset for the next commit.

    Does nothing if another instance has the partition by now.
    """
    try:
        consumer.store_offsets(**what)
    except KafkaException as error:
        if error.args[0].code() != Error._STATE:
            raise
