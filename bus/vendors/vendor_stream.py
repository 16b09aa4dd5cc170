"""One agreement while it is projected: its projection, its progress, its guard and its topics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from itertools import repeat

from bus.settings import Settings
from bus.standard.kinds import KINDS
from bus.vendors import stream_progress
from bus.vendors.agreement import Identifiers
from bus.vendors.applied import Applied, as_table
from bus.vendors.asked_records import AskedRecords, NeededRecords, RecordsOf
from bus.vendors.district_view import DistrictView, Key, student_of
from bus.vendors.earlier_cohort import EarlierCohort
from bus.vendors.outbox import Outbox
from bus.vendors.outbox_rows import OutgoingBatch
from bus.vendors.projected import Outcome, ProjectedBatch
from bus.vendors.projection import Projection
from bus.vendors.pseudonyms import Pseudonyms, unwrapped
from bus.vendors.record_rules import Change, orgs_above
from bus.vendors.roster_guard import RosterGuard
from bus.vendors.scope import OPT_OUT, compile_scope
from bus.vendors.shard import WHOLE, Shard
from bus.vendors.shard_words import Asked, GivenUp, Round
from bus.vendors.shared_records import SharedRecords
from bus.vendors.stream_progress import EarlierAgreement, StreamProgress
from bus.vendors.vendor_messages import VendorMessages
from bus.vendors.words_to_say import WordsToSay

log = logging.getLogger(__name__)

MAY_MOVE = frozenset(
    kind for kind, about in KINDS.items() if about.student and about.owner != "sourcedId"
)
"""The kinds of records that the SIS can give to another student."""
SLICE = 1_000
"""Students who are looked at between two batches of live changes."""


class VendorStream:
    """The projection of one agreement. For one thread, within a transaction of the view.

    masters:    the master keys. One of them opens the agreement's key.
    partitions: how many partitions the vendor's topics have.
    clock:      a monotonic clock in seconds.
    shard:      which students, and whether the records that students share.
    """

    def __init__(
        self,
        settings: Settings,
        applied: Applied,
        view: DistrictView,
        masters: Sequence[bytes],
        partitions: int,
        clock: Callable[[], float],
        shard: Shard = WHOLE,
    ) -> None:
        self.applied = applied
        self._shard = shard
        self.scope = compile_scope(applied.agreement)
        self._settings = settings
        self._view = view
        self._guard = RosterGuard(lambda: self._projection.cohort.size(), clock)
        ids = Pseudonyms(unwrapped(applied.wrapped_key, masters))
        self._ids = {applied.rekeyed: ids}  # by `Applied.rekeyed`
        if applied.earlier_key:
            before = Pseudonyms(unwrapped(applied.earlier_key, masters))
            self._ids[applied.rekeyed - 1] = before
        self._out = VendorMessages(settings, applied, self.scope, ids, partitions)
        stored = stream_progress.read(view.con, applied.name)
        self.progress = stored or StreamProgress("")
        self._compile()

    @property
    def name(self) -> str:
        """The agreement's name."""
        return self.applied.name

    @property
    def topics(self) -> Collection[str]:
        """The vendor's topics under this agreement."""
        return self._out.topics.values()

    def now(self) -> int:
        """Return the time of an event, as exact as this vendor may see it (`VendorMessages`)."""
        return self._out.now()

    def stale(self) -> bool:
        """Return whether the vendor's topics must be written whole: they show another edition."""
        return self.progress.fingerprint != self.applied.edition or (
            self._shard.common
            and frozenset(self.progress.above) != orgs_above(self._view, self.applied.agreement)
        )

    def write_again(self, ends: Mapping[str, int], led: Round | None = None) -> None:
        """Begin to write the vendor's topics whole.

        ends: the ends of the vendor's partitions now, by "topic/partition".
        led:  the round of all shards, if there are several. Writing then waits for `may_write`.
        """
        # After two rekeys in these minutes, the first ids are not known any more.
        earlier = [one for one in self.progress.shown() if one.rekeyed in self._ids]
        if earlier:
            self._projection.cohort.move_to_earlier(self.name)
        else:
            self._earlier.forget()
        self._projection.forget()
        self._view.con.execute("DELETE FROM late WHERE agreement = ?", [self.name])
        above = led.above if led else orgs_above(self._view, self.applied.agreement)
        students = self._shard.students
        self.progress = StreamProgress(
            self.applied.edition,
            as_table(self.applied.agreement),
            sorted(above),
            earlier,
            checked="" if earlier and students else None,
            reached="" if students else None,
            ends=dict(ends),
            confirmed=self.applied.confirmed,
            round=led.number if led else 0,
            stopped=led is not None,
        )
        self._compile()
        self._store()

    def take_part(self, led: Round) -> None:
        """Take part in a round that the common shard has begun. This shard has stopped already."""
        self.progress.round = led.number
        self.progress.above = list(led.above)
        self._compile()
        self._store()

    def may_write(self, ends: Mapping[str, int]) -> None:
        """Note that all shards have stopped to write under the earlier edition.

        ends: the ends of the vendor's partitions now, if this is the common shard.
        """
        self.progress.stopped = False
        self.progress.ends = dict(ends)
        self._store()

    def confirm(self, applied: Applied) -> None:
        """Follow a person's decision: let all students enter and leave whom the guard held back."""
        self.applied = applied
        if not self.progress.agreement:  # an earlier version has written the topics
            self.progress.agreement = as_table(applied.agreement)
            self._store()
        if applied.confirmed > self.progress.confirmed:
            self.progress.confirmed = applied.confirmed
            self.progress.held = 0
            if self.progress.written and self._shard.students:
                self.progress.reached = ""
            self._guard.clear()
            self._store()

    def take(
        self, changes: Iterable[Change], day: date, outbox: Outbox, *, hold: bool = False
    ) -> list[tuple[int, OutgoingBatch]]:
        """Return the messages that follow from changes, each with its place in the order.

        hold: hold back everybody who enters or leaves through the roster.
        """
        at, changes = self.progress, list(changes)
        outcome = self._projection.take(
            changes,
            day,
            reached=None if at.written else at.reached,
            budget=0 if hold and self.progress.written else self._budget(),
        )
        touched = {
            student
            for one in (changes if at.earlier else ())
            for state in (one.before, one.after)
            if state is not None and (student := student_of(one.kind, state)) is not None
        }
        messages = self._messages(outcome, outbox)
        return messages + self._dismissed(touched, day, outbox, changes)

    def go_on(self, day: date, outbox: Outbox) -> list[tuple[int, OutgoingBatch]]:
        """Return the messages about the next students, while the topics are written whole.

        First, those whom the changed agreement excludes are deleted.
        """
        at = self.progress
        if at.checked is not None:
            students = self._earlier.after(at.checked, SLICE)
            messages = self._dismissed(students, day, outbox)
            at.checked = students[-1] if len(students) == SLICE else None
            self._store()
            return messages
        if at.reached is None or at.stopped:
            return []
        students = self._view.students_after(at.reached, SLICE)
        outcome = self._projection.look_at(students, day, release=at.written)
        messages = self._messages(outcome, outbox)
        at.reached = students[-1] if len(students) == SLICE else None
        self._store()
        return messages

    def asked(
        self, words: Iterable[tuple[int, Asked]], outbox: Outbox
    ) -> tuple[list[tuple[int, OutgoingBatch]], list[Key]]:
        """Return the messages that follow from what other shards ask for; in the common shard.

        Also returns the records that the view did not have yet.

        words: each with the number of its shard.
        """
        outcome, missing = self._projection.asked(words)
        return self._messages(outcome, outbox), missing

    def send_again(
        self, keys: Collection[Key], outbox: Outbox, *, active: bool = False
    ) -> list[tuple[int, OutgoingBatch]]:
        """Return the present states of records, as far as the vendor has them.

        active: only of those records that are active.
        """
        return self._messages(self._projection.send_again(keys, active=active), outbox)

    def end_round(self, outbox: Outbox) -> list[tuple[int, OutgoingBatch]]:
        """Note that the common shard has deleted the old records; in a shard of students.

        Returns what this shard has sent after it had written everything. The common shard may have
        taken such a record for one that was not written again, and have sent a deletion.
        """
        late = self._view.con.execute("SELECT kind, id FROM late WHERE agreement = ?", [self.name])
        messages = self.send_again(set(late), outbox)
        self._view.con.execute("DELETE FROM late WHERE agreement = ?", [self.name])
        self.finished()
        return messages

    def disclosed(self, students: Sequence[str], *, entered: bool) -> None:
        """Note who entered or left in another shard; in the common shard."""
        if entered:
            self._projection.cohort.put_in(students)
        else:
            for student in students:
                self._projection.cohort.put(student, None)

    def next_day(self, day: date, outbox: Outbox) -> list[tuple[int, OutgoingBatch]]:
        """Return the messages that follow from the date alone."""
        found = self._messages(self._projection.expire(day), outbox)
        at, some = self.progress, self._view.students_with(OPT_OUT)
        students = [one for one in some if at.written or at.reached is None or one <= at.reached]
        outcome = self._projection.look_at(students, day, budget=self._budget())
        return found + self._messages(outcome, outbox) + self._dismissed(some, day, outbox)

    def finished(self) -> None:
        """Note that the topics have been written whole."""
        self.progress.written = True
        self.progress.ends = {}
        self.progress.earlier = []
        self._earlier.forget()
        self._store()

    def gone(self, known: Collection[str]) -> list[str]:
        """Return the students about whom the vendor has no records now.

        known: students about whom the vendor had records, as the record of disclosures says.
        """
        return sorted(set(known) - self._projection.cohort.among(known))

    def dropped(self) -> None:
        """Go back to what is in the file, because the transaction was rolled back."""
        self.progress = stream_progress.read(self._view.con, self.name) or StreamProgress("")
        self._compile()

    # ---- the guard -----------------------------------------------------------------------------

    def _budget(self) -> int | None:
        """Return how many students may still enter or leave through the roster; None: any."""
        if not self.progress.written or self.progress.reached is not None:
            return None
        if self.progress.held:
            return 0
        return self._guard.budget(self.applied.agreement.guard)

    def _watch(self, outcome: Outcome) -> None:
        """Count who moved, and report when the guard holds students back."""
        moved = len(outcome.entered) + len(outcome.left)
        if moved and self.progress.written:
            self._guard.moved(moved)
        if outcome.held:
            if not self.progress.held:
                log.warning(
                    "agreement %s: %d students would enter or leave at once, which is more than "
                    "its guard allows; they stay as they are. Look at `bus vendors plan`, then run "
                    "`bus vendors allow %s`",
                    *(self.name, outcome.held, self.name),
                )
            self.progress.held += outcome.held
            self._store()

    # ---- messages ------------------------------------------------------------------------------

    def _messages(self, outcome: Outcome, outbox: Outbox) -> list[tuple[int, OutgoingBatch]]:
        outbox.note(self.name, outcome.entered, entered=True)
        outbox.note(self.name, outcome.left, entered=False)
        self._watch(outcome)
        self._note_sent(outcome.batches)
        now = self._out.now()
        return [
            (batch.order, message)
            for batch in outcome.batches
            for message in self._out.states(batch, now)
        ]

    def _note_sent(self, batches: Iterable[ProjectedBatch]) -> None:
        """Note what other shards must know of, or what must be sent again when the round ends."""
        if self._shard.whole:
            return
        at, given_up, late = self.progress, [], []
        awaits_end = self._shard.students and at.reached is None and not at.written
        for one in batches:
            if one.kind in MAY_MOVE:
                states = one.columns["status"] if one.columns is not None else repeat("")
                given_up += [
                    GivenUp(one.kind, id_)
                    for id_, state in zip(one.ids, states, strict=False)
                    if state != "active"
                ]
            if awaits_end and one.columns is not None:
                late += [(self.name, one.kind, id_) for id_ in one.ids]
        WordsToSay(self._view.con).add(given_up)
        self._view.con.executemany("INSERT OR IGNORE INTO late VALUES (?, ?, ?)", late)

    def _dismissed(
        self,
        students: Collection[str],
        day: date,
        outbox: Outbox,
        changes: Iterable[Change] = (),
    ) -> list[tuple[int, OutgoingBatch]]:
        """Return deletions about those of these students who are not wanted any more.

        Only earlier records are meant. The projection deletes what was written again.
        """
        if not self.progress.earlier:
            return []
        again = self._projection.cohort.among(students)
        earlier = [one for one in students if one not in again]
        found = self._earlier.dismiss(earlier, day, changes)
        outbox.note(self.name, found.left, entered=False)
        self._note_sent(batch for _, batch in found.batches)
        now = self._out.now()
        return [
            (batch.order, self._out.deletions(batch, self._ids_of(before), now))
            for before, batch in found.batches
        ]

    def _ids_of(self, before: EarlierAgreement) -> Pseudonyms | None:
        """Return the ids under which records were written; None: they were the real ones."""
        if before.agreement["identifiers"] == Identifiers.PSEUDONYMS:
            return self._ids[before.rekeyed]
        return None

    def _compile(self) -> None:
        self._projection = Projection(
            self.scope,
            self._view,
            self._out.vendor_id,
            self.progress.above,
            self._out.prepare,
            self._records(),
        )
        self._earlier = EarlierCohort(self.scope, self._view, self.progress.earlier)

    def _records(self) -> RecordsOf:
        """Return how the records that students share are handled in this shard."""
        if self._shard.whole:
            return SharedRecords
        if self._shard.common:
            return NeededRecords
        return partial(AskedRecords, round_=self.progress.round)

    def _store(self) -> None:
        stream_progress.store(self._view.con, self.name, self.progress)
