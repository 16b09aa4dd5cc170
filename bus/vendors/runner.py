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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from bus.errors import RetryLater, Stop
from bus.ingest.ownership import announced
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.kafka.reader import Reader
from bus.settings import Settings
from bus.vendors import applied as applied_agreements
from bus.vendors.agreement_ends import AgreementEnds
from bus.vendors.agreement_streams import AgreementStreams
from bus.vendors.applied import Applied
from bus.vendors.disclosures import DisclosureWriter
from bus.vendors.district_changes import DistrictChanges
from bus.vendors.district_reader import DistrictBatch, DistrictReader
from bus.vendors.district_view import DistrictView, file_of
from bus.vendors.outbox import Outbox
from bus.vendors.scope import OPT_OUT

log = structlog.get_logger(__name__)

LOAD_RECORDS = 10_000
"""Messages of one batch while the view is built."""
LIVE_RECORDS = 2_000
"""Messages of one batch of live changes; after each, opt-outs are looked for."""
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
STANDBY_SECONDS = 5.0
"""An instance that waits this long for another one, or for messages at its start, says so."""


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
        self._changes = DistrictChanges(settings)
        self._closing: list[Callable[[], object]] = []
        self._owner = False
        self._settle_sending: Callable[[], None] = lambda: None
        self._applied: dict[str, Applied] = {}
        self._day = today()

    def close(self) -> None:
        """Close all clients and the file."""
        while self._closing:
            with suppress(Exception):
                self._closing.pop()()

    # ---- the loop ------------------------------------------------------------------------------

    def run(self, until_caught_up: bool) -> None:
        """Work until `stop` is called, or until everything that was there at the start is done."""
        try:
            topics.ensure(self._settings, [*self._changes.kinds, topics.vendors(self._settings)])
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
            self._streams.confirm()
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
            file_of(settings),
            mark,
            self._changes.decode_stored,
            self._changes.decode_all_stored,
        )
        self._closing.append(self._view.close)
        record = DisclosureWriter(settings)
        self._closing.append(record.close)
        outbox = Outbox(settings, self._view, record)
        self._closing.append(outbox.close)
        self._settle_sending = outbox.settle
        first = topics.topic(settings, OPT_OUT)
        names = list(self._changes.kinds)
        self._reader = DistrictReader(settings, names, first, self._view.places())
        self._closing.append(self._reader.close)
        self._streams = AgreementStreams(
            settings, self._view, outbox, record, self._reader.partitions, self._clock
        )
        self._closing.append(self._count)
        self._ends = AgreementEnds(settings, self._view.con, record, self._clock)
        self._applied = applied_agreements.read(settings)

    def _count(self) -> None:
        """Add this attempt's counts to the outcome."""
        self._outcome.sent += self._streams.sent
        self._outcome.undecodable += self._changes.undecodable

    def _catch_up(self) -> None:
        """Take everything that is in the topics, and send only then.

        If a stop is requested before that, nothing is sent: an opt-out may not have been read yet.
        """
        self._streams.repeat_deletions()
        self._follow(new=False)
        late = self._clock() + STANDBY_SECONDS
        while self._reader.behind():
            if self._stopping.is_set():
                return
            self._streams.repeat_deletions()
            batch = self._reader.take(LOAD_RECORDS, 0.5)
            self._heed()
            self._take(batch)
            if batch.messages:
                late = self._clock() + STANDBY_SECONDS
            elif self._clock() > late:
                log.info(
                    "nothing is sent before all opt-outs are read; this waits, perhaps for an open "
                    "transaction of a process that was killed, which Kafka ends after some minutes"
                )
                late = math.inf
        self._begin_day()
        self._streams.begin_sending()
        self.worked = True

    def _turn(self) -> None:
        """Take the next changes, and send what follows."""
        self._heed()
        self._tick()
        self._streams.repeat_deletions()
        busy = self._streams.unfinished
        batch = self._reader.take(LIVE_RECORDS, 0.0 if busy else 0.05)
        self._take(batch)
        if batch.messages:
            self._streams.begin_sending()
        if busy:
            self._streams.go_on(self._day)
        if not batch.messages and not busy:
            self._streams.confirm()

    def _done(self) -> bool:
        return not (self._reader.behind() or self._ends.waiting or self._streams.unfinished)

    def _take(self, batch: DistrictBatch) -> None:
        """Commit a batch of the district's messages, with all that follows from it."""
        if batch.messages:
            with self._streams.batch():
                self._view.reach(batch.reached)
                changes = self._changes.take(
                    self._view, batch.messages, only_opt_outs=not self._streams.names
                )
                self._streams.take(changes, self._day)
        self._reader.stored(batch.reached)

    # ---- agreements and the calendar -----------------------------------------------------------

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
            self._ends.look_again()
            self._applied = applied_agreements.read(self._settings)
            # Before all old messages are read, today's opt-outs are not all known.
            self._follow(new=self.worked)

    def _follow(self, *, new: bool) -> None:
        self._streams.follow(self._applied, self._day, new=new)
        self._outcome.agreements = self._streams.names

    def _tick(self) -> None:
        """Follow the calendar."""
        if self._today() != self._day:
            self._day = self._today()
            self._begin_day()
            self._streams.begin_sending()
        if self._ends.due:
            self._plan_ends()
        if self._ends.waiting:
            self._streams.confirm()
            self._ends.settle_next(self._day)

    def _begin_day(self) -> None:
        """Make the changes that depend on the date alone, also those of days on which nothing ran.

        Agreements and opt-outs begin and end, and students who left some days ago are deleted.
        """
        self._plan_ends()
        self._ends.warn(self._applied.values(), self._day)
        active = [name for name, one in self._applied.items() if one.active(self._day)]
        self._streams.next_day(active, self._day)

    def _plan_ends(self) -> None:
        """Read the agreements again, and note which ends are due."""
        self._applied = applied_agreements.read(self._settings)
        self._ends.plan(self._applied.values(), self._day)
        self._follow(new=True)


def _require_opt_outs(settings: Settings) -> None:
    """Raise `Stop` if no source gives opt-outs: then nobody could be kept out of an agreement."""
    if OPT_OUT not in announced(settings):
        raise Stop(
            "no source gives opt-outs, so vendors receive no data: put optOuts.csv into the "
            "extract (it may be empty), or post opt-outs over HTTP. If the district has none, run "
            "`bus optouts none`"
        )
