"""Runs the projections of all agreements: `bus vendors run`.

    district's topics -> view -> one projection for each agreement -> outbox -> vendors' topics

One instance works at a time; others wait and take over when it ends (a Kafka consumer group on the
one partition of `PREFIX.vendors`). An instance shares one view and one reading of the district's
topics among all agreements.

The loop reads opt-outs before anything else, so that a long extract does not delay them. It commits
a batch to the file of the view, with all that follows from it. Then it sends: `bus.vendors.outbox`.
At a start it first reads everything that is in the topics, and sends only then: so what an old
message would disclose is decided by today's opt-outs and today's agreements.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from bus.delivery import Position
from bus.errors import Never, RetryLater, Stop
from bus.ingest.ownership import announced
from bus.kafka import topics
from bus.kafka.client import client_settings, group_settings
from bus.kafka.reader import Reader, position, sift, some
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard.kinds import KINDS, Record
from bus.vendors import applied as applied_agreements
from bus.vendors import master_key
from bus.vendors.applied import Applied
from bus.vendors.disclosures import DisclosureWriter
from bus.vendors.district_view import DistrictView, Key
from bus.vendors.opt_out_guard import OPT_OUT, opt_outs_vanish
from bus.vendors.outbox import Outbox, Outgoing, event_type
from bus.vendors.projection import Change
from bus.vendors.vendor_stream import VendorStream

log = structlog.get_logger(__name__)

LOAD_RECORDS = 10_000
"""Messages of one batch while the view is built."""
LIVE_RECORDS = 2_000
"""Messages of one batch of live changes; after each, opt-outs are looked for."""
TICK_SECONDS = 5.0
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class RunOutcome:
    """What a run did.

    sent:        messages to vendors.
    undecodable: messages of the district that do not decode; the vendors keep the older state.
    """

    sent: int = 0
    undecodable: int = 0
    agreements: list[str] = field(default_factory=list)


class Runner:
    """The loop. Call `run` on one thread; any thread may call `stop`.

    today: returns the day in the district's calendar.
    clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        today: Callable[[], date] = date.today,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outcome = RunOutcome()
        self._settings = settings
        self._today = today
        self._clock = clock
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask the loop to end after the current batch."""
        self._stopping.set()

    def run(self, *, until_caught_up: bool = False) -> RunOutcome:
        """Project until `stop` is called.

        until_caught_up: end when everything that was in the topics at the start is with the
                         vendors, and all topics of vendors are written whole.

        Raises `Stop` when a person must act. Waits while Kafka or the registry does not answer.
        """
        failed = 0
        while not self._stopping.is_set():
            work = _Work(self._settings, self._stopping, self._today, self._clock, self.outcome)
            try:
                work.run(until_caught_up)
                return self.outcome
            except RetryLater as error:
                if work.worked:
                    failed = 0
                wait = RETRY_SECONDS[min(failed, len(RETRY_SECONDS) - 1)]
                failed += 1
                log.warning("the vendors' projection waits", reason=str(error), seconds=wait)
                self._stopping.wait(wait)
            finally:
                work.close()
        return self.outcome


class _Work:
    """One attempt: its clients, its view and its streams."""

    def __init__(
        self,
        settings: Settings,
        stopping: threading.Event,
        today: Callable[[], date],
        clock: Callable[[], float],
        outcome: RunOutcome,
    ) -> None:
        self.worked = False
        self._settings = settings
        self._stopping = stopping
        self._today = today
        self._clock = clock
        self._outcome = outcome
        self._kinds = {topics.topic(settings, kind): kind for kind in KINDS}
        lookup = schema_lookup(settings)
        self._decoders = {kind: Decoder(kind, lookup) for kind in KINDS}
        self._closing: list[Callable[[], object]] = []
        self._owner = False
        self._streams: dict[str, VendorStream] = {}
        self._applied: dict[str, Applied] = {}
        self._day = today()
        self._ticked = clock()

    def close(self) -> None:
        """Close all clients and the file."""
        while self._closing:
            with suppress(Exception):
                self._closing.pop()()

    # ---- the loop ------------------------------------------------------------------------------

    def run(self, until_caught_up: bool) -> None:
        """Work until a stop is requested, or everything of the start is done."""
        try:
            topics.ensure(self._settings, [*self._kinds, topics.vendors(self._settings)])
            _require_opt_outs(self._settings)
            self._control = self._join()
            while not self._owner and not self._stopping.is_set():
                self._heed(self._control.poll(0.5))
            if self._stopping.is_set():
                return
            self._open()
            goal = self._ends()
            self._catch_up(goal)
            while not self._stopping.is_set():
                self._turn()
                if until_caught_up and self._done(goal):
                    return
                if not self._owner:
                    raise RetryLater("another instance has taken over; this one waits")
        except KafkaException as error:
            raise RetryLater(f"Kafka reports {error.args[0].name()}") from None

    def _join(self) -> Consumer:
        """Join the group whose one member works."""
        consumer = Consumer(
            group_settings(self._settings, "vendors") | {"partition.assignment.strategy": "range"}
        )
        self._closing.append(consumer.close)

        def assigned(_: Consumer, parts: list[TopicPartition]) -> None:
            self._owner = bool(parts)

        def revoked(_: Consumer, __: list[TopicPartition]) -> None:
            self._owner = False

        consumer.subscribe(
            [topics.vendors(self._settings)],
            on_assign=assigned,
            on_revoke=revoked,
            on_lost=revoked,
        )
        return consumer

    def _open(self) -> None:
        """Open the view, the record of disclosures and the readers."""
        settings = self._settings
        with Reader(settings, "could not ask for the cluster: Kafka reports {}") as reader:
            mark = reader.cluster()
            ends = reader.ends(list(self._kinds))
        self._view = DistrictView(
            settings.home / "vendors" / f"{settings.topic_prefix}.sqlite", mark, self._decode_stored
        )
        self._closing.append(self._view.close)
        disclosures = DisclosureWriter(settings)
        self._closing.append(disclosures.close)
        self._outbox = Outbox(settings, self._view, disclosures)
        self._closing.append(self._outbox.close)
        places = {place: self._view.places().get(place, 0) for place in ends}
        first = topics.topic(settings, OPT_OUT)
        self._opt_outs = self._reader({p: at for p, at in places.items() if p.topic == first})
        self._others = self._reader({p: at for p, at in places.items() if p.topic != first})
        self._places = places
        self._applied = applied_agreements.read(settings)

    def _reader(self, places: dict[Position, int]) -> Consumer:
        consumer = Consumer(
            group_settings(self._settings, "vendors.reader") | {"fetch.wait.max.ms": 20}
        )
        self._closing.append(consumer.close)
        consumer.assign([TopicPartition(*place, at) for place, at in places.items()])
        return consumer

    def _ends(self) -> dict[Position, int]:
        with Reader(self._settings, "could not ask for offsets: Kafka reports {}") as reader:
            return reader.ends(list(self._kinds))

    def _catch_up(self, goal: dict[Position, int]) -> None:
        """Take everything that is in the topics, and send only then."""
        self._start_streams()
        while not self._stopping.is_set() and self._behind(goal):
            messages = some(self._opt_outs, LOAD_RECORDS, 0.0)
            messages += some(self._others, LOAD_RECORDS, 0.0 if messages else 0.5)
            self._heed(self._control.poll(0))
            self._take(messages)
        self._start_streams(new=True)
        self._send()
        self.worked = True

    def _turn(self) -> None:
        """Take the next changes, and send what follows."""
        self._heed(self._control.poll(0))
        self._tick()
        messages = some(self._opt_outs, LIVE_RECORDS, 0.0)
        busy = any(stream.progress.unfinished for stream in self._streams.values())
        messages += some(self._others, LIVE_RECORDS, 0.0 if messages or busy else 0.05)
        if messages:
            self._take(messages)
            self._send()
        if busy:
            self._go_on()

    def _behind(self, goal: dict[Position, int]) -> bool:
        return any(self._places.get(place, 0) < end for place, end in goal.items())

    def _done(self, goal: dict[Position, int]) -> bool:
        return not self._behind(goal) and not any(
            stream.progress.unfinished for stream in self._streams.values()
        )

    # ---- changes -------------------------------------------------------------------------------

    def _take(self, messages: Sequence[Message]) -> None:
        """Commit a batch of the district's messages, with all that follows from it."""
        records, ended, error = sift(messages)
        if error is not None:
            raise RetryLater(f"Kafka reports {error.name()}")
        rows: dict[Key, tuple[Record | None, bytes | None]] = {}
        reached: dict[Position, int] = {}
        for message in records:
            place = position(message)
            reached[place] = (message.offset() or 0) + 1
            kind, value = self._kinds[place.topic], message.value()
            id_ = (message.key() or b"").decode("utf-8", "replace")
            if value is None:
                rows[kind, id_] = None, None
                continue
            try:
                rows[kind, id_] = self._decoders[kind].decode(value), value
            except Never:
                self._outcome.undecodable += 1
                log.warning(
                    "a message does not decode; vendors keep the older state",
                    place=f"{place.topic}/{place.partition}/{message.offset()}",
                )
        # The end of a partition may lie behind its last record: transactions end with a marker.
        reached |= dict(ended)
        if not records:
            self._places |= reached
            return
        view = self._view
        view.begin()
        try:
            before = view.get_all(rows)
            view.store((kind, id_, *row) for (kind, id_), row in rows.items())
            changes = [
                Change(kind, id_, before.get((kind, id_)), record)
                for (kind, id_), (record, _) in rows.items()
                if before.get((kind, id_)) != record
            ]
            view.reach(reached)
            some_opt_outs = any(change.kind == OPT_OUT for change in changes)
            hold = some_opt_outs and opt_outs_vanish(changes, view.count_active(OPT_OUT))
            if hold:
                log.warning("many opt-outs ended at once; who would enter agreements is held back")
            self._add(
                message
                for stream in self._streams.values()
                for message in stream.take(changes, self._day, self._outbox, hold=hold)
            )
            view.commit()
        except BaseException:
            self._drop()
            raise
        self._places |= reached

    def _go_on(self) -> None:
        """Look at the next students of agreements whose topics are written whole."""
        self._view.begin()
        try:
            for stream in self._streams.values():
                self._add(stream.go_on(self._day, self._outbox))
            self._view.commit()
        except BaseException:
            self._drop()
            raise
        self._send()
        for stream in self._streams.values():
            if stream.progress.reached is None and not stream.progress.written:
                self._clean(stream)

    def _tick(self) -> None:
        """Follow the clock: agreements that begin or end, students who left some days ago."""
        if self._clock() - self._ticked < TICK_SECONDS:
            return
        self._ticked = self._clock()
        day = self._today()
        if day == self._day:
            return
        self._day = day
        self._start_streams(new=True)
        self._view.begin()
        try:
            for stream in self._streams.values():
                self._add(stream.next_day(day, self._outbox))
            self._view.commit()
        except BaseException:
            self._drop()
            raise
        self._send()

    def _add(self, messages: Iterable[tuple[int, Outgoing]]) -> None:
        """Put messages into the outbox: what a record refers to comes before it."""
        ordered = sorted(messages, key=lambda one: one[0])
        self._outbox.add(message for _, message in ordered)

    def _drop(self) -> None:
        self._view.rollback()
        for stream in self._streams.values():
            stream.dropped()

    def _send(self) -> None:
        self._outcome.sent += self._outbox.send(self._streams.keys())

    # ---- agreements ----------------------------------------------------------------------------

    def _heed(self, message: Message | None) -> None:
        """Follow what a command did to an agreement: at once, before anything else is sent."""
        if message is None or message.error() is not None or not self._applied_is_open():
            return
        self._applied = applied_agreements.read(self._settings)
        self._start_streams(new=True)

    def _applied_is_open(self) -> bool:
        return hasattr(self, "_view")

    def _start_streams(self, *, new: bool = False) -> None:
        """Start the streams of agreements that hold today, and end the others.

        new: also start to write the topics of agreements that are new or have changed.
        """
        wanted = {name: one for name, one in self._applied.items() if one.active(self._day)}
        for name in self._streams.keys() - wanted.keys():
            del self._streams[name]
            log.info("the agreement does not hold any more", agreement=name)
        for name, one in wanted.items():
            stream = self._streams.get(name)
            if stream is not None and stream.applied.fingerprint == one.fingerprint:
                stream.confirm(one)
                if not stream.stale():
                    continue
            self._start_stream(one, new)
        self._outcome.agreements = sorted(self._streams)

    def _start_stream(self, one: Applied, new: bool) -> None:
        try:
            stream = VendorStream(
                self._settings,
                one,
                self._view,
                master_key.read(self._settings),
                self._partitions(),
                self._clock,
            )
        except Stop as error:  # the others go on
            log.error("the agreement is not projected", agreement=one.name, reason=str(error))
            self._streams.pop(one.name, None)
            return
        if stream.stale():
            self._streams.pop(one.name, None)
            if not new:  # the district's records are not all there yet
                return
            ends = self._vendor_ends(stream)
            self._view.begin()
            self._view.con.execute("DELETE FROM outbox WHERE agreement = ?", [one.name])
            stream.write_again(ends)
            self._view.commit()
        self._streams[one.name] = stream
        stream.confirm(one)

    def _partitions(self) -> int:
        first = topics.topic(self._settings, OPT_OUT)
        return sum(place.topic == first for place in self._places)

    def _vendor_ends(self, stream: VendorStream) -> dict[str, int]:
        with Reader(self._settings, "could not ask for offsets: Kafka reports {}") as reader:
            ends = reader.ends(list(stream.topics.values()))
        return {f"{place.topic}/{place.partition}": end for place, end in ends.items()}

    def _clean(self, stream: VendorStream) -> None:
        """Delete what the vendor's topics had before they were written whole.

        Of each record that was not written again, a deletion is sent first, so that a reader who
        has the record hears of it.
        """
        old = {_place(name): end for name, end in stream.progress.ends.items() if end}
        live: dict[tuple[str, int, bytes], bool] = {}
        if old:
            with Reader(
                self._settings, "could not read a vendor's topic: Kafka reports {}"
            ) as reader:
                first = {place: low for place, (low, _) in reader.marks(old).items()}
                for batch in reader.batches(first):
                    for message in batch:
                        place = position(message)
                        key = (*place, message.key() or b"")
                        if (message.offset() or 0) < old[place]:
                            live[key] = message.value() is not None
                        else:
                            live.pop(key, None)
        kinds = {topic: kind for kind, topic in stream.topics.items()}
        self._view.begin()
        self._outbox.add(
            Outgoing(
                stream.name,
                topic,
                part,
                key.decode("utf-8", "replace"),
                None,
                event_type(kinds[topic], "deleted"),
                int(time.time()),
            )
            for (topic, part, key), was in live.items()
            if was
        )
        self._view.commit()
        self._send()
        self._delete_before(old)
        self._view.begin()
        stream.finished()
        self._view.commit()

    def _delete_before(self, ends: dict[Position, int]) -> None:
        """Delete the records of these partitions before these offsets."""
        if not ends:
            return
        admin = AdminClient(client_settings(self._settings))
        requested = [TopicPartition(*place, end) for place, end in ends.items()]
        for future in admin.delete_records(requested).values():
            try:
                future.result()
            except KafkaException as error:
                raise RetryLater(
                    f"could not delete old records of a vendor: {error.args[0].name()}"
                ) from None

    # ---- records -------------------------------------------------------------------------------

    def _decode_stored(self, kind: str, value: bytes) -> Record:
        return self._decoders[kind].decode(value)


def _require_opt_outs(settings: Settings) -> None:
    """Raise `Stop` if no source gives opt-outs: then nobody could be kept out of an agreement."""
    if OPT_OUT not in announced(settings):
        raise Stop(
            "no source gives opt-outs, so no data flows to vendors: put optOuts.csv into the "
            "extract (it may be empty), or post opt-outs over HTTP. If the district has none, run "
            "`bus optouts none`"
        )


def _place(name: str) -> Position:
    topic, _, part = name.rpartition("/")
    return Position(topic, int(part))
