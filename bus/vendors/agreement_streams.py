"""The streams of all agreements that hold today, with the view and the outbox that they share.

A batch is one transaction of the view. It holds the district's changes, and the messages that
follow from them for each agreement. What was committed is sent by `begin_sending`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date

import structlog

from bus.delivery import Position
from bus.errors import BusError, Stop
from bus.kafka import topics
from bus.settings import Settings
from bus.vendors import applied as applied_agreements
from bus.vendors import (
    disclosure_questions,
    disclosures,
    master_key,
    old_records,
    revocation,
    stream_progress,
    vendor_topics,
    written_editions,
)
from bus.vendors.applied import Applied
from bus.vendors.disclosures import DisclosureWriter, decoded_entries
from bus.vendors.district_view import DistrictView, forget_agreement
from bus.vendors.opt_out_guard import opt_outs_vanish
from bus.vendors.outbox import Outbox, event_type
from bus.vendors.outbox_rows import Outgoing, OutgoingBatch, batches
from bus.vendors.pseudonyms import WrongMasterKey
from bus.vendors.record_rules import Change
from bus.vendors.scope import OPT_OUT
from bus.vendors.shard import WHOLE, Shard
from bus.vendors.vendor_deletions import VendorDeletions
from bus.vendors.vendor_stream import VendorStream

log = structlog.get_logger(__name__)


class AgreementStreams:
    """The streams. Use them from one thread only.

    view:       the district.
    outbox:     what must be sent to vendors.
    record:     the record of disclosures.
    partitions: how many partitions each topic of the district has.
    clock:      a monotonic clock in seconds.
    shard:      the part of the work that these streams do.

    The attribute `sent` has the number of messages that Kafka has stored.
    """

    def __init__(
        self,
        settings: Settings,
        view: DistrictView,
        outbox: Outbox,
        record: DisclosureWriter,
        partitions: int,
        clock: Callable[[], float],
        shard: Shard = WHOLE,
    ) -> None:
        self.sent = 0
        self._shard = shard
        self._settings = settings
        self._view = view
        self._outbox = outbox
        self._record = record
        self._partitions = partitions
        self._clock = clock
        self._deletions = VendorDeletions(settings, view.con, clock)
        self._streams: dict[str, VendorStream] = {}

    @property
    def names(self) -> list[str]:
        """The names of the agreements that are projected now, in order."""
        return sorted(self._streams)

    @property
    def unfinished(self) -> bool:
        """Whether topics of vendors must still be written whole, or old records be deleted."""
        return any(stream.progress.unfinished for stream in self._streams.values())

    @property
    def busy(self) -> bool:
        """Whether `go_on` has something to do now."""
        return self.unfinished

    # ---- batches and sending -------------------------------------------------------------------

    @contextmanager
    def batch(self) -> Iterator[None]:
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

    def begin_sending(self) -> None:
        """Let the outbox send what was committed, while the caller goes on."""
        self.sent += self._outbox.begin(self._active())

    def _active(self) -> dict[str, str]:
        """Return the agreements whose messages may be sent, with their editions."""
        return {name: stream.applied.edition for name, stream in self._streams.items()}

    def confirm(self) -> None:
        """Wait until Kafka has stored all that is on the way to vendors."""
        self.sent += self._outbox.confirm()

    def _add(self, messages: Iterable[tuple[int, OutgoingBatch]]) -> None:
        """Put messages into the outbox: what a record refers to comes before it."""
        ordered = sorted(messages, key=lambda one: one[0])
        self._outbox.add(message for _, message in ordered)

    # ---- what follows for vendors --------------------------------------------------------------

    def take(self, changes: Collection[Change], day: date) -> None:
        """Add what follows from changes for each agreement, within a batch."""
        hold = opt_outs_vanish(changes, lambda: self._view.count_active(OPT_OUT))
        if hold:
            log.warning("many opt-outs ended at once; who would enter agreements is held back")
        self._add(
            message
            for stream in self._streams.values()
            for message in stream.take(changes, day, self._outbox, hold=hold)
        )

    def next_day(self, active: Collection[str], day: date) -> None:
        """Add what follows from the date alone, in a batch of its own.

        active: the agreements that hold on this day. What the file has of others is removed.
        """
        with self.batch():
            stream_progress.forget_others(self._view.con, active)
            for stream in self._streams.values():
                self._add(stream.next_day(day, self._outbox))

    def go_on(self, day: date) -> None:
        """Go on with agreements whose topics are written whole, in a batch of its own; send it."""
        with self.batch():
            for stream in self._streams.values():
                self._add(stream.go_on(day, self._outbox))
        self.begin_sending()
        self._finish()

    def _finish(self) -> None:
        """Delete the old records of agreements whose topics are written."""
        finished = [
            stream
            for stream in self._streams.values()
            if stream.progress.reached is None and not stream.progress.written
        ]
        if finished:
            self.confirm()
            self._clean_all(finished)

    def _clean_all(self, streams: Iterable[VendorStream]) -> None:
        entries = decoded_entries(disclosures.entries(self._settings))
        students = self._record.students()
        for stream in streams:
            self._clean(stream, disclosure_questions.inside(entries, students, stream.name))

    # ---- which agreements are projected --------------------------------------------------------

    def follow(self, applied: Mapping[str, Applied], day: date, *, new: bool) -> None:
        """Start the streams of agreements that hold on this day, and end the others.

        new: also start to write the topics of agreements that are new or have changed. That is
             possible only when all of the district's records are in the view.
        """
        wanted = {name: one for name, one in applied.items() if one.active(day)}
        self._inherit(applied, wanted)
        for name in self._streams.keys() - wanted.keys():
            self._forget(name)
            log.info("the agreement does not hold any more", agreement=name)
        for name, one in wanted.items():
            stream = self._streams.get(name)
            if stream is not None and stream.applied.edition == one.edition:
                stream.confirm(one)
                if not self._stale(stream):
                    continue
            if new or stream_progress.shows(self._view.con, name) == one.edition:
                self._start(one, new)
            else:
                self._streams.pop(name, None)

    def _inherit(self, applied: Mapping[str, Applied], wanted: Mapping[str, Applied]) -> None:
        """Let renewals that begin know the students of the agreements that they renew."""
        for name, one in wanted.items():
            if stream_progress.read(self._view.con, name) is not None:
                continue
            for other in applied.values():
                if other.ids_name == one.ids_name and other.name not in wanted:
                    with self.batch():
                        stream_progress.hand_over(self._view.con, other.name, name)

    def _start(self, one: Applied, new: bool) -> None:
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
        if self._stale(stream):
            self._streams.pop(one.name, None)
            if not (self._write_again(stream) if new else self._leave_out(stream)):
                return
        elif stream.applied.narrowed and stream.progress.written:
            self._let_read(stream)  # it may have been killed before it did so
        self._streams[one.name] = stream
        stream.confirm(one)

    def _stale(self, stream: VendorStream) -> bool:
        """Return whether the topics of an agreement must be written whole."""
        return stream.stale()

    def _leave_out(self, stream: VendorStream) -> bool:
        """Handle an agreement whose topics can not be written whole yet.

        Returns whether it is projected all the same.
        """
        return False

    def _write_again(self, stream: VendorStream) -> bool:
        """Begin to write the topics of an agreement whole. Returns true."""
        self._make_topics(stream)
        self.confirm()
        ends = self._ends(stream)
        with self.batch():
            # Whom a decision has excluded must be deleted, although all is written again.
            self._outbox.forget(stream.name, deletions=False)
            stream.write_again(ends)
        return True

    def _make_topics(self, stream: VendorStream) -> None:
        """Create the topics of an agreement that are missing."""
        topics.ensure(self._settings, list(stream.topics))

    def _ends(self, stream: VendorStream) -> dict[str, int]:
        """Return the ends of a vendor's partitions, by "topic/partition".

        They include the topics of kinds that the agreement no longer shares.
        """
        topics_ever = vendor_topics.possible_topics(self._settings, stream.applied.ids_name)
        ends = old_records.ends(self._settings, topics_ever)
        return {f"{at.topic}/{at.partition}": end for at, end in ends.items()}

    def _stream(self, one: Applied) -> VendorStream:
        masters = master_key.read(self._settings)
        return VendorStream(
            self._settings,
            one,
            self._view,
            masters,
            self._partitions,
            self._clock,
            self._shard,
        )

    def _forget(self, name: str) -> None:
        """Drop what the file has of an agreement that is not projected any more."""
        self._streams.pop(name, None)
        self.confirm()
        with self.batch():
            self._outbox.forget(name)
            forget_agreement(self._view.con, name)

    # ---- old records ---------------------------------------------------------------------------

    def repeat_deletions(self) -> None:
        """Delete again what a crash of Kafka has made readable again."""
        self._deletions.repeat()

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
        with self.batch():
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
        self.begin_sending()
        self.confirm()
        old_records.delete(self._settings, old)
        written_editions.note(self._settings, stream.name, stream.applied.edition)
        if stream.applied.narrowed:
            self._let_read(stream)
        with self.batch():
            self._deletions.note(old)
            stream.finished()

    def _let_read(self, stream: VendorStream) -> None:
        """Open the vendor's access, which was closed until its topics were written."""
        if not self._shard.common:
            return
        try:
            revocation.correct_access(self._settings, stream.applied.ids_name)
        except BusError as error:  # the other agreements must go on
            log.error(
                "the vendor cannot read yet, although its topics are written: run `bus vendors "
                "apply`",
                agreement=stream.name,
                reason=str(error),
            )


def _place(name: str) -> Position:
    topic, _, part = name.rpartition("/")
    return Position(topic, int(part))
