"""Runs a replay: reads, filters, delivers, and records its progress.

    history → filter → deliver → replay log

A replay commits no group offsets, so the live consumer's offsets do not move. It is a separate
process, and the live consumer keeps running. If both deliver to one place with a shared lock, the
live consumer waits while the replay writes a batch. While Kafka is down, it waits; then it
continues where it stopped. After a kill, `resume` continues after the last batch in the replay log.
The next batch may have been delivered already and is delivered once more. Every delivery tolerates
that, as it does after a crash of the live consumer.

Records do not wait for their references here, because history is read in an order in which the
referenced records come first (`bus.replay.history`).

Equivalent records (`bus.consume.equivalents`) are decided as the live consumer decides them, from a
separate index in a temporary folder. A replay of current states decides again whenever it has read
newer events. With a shared lock, it therefore never delivers an outdated decision. Without a lock
(`bus.delivery.Unlocked`), it can deliver one, and delivers the correction right after it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bus.consume.buffer import Buffer
from bus.consume.deadletters import DeadLetters
from bus.consume.deliverer import Deliverer
from bus.consume.dependency_order import KindRecords
from bus.consume.equivalents import Equivalents
from bus.consume.feed import Feed
from bus.consume.retries import Retries, in_steps
from bus.delivery import (
    Batch,
    Delivery,
    Overtaken,
    Part,
    Position,
    Redelivery,
    Refusal,
    as_redelivery,
    is_unlocked,
)
from bus.errors import BusError, RetryLater, Stop
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.kafka.offsets import Offsets
from bus.kafka.reader import position
from bus.observe.metrics import ConsumerMetrics
from bus.product import Product
from bus.registry.subjects import schema_lookup
from bus.replay import history
from bus.replay.latest import LatestStates
from bus.replay.record_filter import FilteredRecords, RecordFilter
from bus.replay.replay_log import ReplayEntry, ReplayLog, ReplayRequest, ReplayState
from bus.replay.selection import Selection
from bus.replay.window import Window
from bus.settings import Settings

NOTE_SECONDS = 5.0
"""The progress is recorded at least this often, also when few records match."""
CHECK_SECONDS = 1.0
"""How often the replay checks whether it was asked to pause or to end."""
Progress = Callable[[ReplayEntry], None]


class ReplayEngine:
    """Runs a replay in one process, from a start or resume to the next pause or the end.

    Call `run` on one thread. Any thread may call `stop`.

    delivery:     an open delivery to where the live consumer delivers, or to another place
                  (`about.into`).
    about:        what was requested.
    clock, event: the clock, and the event that waits; tests replace them.
    """

    def __init__(
        self,
        settings: Settings,
        product: Product,
        delivery: Delivery,
        about: ReplayRequest,
        selection: Selection,
        *,
        state: ReplayState | None = None,
        progress: Progress = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        event: Callable[[], threading.Event] = threading.Event,
    ) -> None:
        self._settings = settings
        self._product = product
        self._delivery = delivery
        self._about = about
        self._selection = selection
        self._state = state or ReplayState()
        self._progress = progress
        self._clock = clock
        self._stopping = event()
        self._metrics = ConsumerMetrics()
        self._retries = Retries(settings.consumer, product.name, self._metrics, self._stay)
        self._kinds = {topics.topic(settings, kind): kind for kind in selection.kinds}
        self._writer_schema = schema_lookup(settings)
        self._checked_at = clock()
        self._latest: LatestStates | None = None
        self._in_hand: dict[str, KindRecords] = {}
        self._decided_up_to: Mapping[Position, int] = {}

    def stop(self) -> None:
        """Ask the replay to pause after the current batch; a person can resume it."""
        self._stopping.set()

    def run(self) -> ReplayState:
        """Replay the rest of the window. Return how it ended: done, paused or cancelled.

        Raises `Stop` and `RetryLater` as deliveries and Kafka do. The log then says "failed", and a
        person can continue the replay with `bus replay resume`.
        """
        self._log = ReplayLog(self._settings, self._about.id)
        if not self._state.at:
            self._log.begin(self._about)
        self._note(replace(self._state, status="running", error=""))
        try:
            with tempfile.TemporaryDirectory(prefix="schoolbus-") as folder:
                self._replay(self._about.window.after(self._state.reached), Path(folder))
        except _StopRequested as request:
            try:
                self._note(replace(self._state, status=request.status))
            except _StopRequested:
                raise RetryLater(
                    f"the replay is {request.status}, but Kafka does not answer, so `bus replay "
                    "list` still shows the replay as running; run `bus replay resume "
                    f"{self._about.id}` when Kafka is up"
                ) from None
        except BusError as error:
            with suppress(_StopRequested):  # Kafka is down, and somebody asked to pause or to end
                self._note(replace(self._state, status="failed", error=str(error)))
            raise
        else:
            # Transaction markers can lie between the last message and the end of the window.
            self._note(replace(self._state, status="done", done=self._about.stop))
        finally:
            if self._latest:
                self._latest.close()
            self._log.close()
        return self._state

    def _replay(self, window: Window, folder: Path) -> None:
        if not self._about.into:
            topic = topics.deadletters(self._settings, self._product.name)
            self._retries.persist(lambda: topics.ensure(self._settings, [topic]))
        if needs_latest(self._product, self._about):
            unlocked = is_unlocked(self._delivery)
            look = partial(LatestStates, self._settings, self._about.window, keep=unlocked)
            self._latest = self._retries.persist(look)
        if self._about.into:  # a separate place keeps its own offsets
            window = window.after(self._retries.persist(partial(self._resume, window)))
        equivalents = Equivalents(
            self._settings,
            self._product,
            self._writer_schema,
            folder,
            latest_only=self._latest is not None,
        )
        equivalents.assigned(window.start)
        try:
            self._run_through(window, equivalents)
        finally:
            equivalents.close()

    def _run_through(self, window: Window, equivalents: Equivalents) -> None:
        self._deliverer = Deliverer(
            self._settings,
            self._product,
            self._hand_over,
            self._retries,
            None if self._about.into else DeadLetters(self._settings, self._product.name),
            equivalents,
            self._metrics,
            origin=f"in the replay {self._about.id}: ",
            clock=self._clock,
        )
        record_filter = RecordFilter(self._settings, self._about, self._selection, self._latest)
        most = self._product.batch_records
        if self._about.rate:
            most = max(1, min(most, int(self._about.rate)))
        began, batch = self._clock(), FilteredRecords()
        first = began
        already = sum(self._state.delivered.values())
        persist = self._retries.persist  # waits while Kafka is down
        for messages in history.read(self._settings, window, order_of(self._about), persist):
            for at in range(0, len(messages), most):
                self._retries.persist(partial(record_filter.take, messages[at : at + most], batch))
                if len(batch) >= most or self._clock() - began > NOTE_SECONDS:
                    batch, began = self._deliver(batch, began), self._clock()
                    self._keep_pace(first, already)
                self._check_request()
            if not messages:
                self._check_request()
        if batch.ends:
            self._deliver(batch, began)
        self._retries.persist(self._delivery.settle)

    def _resume(self, window: Window) -> Mapping[Position, int]:
        inquiry = Offsets(group_settings(self._settings, "reader"), self._stopping.wait)
        try:
            return self._delivery.resume(inquiry.cluster(), list(window.start))
        finally:
            inquiry.close()

    # ---- delivering ----------------------------------------------------------------------------

    def _deliver(self, batch: FilteredRecords, began: float) -> FilteredRecords:
        """Deliver a batch and record the progress. Return an empty batch for the next records."""
        self._in_hand = self._ordered(batch.records)
        self._decided_up_to = self._read_to(batch.ends)
        outcome = self._deliverer.deliver(
            self._in_hand, batch.ends, failures=batch.undecodable, read_to=self._decided_up_to
        )
        seconds, left_out = self._clock() - began, len(outcome.left_out)
        self._note(self._state.plus(batch.ends, outcome.delivered, batch.passed, left_out, seconds))
        return FilteredRecords()

    @property
    def _redelivery(self) -> Redelivery:
        return redelivery(self._product, self._delivery)

    def _ordered(self, records: Mapping[str, KindRecords]) -> dict[str, KindRecords]:
        return {kind: records[kind] for kind in self._kinds.values() if kind in records}

    def _read_to(self, ends: Mapping[Position, int]) -> dict[Position, int]:
        """Return for each partition the offset up to which this replay has read it.

        ends: the offsets of the history that was read. Looking for newer states reads further.
        """
        return {**ends, **(self._latest.seen if self._latest else {})}

    def _hand_over(self, batch: Batch) -> Sequence[Refusal]:
        """Hand a batch to the delivery once. Return what the product refuses."""
        if self._about.into:
            return self._delivery.deliver(batch)
        if not self._latest:
            return self._redelivery.redeliver(batch, self._about.id, {})
        return self._hand_over_latest(batch, self._latest)

    def _hand_over_latest(self, batch: Batch, latest: LatestStates) -> Sequence[Refusal]:
        """Hand over the rows that are still current, and remove the others from the batch."""
        while True:
            latest.follow()
            self._decide_again(batch, latest)
            current = [_latest_of(part, latest) for part in batch.parts]
            batch.parts = [part for part in current if part.rows]
            try:
                refusals = self._redelivery.redeliver(batch, self._about.id, latest.seen)
                break
            except Overtaken:
                continue
        if is_unlocked(self._delivery):
            self._deliver_later_changes(batch.parts, batch.offsets, latest)
        return refusals

    def _decide_again(self, batch: Batch, latest: LatestStates) -> bool:
        """Rebuild the rows of equivalent records if newer events have arrived.

        Returns whether any row changed. Failures of the translation are ignored here: the same
        records failed the first time, and their dead letters are already written.
        """
        read_to = self._read_to(batch.offsets)
        kinds = self._product.siblings.keys() & self._in_hand.keys()
        if not kinds or read_to == self._decided_up_to:
            return False
        self._decided_up_to = read_to
        again = {kind: self._in_hand[kind] for kind in kinds}
        parts, _, _ = self._deliverer.translated(again, [], read_to)
        before = [part for part in batch.parts if part.kind in kinds]
        batch.parts = _in_order(
            self._product, [part for part in batch.parts if part.kind not in kinds] + parts
        )
        return [part.rows for part in parts] != [part.rows for part in before]

    def _deliver_later_changes(
        self, parts: list[Part], ends: Mapping[Position, int], latest: LatestStates
    ) -> None:
        """Deliver the newer states of these records, and look again until there are none.

        The live consumer may have delivered a newer state before the replay delivered the older
        one. Each step here is retried alone: a retry of the whole batch would no longer know what
        has changed.
        """
        buffer = Buffer(Feed(self._product.name, self._kinds), self._writer_schema)
        while True:
            self._retries.persist(latest.follow)
            delivered = {id(m): m for part in parts for m in part.messages}.values()
            newer = {id(one): one for m in delivered if (one := latest.newest(m)) is not m}
            batch = Batch(list(parts), ends)
            if not self._decide_again(batch, latest) and not newer:
                return
            changed = {one.key() for one in newer.values()}
            siblings = self._product.siblings
            parts = [part for part in batch.parts if part.kind in siblings]
            parts = [_without(part, changed) for part in parts]
            if newer:
                buffer.add(list(newer.values()))
                records, _ = self._retries.persist(partial(buffer.decoded, buffer.take()))
                ordered = self._ordered(records)
                more, _, _ = self._deliverer.translated(ordered, [], self._read_to(ends))
                parts = _in_order(self._product, [*parts, *more])
            batch = Batch([part for part in parts if part.rows], ends)
            self._retries.persist(
                partial(self._redelivery.redeliver, batch, self._about.id, latest.seen)
            )

    # ---- recording and requests ------------------------------------------------------------------

    def _note(self, state: ReplayState) -> None:
        self._state = state
        self._retries.persist(lambda: self._log.note(state))
        self._progress(ReplayEntry(self._about, state))

    def _check_request(self) -> None:
        """Raise `_StopRequested` if somebody asked the replay to pause or to end."""
        if self._stopping.is_set():
            raise _StopRequested("paused")
        if self._clock() - self._checked_at > CHECK_SECONDS:
            self._checked_at = self._clock()
            try:
                request = self._log.request()
            except RetryLater:  # the next read or write waits for Kafka
                return
            if request != "run":
                raise _StopRequested("paused" if request == "pause" else "cancelled")

    def _keep_pace(self, first: float, already: int) -> None:
        """Wait until the average rate is no longer above `--rate`."""
        if self._about.rate:
            done = sum(self._state.delivered.values()) - already
            self._stay(first + done / self._about.rate - self._clock())

    def _stay(self, seconds: float) -> None:
        """Wait, and check between steps whether somebody asked to pause or to end."""
        in_steps(seconds, CHECK_SECONDS, self._stay_once, self._clock)

    def _stay_once(self, seconds: float) -> None:
        self._stopping.wait(seconds)
        self._check_request()


class _StopRequested(Exception):  # noqa: N818
    """Somebody asked the replay to pause or to end."""

    def __init__(self, status: Any) -> None:
        super().__init__(status)
        self.status = status


def needs_latest(product: Product, about: ReplayRequest) -> bool:
    """Return whether the replay may deliver only the current state of each record."""
    return about.only_current or not (about.into or product.tells_time)


def order_of(about: ReplayRequest) -> history.Order:
    """Return the order in which history is read.

    Current states are read by level (`bus.standard.Kind.level`): referenced records first. Every
    change is read by time.
    """
    return "level" if about.only_current else "time"


def _latest_of(part: Part, latest: LatestStates) -> Part:
    """Return a part without the rows that are no longer a record's current state."""
    keep = [
        at
        for at, message in enumerate(part.messages)
        if latest.is_latest(position(message), message.offset() or 0, message.key())
    ]
    return part.only(keep)


def _without(part: Part, keys: Collection[bytes | None]) -> Part:
    """Return a part without the rows of these records."""
    return part.only([at for at, m in enumerate(part.messages) if m.key() not in keys])


def _in_order(product: Product, parts: Sequence[Part]) -> list[Part]:
    """Return parts in the product's table order."""
    order = {table.name: at for at, table in enumerate(product.tables)}
    return sorted(parts, key=lambda part: order[part.table.name])


def check(product: Product, delivery: Delivery, about: ReplayRequest) -> None:
    """Raise `Stop` if the delivery does not support this replay.

    A replay to the place where the live consumer delivers needs `redeliver`.
    """
    if not about.into:
        redelivery(product, delivery)


def redelivery(product: Product, delivery: Delivery) -> Redelivery:
    """Return the delivery as a `Redelivery`.

    Raises `Stop` if it has no `redeliver`. Then a replay cannot deliver to the place where the live
    consumer delivers.
    """
    if (found := as_redelivery(delivery)) is None:
        raise Stop(
            f"the delivery of {product.name} does not support a replay to the place where the live "
            "consumer delivers; name another place with --into"
        )
    return found
