"""A run of a replay: read, choose, decode, translate, deliver, note how far it is.

    history → sieve → translate → deliver → ledger

It reads outside any group, so the live consumer's offsets do not move, and it is a process of its
own, so the live consumer does not wait for it. Killed at any moment it goes on, by `resume`, after
the last batch that the ledger has; that batch may be delivered once more, which each delivery bears
as it does after a crash of the live consumer.

Records do not wait for one another here: a history is read in the order in which it was published.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bus.consume import equivalents
from bus.consume.buffer import Buffer, position
from bus.consume.deadletters import DeadLetters
from bus.consume.dependency_order import KindRecords
from bus.consume.retries import Retries
from bus.consume.translation import translate
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
from bus.errors import BusError, Stop
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.kafka.offsets import Offsets
from bus.observe.metrics import ConsumerMetrics
from bus.product import Product
from bus.registry.subjects import schema_lookup
from bus.replay import history
from bus.replay.latest import LatestStates
from bus.replay.record_filter import FilteredRecords, RecordFilter
from bus.replay.replay_log import ReplayEntry, ReplayLog, ReplayRequest, ReplayState, entry
from bus.replay.selection import Selection
from bus.replay.window import Window
from bus.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Message

NOTE_SECONDS = 5.0
"""At least so often how far it is is noted, also where little is chosen."""
WISH_SECONDS = 1.0
"""So often whether it is to pause or to end is looked up."""
Progress = Callable[[ReplayEntry], None]


class ReplayEngine:
    """One process's part of a replay. `run` on one thread, `stop` from any.

    delivery: open; of the place to which the live consumer delivers, or of another (`about.into`).
    latest:   whether only what is a record's latest state is delivered.
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
    ) -> None:
        self._settings = settings
        self._product = product
        self._delivery = delivery
        self._about = about
        self._selection = selection
        self._state = state or ReplayState()
        self._progress = progress
        self._stopping = threading.Event()
        self._metrics = ConsumerMetrics()
        self._retries = Retries(settings.consumer, product.name, self._metrics, self._stay)
        self._kinds = {topics.topic(settings, kind): kind for kind in selection.kinds}
        self._writer_schema = schema_lookup(settings)
        self._letters = None if about.into else DeadLetters(settings, product.name)
        self._wish_read = time.monotonic()
        self._latest: LatestStates | None = None

    def stop(self) -> None:
        """Ask it to pause after the batch in hand."""
        self._stopping.set()

    def run(self) -> ReplayState:
        """Replay what is left of the window; how it ended: done, paused, cancelled.

        Raises `Stop` and `RetryLater` as deliveries and Kafka do; the ledger then says "failed",
        and `resume` goes on.
        """
        self._ledger = ReplayLog(self._settings, self._about.id)
        if not self._state.at:
            self._ledger.begin(self._about)
        self._note(replace(self._state, status="running", error=""))
        try:
            self._replay(self._about.window.after(self._state.reached))
        except _Wished as wished:
            self._note(replace(self._state, status=wished.status))
        except BusError as error:
            self._note(replace(self._state, status="failed", error=str(error)))
            raise
        else:
            # To the end, beyond which lie only the marks of transactions.
            self._note(replace(self._state, status="done", done=self._about.stop))
        finally:
            if self._latest:
                self._latest.close()
        return self._state

    def _replay(self, window: Window) -> None:
        if needs_latest(self._product, self._about):
            unlocked = is_unlocked(self._delivery)
            self._latest = LatestStates(self._settings, self._about.window, keep=unlocked)
        if self._about.into:  # a place of the replay's own, which keeps its own account
            window = window.after(self._resume(window))
        sieve = RecordFilter(self._settings, self._about, self._selection, self._latest)
        most = self._product.batch_records
        if self._about.rate:
            most = max(1, min(most, int(self._about.rate)))
        began, batch = time.monotonic(), FilteredRecords()
        first = began
        already = sum(self._state.delivered.values())
        for messages in history.read(self._settings, window, order_of(self._about)):
            for at in range(0, len(messages), most):
                self._retries.persist(partial(sieve.take, messages[at : at + most], batch))
                if len(batch) >= most or time.monotonic() - began > NOTE_SECONDS:
                    batch, began = self._deliver(batch, began), time.monotonic()
                    self._keep_pace(first, already)
                self._heed_wish()
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
        """Deliver and note it; an empty batch for what comes next."""
        lots = {kind: batch.lots[kind] for kind in self._kinds.values() if kind in batch.lots}
        outlived = self._retries.persist(lambda: self._outlived(lots, batch.ends))
        parts, told, untranslated = translate(self._product, lots, outlived)
        letters = batch.undecodable + untranslated
        refusals = self._hand_over(parts, batch.ends, told)
        letters += [(refusal.message, refusal.reason) for refusal in refusals]
        told.subtract(self._kinds[refusal.message.topic() or ""] for refusal in refusals)
        self._bury(letters)
        seconds = time.monotonic() - began
        self._note(self._state.plus(batch.ends, +told, batch.passed, len(letters), seconds))
        return FilteredRecords()

    @property
    def _redelivery(self) -> Redelivery:
        return redelivery(self._product, self._delivery)

    def _hand_over(
        self, parts: list[Part], ends: Mapping[Position, int], told: Counter[str]
    ) -> Sequence[Refusal]:
        if self._about.into:
            return self._retries.persist(lambda: self._delivery.deliver(Batch(parts, ends)))
        if not self._latest:
            return self._retries.persist(
                lambda: self._redelivery.redeliver(Batch(parts, ends), self._about.id, {})
            )
        latest = self._latest
        last: list[Part] = []

        def still_latest() -> Sequence[Refusal]:
            while True:
                latest.follow()
                left = [_sifted(part, latest) for part in parts]
                batch = Batch([part for part in left if part.rows], ends)
                try:
                    refusals = self._redelivery.redeliver(batch, self._about.id, latest.seen)
                except Overtaken:
                    continue
                told.clear()
                for part in batch.parts:
                    told[part.kind] = max(told[part.kind], len(part.rows))
                last[:] = batch.parts
                return refusals

        refusals = self._retries.persist(still_latest)
        if is_unlocked(self._delivery):
            self._have_the_last_word(last, ends, latest)
        return refusals

    def _have_the_last_word(
        self, parts: list[Part], ends: Mapping[Position, int], latest: LatestStates
    ) -> None:
        """Tell what has changed since it was looked up, until nothing has: the live consumer may
        have told it before the older state was delivered."""
        while True:
            self._retries.persist(latest.follow)
            told = {id(m): m for part in parts for m in part.messages}.values()
            newer = {id(one): one for m in told if (one := latest.newest(m)) is not m}
            if not newer:
                return
            intake = Buffer(self._kinds, self._writer_schema)
            intake.add(list(newer.values()))
            taken = intake.take()
            lots, _ = self._retries.persist(partial(intake.decoded, taken))
            ordered = {kind: lots[kind] for kind in self._kinds.values() if kind in lots}
            parts, _, _ = translate(self._product, ordered, self._outlived(ordered, ends))
            batch = Batch(parts, ends)
            self._retries.persist(
                partial(self._redelivery.redeliver, batch, self._about.id, latest.seen)
            )

    def _outlived(
        self, lots: Mapping[str, KindRecords], ends: Mapping[Position, int]
    ) -> dict[str, set[int]]:
        """For each kind the records whose withdrawal the product must not hear of."""
        found = {}
        for kind, fields in self._product.siblings.items():
            if kind in lots:
                topic = topics.topic(self._settings, kind)
                known = {**ends, **(self._latest.seen if self._latest else {})}
                stop = {p.partition: at for p, at in known.items() if p.topic == topic}
                found[kind] = equivalents.outlived(
                    self._settings, kind, fields, lots[kind], self._writer_schema, stop
                )
        return found

    def _bury(self, letters: list[tuple[Message, str]]) -> None:
        """Into the live place a record that is not taken is a dead letter, as ever."""
        if self._letters and letters:
            sink = self._letters
            for message, reason in letters:
                sink.add(message, f"in the replay {self._about.id}: {reason}")
            self._retries.persist(sink.flush)

    # ---- heeding -------------------------------------------------------------------------------

    def _note(self, state: ReplayState) -> None:
        self._state = state
        self._retries.persist(lambda: self._ledger.note(state))
        self._progress(ReplayEntry(self._about, state))

    def _heed_wish(self) -> None:
        """Raises `_Wished` when it is to pause or to end."""
        if self._stopping.is_set():
            raise _Wished("paused")
        if time.monotonic() - self._wish_read > WISH_SECONDS:
            self._wish_read = time.monotonic()
            wish = entry(self._settings, self._about.id).wish
            if wish != "run":
                raise _Wished("paused" if wish == "pause" else "cancelled")

    def _keep_pace(self, first: float, already: int) -> None:
        """Wait until so much may have been delivered."""
        if self._about.rate:
            done = sum(self._state.delivered.values()) - already
            while (left := first + done / self._about.rate - time.monotonic()) > 0:
                self._stopping.wait(min(left, WISH_SECONDS))
                self._heed_wish()

    def _stay(self, seconds: float) -> None:
        """Between tries of what does not go."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._stopping.wait(min(left, WISH_SECONDS))
            self._heed_wish()


class _Wished(Exception):  # noqa: N818
    """Somebody wants it to pause or to end."""

    def __init__(self, status: Any) -> None:
        super().__init__(status)
        self.status = status


def needs_latest(product: Product, about: ReplayRequest) -> bool:
    """Whether what is delivered must be a record's latest state."""
    return about.only_current or not (about.into or product.tells_time)


def order_of(about: ReplayRequest) -> history.Order:
    """The present comes by what refers to what, the past as it was."""
    return "level" if about.only_current else "time"


def _sifted(part: Part, latest: LatestStates) -> Part:
    """A part without what is no longer a record's latest state."""
    keep = [
        at
        for at, message in enumerate(part.messages)
        if latest.is_latest(position(message), message.offset() or 0, message.key())
    ]
    if len(keep) == len(part.rows):
        return part
    return Part(
        part.table,
        part.kind,
        [part.rows[at] for at in keep],
        [part.records[at] for at in keep],
        [part.messages[at] for at in keep],
    )


def check(product: Product, delivery: Delivery, about: ReplayRequest) -> None:
    """Raises `Stop` when this product's delivery cannot bear a replay beside the live consumer."""
    if not about.into:
        redelivery(product, delivery)


def redelivery(product: Product, delivery: Delivery) -> Redelivery:
    """The delivery as one that bears a replay beside the live consumer; raises `Stop` else."""
    if (found := as_redelivery(delivery)) is None:
        raise Stop(
            f"{product.name} cannot tell a replay from what is live; replay it --into another place"
        )
    return found
