"""Runs the projections of all agreements: `bus vendors run`.

    district's topics -> view -> one projection for each agreement -> outbox -> vendors' topics

One instance works at a time; others wait and take over when it ends (a Kafka consumer group on the
one partition of `PREFIX.vendors`). An instance shares one view and one reading of the district's
topics among all agreements.

The loop reads opt-outs before anything else, so that a long extract does not delay them. It commits
a batch to the file of the view, together with the messages that follow from it. Then it sends them
(`bus.vendors.outbox`). At a start, it first reads everything in the topics, and only then sends. So
today's opt-outs and agreements also apply to old messages.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import repeat

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from bus.delivery import Position
from bus.errors import BusError, RetryLater, Stop
from bus.ingest.ownership import announced
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.kafka.reader import Reader
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard.kinds import KINDS, Record
from bus.vendors import applied as applied_agreements
from bus.vendors import (
    disclosure_questions,
    disclosures,
    end_warnings,
    expiry,
    master_key,
    old_records,
    stream_progress,
    vendor_topics,
    written_editions,
)
from bus.vendors.applied import Applied
from bus.vendors.disclosures import decoded_entries
from bus.vendors.district_messages import decoded, key_of
from bus.vendors.district_reader import DistrictBatch, DistrictReader
from bus.vendors.district_view import DistrictView, Key, about_all, file_of, forget_agreement
from bus.vendors.opt_out_guard import opt_outs_vanish
from bus.vendors.outbox import Outbox, event_type
from bus.vendors.outbox_rows import Outgoing, OutgoingBatch, batches
from bus.vendors.pseudonyms import WrongMasterKey
from bus.vendors.record_rules import Change
from bus.vendors.scope import OPT_OUT
from bus.vendors.vendor_deletions import VendorDeletions
from bus.vendors.vendor_stream import VendorStream

log = structlog.get_logger(__name__)

LOAD_RECORDS = 10_000
"""Messages of one batch while the view is built."""
LIVE_RECORDS = 2_000
"""Messages of one batch of live changes; after each, opt-outs are looked for."""
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
STANDBY_SECONDS = 5.0
"""An instance that waits this long for another one says so."""
SETTLE_SECONDS = 60.0
"""Seconds between two attempts to complete an agreement's end."""


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
        self._settle_sending: Callable[[], None] = lambda: None
        self._streams: dict[str, VendorStream] = {}
        self._applied: dict[str, Applied] = {}
        self._day = today()
        self._unsettled: deque[str] = deque()
        self._settle_again = math.inf

    def close(self) -> None:
        """Close all clients and the file."""
        while self._closing:
            with suppress(Exception):
                self._closing.pop()()

    # ---- the loop ------------------------------------------------------------------------------

    def run(self, until_caught_up: bool) -> None:
        """Work until `stop` is called, or until everything that was there at the start is done."""
        try:
            topics.ensure(self._settings, [*self._kinds, topics.vendors(self._settings)])
            _require_opt_outs(self._settings)
            self._control = self._join()
            self._wait_for_turn()
            if self._stopping.is_set():
                return
            self._open()
            self._catch_up()
            while not self._stopping.is_set():
                self._turn()
                if until_caught_up and self._done():
                    break
            self._confirm()
        except KafkaException as error:
            raise RetryLater(f"Kafka reports {error.args[0].name()}") from None

    def _wait_for_turn(self) -> None:
        """Wait until this instance may work, or a stop is requested."""
        late = self._clock() + STANDBY_SECONDS
        while not self._owner and not self._stopping.is_set():
            self._control.poll(0.05)  # what it returns is read again by `_open`
            if self._clock() > late:
                log.info("another instance works, or was killed a moment ago; this one waits")
                late = math.inf

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
            self._settle_sending()  # the next instance sends only after this one

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
        self._view = DistrictView(
            file_of(settings), mark, self._decode_stored, self._decode_all_stored
        )
        self._closing.append(self._view.close)
        self._deletions = VendorDeletions(settings, self._view.con, self._clock)
        self._record = disclosures.DisclosureWriter(settings)
        self._closing.append(self._record.close)
        self._outbox = Outbox(settings, self._view, self._record)
        self._closing.append(self._outbox.close)
        self._settle_sending = self._outbox.settle
        first = topics.topic(settings, OPT_OUT)
        self._reader = DistrictReader(settings, list(self._kinds), first, self._view.places())
        self._closing.append(self._reader.close)
        self._applied = applied_agreements.read(settings)

    def _catch_up(self) -> None:
        """Take everything that is in the topics, and send only then.

        If a stop is requested before that, nothing is sent: an opt-out may not have been read yet.
        """
        self._deletions.repeat()
        self._start_streams()
        while self._reader.behind():
            if self._stopping.is_set():
                return
            self._deletions.repeat()
            batch = self._reader.take(LOAD_RECORDS, 0.5)
            self._heed()
            self._take(batch)
        self._begin_day()
        self._begin_sending()
        self.worked = True

    def _turn(self) -> None:
        """Take the next changes, and send what follows."""
        self._heed()
        self._tick()
        self._deletions.repeat()
        busy = any(stream.progress.unfinished for stream in self._streams.values())
        batch = self._reader.take(LIVE_RECORDS, 0.0 if busy else 0.05)
        self._take(batch)
        if batch.messages:
            self._begin_sending()
        if busy:
            self._go_on()
        if not batch.messages and not busy:
            self._confirm()

    def _done(self) -> bool:
        return (
            not self._reader.behind()
            and not self._unsettled
            and not any(stream.progress.unfinished for stream in self._streams.values())
        )

    # ---- changes -------------------------------------------------------------------------------

    def _take(self, batch: DistrictBatch) -> None:
        """Commit a batch of the district's messages, with all that follows from it."""
        if batch.messages:
            with self._batch():
                self._view.reach(batch.reached)
                self._change(self._decoded(self._not_compared(batch.messages)))
        self._reader.stored(batch.reached)

    def _not_compared(self, messages: Sequence[Message]) -> dict[str, list[Message]]:
        """Store new states of records with which nothing is compared, and return the others.

        During the build of the view there are no agreements, and only opt-outs are compared.
        """
        by_topic: dict[str, list[Message]] = defaultdict(list)
        for message in messages:
            by_topic[message.topic() or ""].append(message)
        if self._streams:
            return by_topic
        others = {}
        for topic, some_messages in by_topic.items():
            kind = self._kinds[topic]
            values = [message.value() for message in some_messages]
            columns = self._decoders[kind].valid_columns(values) if kind != OPT_OUT else None
            if columns is None:
                others[topic] = some_messages
                continue
            ids = map(key_of, some_messages)
            self._view.store_rows(
                zip(repeat(kind), ids, *about_all(kind, columns), values, strict=False)  # type: ignore[arg-type]
            )
        return others

    def _decoded(
        self, by_topic: Mapping[str, Sequence[Message]]
    ) -> dict[Key, tuple[Record | None, bytes | None]]:
        """Return the last state of each record, and its bytes; None: it was erased."""
        rows: dict[Key, tuple[Record | None, bytes | None]] = {}
        for topic, some_messages in by_topic.items():
            kind = self._kinds[topic]
            pairs, undecodable = decoded(self._decoders[kind], some_messages)
            for message, record in pairs:
                rows[kind, key_of(message)] = record, message.value()
            for message in undecodable:
                self._outcome.undecodable += 1
                log.warning(
                    "a message does not decode; vendors keep the older state",
                    place=f"{message.topic()}/{message.partition()}/{message.offset()}",
                )
        return rows

    def _change(self, rows: Mapping[Key, tuple[Record | None, bytes | None]]) -> None:
        """Store new states of records, and what follows for each agreement."""
        view = self._view
        # Without agreements, such as during the build of the view, only opt-outs are compared.
        compared = rows if self._streams else [key for key in rows if key[0] == OPT_OUT]
        before = view.get_all(compared)
        view.store((kind, id_, *row) for (kind, id_), row in rows.items())
        changes = [
            Change(*key, before.get(key), rows[key][0])
            for key in compared
            if before.get(key) != rows[key][0]
        ]
        hold = opt_outs_vanish(changes, lambda: view.count_active(OPT_OUT))
        if hold:
            log.warning("many opt-outs ended at once; who would enter agreements is held back")
        self._add(
            message
            for stream in self._streams.values()
            for message in stream.take(changes, self._day, self._outbox, hold=hold)
        )

    def _go_on(self) -> None:
        """Look at the next students of agreements whose topics are written whole."""
        with self._batch():
            for stream in self._streams.values():
                self._add(stream.go_on(self._day, self._outbox))
        self._begin_sending()
        finished = [
            stream
            for stream in self._streams.values()
            if stream.progress.reached is None and not stream.progress.written
        ]
        if finished:
            self._confirm()
            entries = decoded_entries(disclosures.entries(self._settings))
            students = self._record.students()
            for stream in finished:
                self._clean(stream, disclosure_questions.inside(entries, students, stream.name))

    def _tick(self) -> None:
        """Follow the calendar."""
        if self._today() != self._day:
            self._day = self._today()
            self._begin_day()
            self._begin_sending()
        if self._clock() >= self._settle_again:
            self._plan_settling()
            self._start_streams(new=True)
        if self._unsettled:
            self._settle(self._unsettled.popleft())

    def _begin_day(self) -> None:
        """Make the changes that depend on the date alone, also those of days on which nothing ran.

        Agreements and opt-outs begin and end, and students who left some days ago are deleted.
        """
        self._plan_settling()
        self._start_streams(new=True)
        self._warn_of_ends()
        with self._batch():
            active = [name for name, one in self._applied.items() if one.active(self._day)]
            stream_progress.forget_others(self._view.con, active)
            for stream in self._streams.values():
                self._add(stream.next_day(self._day, self._outbox))

    # ---- ends of agreements --------------------------------------------------------------------

    def _plan_settling(self) -> None:
        """Note which agreements' ends or deletions are due. Each turn does one of them."""
        self._settle_again = math.inf
        self._applied = applied_agreements.read(self._settings)
        self._unsettled = deque(expiry.unsettled(self._applied.values(), self._day))

    def _settle(self, name: str) -> None:
        """Complete the end of an agreement, whose stream has stopped already."""

        def say(note: str) -> None:
            log.warning("others must act after an agreement's end", agreement=name, note=note)

        now = datetime.now(UTC)
        self._confirm()
        try:
            one = expiry.settle(self._settings, name, self._day, now, self._record, say)
        except BusError as error:  # the other agreements must go on
            self._settle_again = self._clock() + SETTLE_SECONDS
            log.error("the agreement's end is not complete", agreement=name, reason=str(error))
            return
        self._applied[name] = one
        log.info("the agreement is over", agreement=name, state=one.state, deleted=one.deleted)

    def _warn_of_ends(self) -> None:
        """Log one warning for each agreement when 30, 7 and 1 days are left."""
        agreements = [one.agreement for one in self._applied.values()]
        for agreement in agreements:
            reached = end_warnings.threshold(agreement, self._day)
            if reached is None or not self._applied[agreement.name].active(self._day):
                continue
            if not end_warnings.warned(
                self._view.con, agreement.name, f"{agreement.until} {reached}"
            ):
                log.warning(
                    "an agreement ends soon",
                    agreement=agreement.name,
                    days=(agreement.until - self._day).days,
                    until=agreement.until.isoformat(),
                    renewal=end_warnings.renewal_of(agreement.name, agreements),
                )

    @contextmanager
    def _batch(self) -> Iterator[None]:
        """Commit what the block does to the file of the view, or nothing of it."""
        self._view.begin(durable=bool(self._streams))  # without streams, nothing is sent
        try:
            yield
            self._view.commit()
        except BaseException:
            self._view.rollback()
            for stream in self._streams.values():
                stream.dropped()
            raise

    def _add(self, messages: Iterable[tuple[int, OutgoingBatch]]) -> None:
        """Put messages into the outbox: what a record refers to comes before it."""
        ordered = sorted(messages, key=lambda one: one[0])
        self._outbox.add(message for _, message in ordered)

    def _begin_sending(self) -> None:
        """Let the outbox send what was committed, while the loop goes on."""
        self._outcome.sent += self._outbox.begin(
            {name: stream.applied.edition for name, stream in self._streams.items()}
        )

    def _confirm(self) -> None:
        """Wait until Kafka has stored all that is on the way to vendors."""
        self._outcome.sent += self._outbox.confirm()

    # ---- agreements ----------------------------------------------------------------------------

    def _heed(self) -> None:
        """Follow the changes that commands made to agreements, before anything else is sent.

        Raises `RetryLater` if another instance works now.
        """
        changed = False
        while (message := self._control.poll(0)) is not None:
            changed = changed or message.error() is None
        if not self._owner:
            raise RetryLater("another instance has taken over; this one waits")
        if changed:
            # A revocation may have been interrupted. If not, its command needs a moment to end it.
            self._settle_again = min(self._settle_again, self._clock() + SETTLE_SECONDS)
            self._applied = applied_agreements.read(self._settings)
            # Before all old messages are read, today's opt-outs are not all known.
            self._start_streams(new=self.worked)

    def _start_streams(self, *, new: bool = False) -> None:
        """Start the streams of agreements that hold today, and end the others.

        new: also start to write the topics of agreements that are new or have changed.
        """
        wanted = {name: one for name, one in self._applied.items() if one.active(self._day)}
        for name in self._streams.keys() - wanted.keys():
            self._forget(name)
            log.info("the agreement does not hold any more", agreement=name)
        for name, one in wanted.items():
            stream = self._streams.get(name)
            if stream is not None and stream.applied.edition == one.edition:
                stream.confirm(one)
                if not stream.stale():
                    continue
            if new or stream_progress.shows(self._view.con, name) == one.edition:
                self._start_stream(one, new)
            else:  # its topics are written whole when all of the district's records are there
                self._streams.pop(name, None)
        self._outcome.agreements = sorted(self._streams)

    def _start_stream(self, one: Applied, new: bool) -> None:
        try:
            try:
                stream = self._stream(one)
            except WrongMasterKey:  # it may have been rotated since `one` was read
                one = applied_agreements.read(self._settings).get(one.name, one)
                stream = self._stream(one)
        except Stop as error:  # the others go on
            log.error("the agreement is not projected", agreement=one.name, reason=str(error))
            # It misses changes from now on. So its topics are written whole when it is back.
            self._forget(one.name)
            return
        if stream.stale():
            self._streams.pop(one.name, None)
            if not new:  # the district's records are not all there yet
                return
            # Include the topics of kinds that the agreement no longer shares.
            topics.ensure(self._settings, list(stream.topics.values()))
            self._confirm()
            topics_ever = vendor_topics.possible_topics(self._settings, one.ids_name)
            ends = old_records.ends(self._settings, topics_ever)
            with self._batch():
                self._outbox.forget(one.name)
                stream.write_again({f"{at.topic}/{at.partition}": end for at, end in ends.items()})
        self._streams[one.name] = stream
        stream.confirm(one)

    def _stream(self, one: Applied) -> VendorStream:
        masters, parts = master_key.read(self._settings), self._reader.partitions
        return VendorStream(self._settings, one, self._view, masters, parts, self._clock)

    def _forget(self, name: str) -> None:
        """Drop what the file has of an agreement that is not projected any more."""
        self._streams.pop(name, None)
        self._confirm()
        with self._batch():
            self._outbox.forget(name)
            forget_agreement(self._view.con, name)

    def _clean(self, stream: VendorStream, known: Collection[str]) -> None:
        """Delete what the vendor's topics had before they were written whole.

        First, a deletion is sent for each record that was not written again, so that a reader who
        has the record deletes it. Students about whom no record is left are recorded as left.

        known: the students who are in the agreement, as the record of disclosures says.
        """
        old = {_place(name): end for name, end in stream.progress.ends.items() if end}
        # A topic may have been deleted meanwhile, with an agreement that this one renews.
        there = old_records.ends(self._settings, {place.topic for place in old})
        old = {place: end for place, end in old.items() if place in there}
        with self._batch():
            self._outbox.add(
                batches(
                    Outgoing(
                        stream.name,
                        *place,
                        key.decode("utf-8", "replace"),
                        None,
                        event_type(place.topic.rpartition(".")[2], "deleted"),
                        stream.now(),
                    )
                    for place, key in old_records.not_written_again(self._settings, old)
                )
            )
            self._outbox.note(stream.name, stream.gone(known), entered=False)
        self._begin_sending()
        self._confirm()
        old_records.delete(self._settings, old)
        written_editions.note(self._settings, stream.name, stream.applied.edition)
        with self._batch():
            self._deletions.note(old)
            stream.finished()

    # ---- records -------------------------------------------------------------------------------

    def _decode_stored(self, kind: str, value: bytes) -> Record:
        return self._decoders[kind].decode(value)

    def _decode_all_stored(self, kind: str, values: Sequence[bytes]) -> list[Record | None]:
        # They were valid when they were stored. Those in a later version of the standard are not
        # written with our schema, so they are decoded one by one.
        records, failures = self._decoders[kind].decode_all(values, valid=True)
        found: list[Record | None] = list(records)
        for index, _ in failures:  # in order
            found.insert(index, None)
        return found


def _require_opt_outs(settings: Settings) -> None:
    """Raise `Stop` if no source gives opt-outs: then nobody could be kept out of an agreement."""
    if OPT_OUT not in announced(settings):
        raise Stop(
            "no source gives opt-outs, so vendors receive no data: put optOuts.csv into the "
            "extract (it may be empty), or post opt-outs over HTTP. If the district has none, run "
            "`bus optouts none`"
        )


def _place(name: str) -> Position:
    topic, _, part = name.rpartition("/")
    return Position(topic, int(part))
