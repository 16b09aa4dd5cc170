"""The work of one shard: from the district's topics to the vendors' topics.

    district's topics -> view -> one projection for each agreement -> outbox -> vendors' topics

The loop reads opt-outs before anything else, so that a long extract does not delay them. It commits
a batch to the file of the view, together with the messages that follow from it. Then it sends them
(`bus.vendors.outbox`). At a start, it first reads everything in the topics, and only then sends. So
today's opt-outs and agreements also apply to old messages.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

import structlog
from confluent_kafka import KafkaException

from bus.errors import RetryLater, Stop
from bus.ingest.ownership import announced
from bus.kafka import topics
from bus.kafka.reader import Reader
from bus.settings import Settings
from bus.vendors import applied as applied_agreements
from bus.vendors import shard_number
from bus.vendors.agreement_ends import AgreementEnds
from bus.vendors.agreement_streams import AgreementStreams
from bus.vendors.applied import Applied
from bus.vendors.disclosures import DisclosureWriter
from bus.vendors.district_changes import DistrictChanges
from bus.vendors.district_reader import DistrictBatch, DistrictReader
from bus.vendors.district_view import CACHE_KIB, DistrictView
from bus.vendors.instance_turn import STANDBY_SECONDS, OnlyInstance, Turn
from bus.vendors.outbox import Outbox
from bus.vendors.projection_run import Run
from bus.vendors.record_rules import Change
from bus.vendors.scope import OPT_OUT
from bus.vendors.shard import Shard

log = structlog.get_logger(__name__)

LOAD_RECORDS = 10_000
"""Messages of one batch while the view is built."""
LIVE_RECORDS = 2_000
"""Messages of one batch of live changes; after each, opt-outs are looked for."""
PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
"""SQLite's results while another process uses the file, such as `bus vendors delete`."""


class Work:
    """One attempt: its clients, its view and its streams."""

    streams_type: ClassVar[type[AgreementStreams]] = AgreementStreams

    def __init__(self, run: Run, shard: Shard) -> None:
        self.worked = False
        self.done = False
        self._run = run
        self._settings = run.settings
        self._shard = shard
        self._stopping = run.stopping
        self._clock = run.clock
        self._changes = DistrictChanges(run.settings, shard)
        self._closing: list[Callable[[], object]] = []
        self._applied: dict[str, Applied] = {}
        self._day = run.today()

    def close(self) -> None:
        """Close all clients and the file."""
        while self._closing:
            with suppress(Exception):
                self._closing.pop()()

    # ---- the loop ------------------------------------------------------------------------------

    def work(self) -> None:
        """Work until a stop is requested, or until everything that was there is with the vendors.

        Raises `RetryLater` if the same must be tried again, and `Stop` if a person must act.
        """
        try:
            topics.ensure(self._settings, [*self._changes.kinds, topics.vendors(self._settings)])
            _require_opt_outs(self._settings)
            self._turn = self._take_turn()
            self._closing.append(self._turn.close)
            self._turn.wait(self._stopping, self._clock)
            if self._stopping.is_set():
                return
            self._open()
            self._catch_up()
            while not self._stopping.is_set():
                self._go_on()
                if self._run.until_caught_up and self._finished():
                    break
            self._streams.confirm()
        except KafkaException as error:
            raise RetryLater(f"Kafka reports {error.args[0].name()}") from None
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in PASSING:
                raise
            raise RetryLater(f"the file of the view cannot be used now ({error})") from None

    def _take_turn(self) -> Turn:
        return OnlyInstance(self._settings)

    def _finished(self) -> bool:
        """Return whether the work may end now."""
        return self._all_done()

    def _open(self) -> None:
        """Open the view, the record of disclosures and the readers."""
        settings = self._settings
        with Reader(settings, "could not ask for the cluster: Kafka reports {}") as reader:
            mark = reader.cluster()
        self._view = DistrictView(
            self._shard.file(settings),
            f"{mark}{shard_number.mark(settings)}",
            self._changes.decode_stored,
            self._changes.decode_all_stored,
            cache_kib=CACHE_KIB // max(1, self._shard.of),
        )
        self._closing.append(self._view.close)
        self._record = DisclosureWriter(settings)
        self._closing.append(self._record.close)
        self._reader = self._read()
        self._closing.append(self._reader.close)
        outbox = self._outbox()
        self._closing.append(outbox.close)
        self._turn.settle = outbox.settle
        self._streams = self.streams_type(
            settings,
            self._view,
            outbox,
            self._record,
            self._reader.partitions,
            self._clock,
            self._shard,
        )
        self._closing.append(self._count)
        self._join()
        self._ends = AgreementEnds(settings, self._view.con, self._record, self._clock)
        self._read_agreements()

    def _read(self) -> DistrictReader:
        first = topics.topic(self._settings, OPT_OUT)
        places = self._view.places()
        return DistrictReader(self._settings, self._changes.kinds, first, places, self._shard)

    def _outbox(self) -> Outbox:
        return Outbox(self._settings, self._view, self._record)

    def _join(self) -> None:
        """Join the other shards, if there are some. The streams are there already."""

    def _count(self) -> None:
        """Add this attempt's counts to the outcome."""
        self._run.outcome.sent += self._streams.sent
        self._run.outcome.undecodable += self._changes.undecodable

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

    def _go_on(self) -> None:
        """Take the next changes, and send what follows."""
        self._heed()
        self._tick()
        self._streams.repeat_deletions()
        busy = self._streams.busy
        batch = self._reader.take(LIVE_RECORDS, 0.0 if busy else 0.05)
        self._take(batch)
        if batch.messages:
            self._streams.begin_sending()
        if busy:
            self._streams.go_on(self._day)
        if not batch.messages and not busy:
            self._streams.confirm()

    def _all_done(self) -> bool:
        return not (self._reader.behind() or self._ends.waiting or self._streams.unfinished)

    def _take(self, batch: DistrictBatch) -> None:
        """Commit a batch of the district's messages, with all that follows from it."""
        if batch.messages:
            with self._streams.batch():
                self._view.reach(batch.reached)
                self._streams.take(self._changed(batch), self._day)
        self._reader.stored(batch.reached)

    def _changed(self, batch: DistrictBatch) -> list[Change]:
        """Store the new states of records, within the transaction; return what changed."""
        return self._changes.take(self._view, batch.messages, only_opt_outs=not self._streams.names)

    # ---- agreements and the calendar -----------------------------------------------------------

    def _heed(self) -> None:
        """Follow the changes that commands made to agreements, before anything else is sent.

        Raises `RetryLater` if another instance works now.
        """
        if self._turn.changed():
            if self._shard.common:
                self._ends.look_again()
            self._read_agreements()
            # Before all old messages are read, today's opt-outs are not all known.
            self._follow(new=self.worked)

    def _read_agreements(self) -> None:
        self._applied = applied_agreements.read(self._settings)

    def _follow(self, *, new: bool) -> None:
        self._streams.follow(self._applied, self._day, new=new)
        self._run.outcome.agreements = self._streams.names

    def _tick(self) -> None:
        """Follow the calendar."""
        if self._run.today() != self._day:
            self._day = self._run.today()
            self._begin_day()
            self._streams.begin_sending()
        if self._ends.due:
            self._plan_ends()
        if self._may_end() and self._ends.waiting:
            self._streams.confirm()
            self._ends.settle_next(self._day)

    def _may_end(self) -> bool:
        """Return whether the ends of agreements may be completed now."""
        return True

    def _begin_day(self) -> None:
        """Make the changes that depend on the date alone, also those of days on which nothing ran.

        Agreements and opt-outs begin and end, and students who left some days ago are deleted.
        """
        self._plan_ends()
        if self._shard.common:
            self._ends.warn(self._applied.values(), self._day)
        active = [name for name, one in self._applied.items() if one.active(self._day)]
        self._streams.next_day(active, self._day)

    def _plan_ends(self) -> None:
        """Read the agreements again, and note which ends are due."""
        self._read_agreements()
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
