"""The streams of all agreements in one shard, when several shards write them (`bus.vendors.shard`).

The common shard leads the rounds in which topics are written whole, and the shards of students
follow (`bus.vendors.shard_words`). A shard decides by what is in its file and by the last words of
the others. So after a kill, it says its last word again, and goes on.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import date

import structlog

from bus.vendors.agreement_streams import AgreementStreams
from bus.vendors.applied import Applied
from bus.vendors.common_words import CommonWords
from bus.vendors.district_view import Key
from bus.vendors.record_rules import orgs_above
from bus.vendors.shard_talk import StudentTalk, WordSender
from bus.vendors.shard_words import (
    Asked,
    Disclosed,
    GivenUp,
    Round,
    RoundStage,
    ShardFile,
    Word,
)
from bus.vendors.stream_progress import StreamProgress
from bus.vendors.vendor_stream import VendorStream

log = structlog.get_logger(__name__)

NO_ROUND = -1
"""The number of a round that the common shard has not begun."""


class StudentStreams(AgreementStreams):
    """The streams in a shard of students. `listen` comes before anything else.

    As soon as a shard notices that an agreement has changed, it stops to write under the earlier
    edition, and only sends deletions. When the common shard has begun the round, it takes part.
    """

    def listen(self, words: CommonWords, talk: StudentTalk) -> None:
        """Follow what the common shard says, and answer it."""
        self._words = words
        self._talk = talk
        self._told: dict[str, tuple[int, RoundStage]] = {}  # the last word about each agreement

    @property
    def busy(self) -> bool:
        """Whether `go_on` has something to do now."""
        return any(stream.progress.busy for stream in self._streams.values())

    def follow(self, applied: Mapping[str, Applied], day: date, *, new: bool) -> None:
        """Follow the agreements, and the rounds of the common shard."""
        self._note_rounds()
        super().follow(applied, day, new=new)
        for stream in self._streams.values():
            self._take_part(stream)
            self._move_on(stream)
        self._note_rounds()

    def tell(self) -> None:
        """Tell the common shard how far this shard is, unless that was its last word."""
        for stream in self._streams.values():
            at = stream.progress
            if at.round == NO_ROUND:
                led = self._words.round(stream.name)
                if (
                    led is not None
                    and led.edition == at.fingerprint
                    and led.stage is not RoundStage.STOP
                ):
                    # The others have written in this round already, without this shard.
                    self._say(stream, RoundStage.LOST, led.number)
            elif at.stopped:
                self._say(stream, RoundStage.STOPPED, at.round)
            elif at.reached is None and at.checked is None and not at.written:
                self._say(stream, RoundStage.WHOLE, at.round)

    def send_again(self, keys: Collection[Key]) -> None:
        """Add the present states of those of these records that are active, within a batch."""
        for stream in self._streams.values():
            self._add(stream.send_again(keys, self._outbox, active=True))

    def _finish(self) -> None:
        self.tell()

    def _stale(self, stream: VendorStream) -> bool:
        """Return whether this shard must stop, because another edition or round is written now."""
        led, at = self._words.round(stream.name), stream.progress
        if stream.stale():
            return True
        return led is not None and at.round != NO_ROUND and led.number > at.round

    def _leave_out(self, stream: VendorStream) -> bool:
        # This shard may stop at any time. Otherwise, it would miss what changes meanwhile.
        return self._write_again(stream)

    def _write_again(self, stream: VendorStream) -> bool:
        self.confirm()
        above = tuple(stream.progress.above)
        led = Round(stream.name, stream.applied.edition, NO_ROUND, RoundStage.STOP, above)
        with self.batch():
            self._outbox.forget(stream.name, deletions=False)
            self._outbox.forget_entered(stream.name)
            stream.write_again({}, led)
        return True

    def _take_part(self, stream: VendorStream) -> None:
        """Take part in a round that the common shard has begun."""
        led, at = self._words.round(stream.name), stream.progress
        if (
            at.round == NO_ROUND
            and led is not None
            and led.edition == at.fingerprint
            and led.stage is RoundStage.STOP
        ):
            with self.batch():
                stream.take_part(led)

    def _move_on(self, stream: VendorStream) -> None:
        """Follow the common shard's round."""
        led, at = self._words.round(stream.name), stream.progress
        if led is None or led.number != at.round:
            return
        if at.stopped and led.stage is not RoundStage.STOP:
            with self.batch():
                stream.may_write({})
        if not at.written and at.reached is None and led.stage is RoundStage.WHOLE:
            with self.batch():
                self._add(stream.end_round(self._outbox))

    def _note_rounds(self) -> None:
        self._talk.rounds = {name: one.progress.round for name, one in self._streams.items()}

    def _say(self, stream: VendorStream, stage: RoundStage, number: int) -> None:
        if self._told.get(stream.name) != (number, stage):
            self.confirm()
            self._talk.say([Round(stream.name, stream.applied.edition, number, stage)])
            self._told[stream.name] = number, stage


class CommonStreams(AgreementStreams):
    """The streams in the common shard. `lead` comes before anything else."""

    def lead(
        self, sender: WordSender, others: int, said: Iterable[Word], *, missed: bool = False
    ) -> None:
        """Lead the rounds.

        others: how many shards of students there are.
        said:   what the common shard has said before (`bus.vendors.common_words.said`).
        missed: whether Kafka has forgotten words that this shard has not read.
        """
        self._sender = sender
        self._others = others
        self._numbers: dict[str, int] = {}  # the last round of each agreement
        self._told: dict[str, tuple[int, RoundStage]] = {}
        self._news = True  # whether there may be something to say although all is written
        for word in said:
            if isinstance(word, Round):
                self._numbers[word.agreement] = max(
                    word.number, self._numbers.get(word.agreement, 0)
                )
        if missed:
            self._lose()

    @property
    def busy(self) -> bool:
        """Whether `go_on` has something to do now: `advance` does everything."""
        return False

    def next_day(self, active: Collection[str], day: date) -> None:
        """Do what follows from the date, and say all rounds again: Kafka forgets old words."""
        super().next_day(active, day)
        self._told, self._news = {}, True

    def follow(self, applied: Mapping[str, Applied], day: date, *, new: bool) -> None:
        """Follow the agreements."""
        super().follow(applied, day, new=new)
        self._news = True

    def heard(self, words: Iterable[tuple[int, Word]]) -> list[Key]:
        """Follow what the shards of students say, within a batch.

        Returns the records that they ask for and that the district's topics did not have yet.

        words: each with the number of its shard.
        """
        asked: dict[str, list[tuple[int, Asked]]] = defaultdict(list)
        given_up: set[Key] = set()
        missing: list[Key] = []
        for shard, word in words:
            stream = self._streams.get(getattr(word, "agreement", ""))
            match word:
                case Round():
                    self._news = True
                    self._view.con.execute(
                        "INSERT INTO shard VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                        "edition = excluded.edition, round = excluded.round, "
                        "stage = excluded.stage WHERE excluded.round >= round",
                        [word.agreement, shard, word.edition, word.number, word.stage.value],
                    )
                case ShardFile():
                    self._has_file(shard, word.id)
                case Asked() if stream is not None and word.round == stream.progress.round:
                    asked[word.agreement].append((shard, word))
                case Disclosed() if stream is not None and word.round == stream.progress.round:
                    stream.disclosed(word.students, entered=word.entered)
                case GivenUp():
                    given_up.add((word.kind, word.id))
        for name, some in asked.items():
            messages, new = self._streams[name].asked(some, self._outbox)
            self._add(messages)
            missing += new
        if given_up:
            for stream in self._streams.values():
                self._add(stream.send_again(given_up, self._outbox, active=True))
        return missing

    def advance(self) -> None:
        """Lead each round on as far as the shards of students are."""
        if not self._news and not self.unfinished:
            return
        self._news = False
        ready = []
        for stream in list(self._streams.values()):
            at = stream.progress
            stages = self._stages(stream)
            if RoundStage.LOST in stages:
                log.warning(
                    "a shard does not know all that the vendor has; all is written again",
                    agreement=stream.name,
                )
                self._write_again(stream)
            elif at.stopped and self._all(stages, RoundStage.STOPPED, RoundStage.WHOLE):
                self.confirm()
                ends = self._ends(stream)
                with self.batch():
                    stream.may_write(ends)
            elif not at.stopped and not at.written and self._all(stages, RoundStage.WHOLE):
                ready.append(stream)
        if ready:
            self.confirm()
            self._clean_all(ready)
        self.tell()

    def tell(self) -> None:
        """Say how far each round is, unless that was the last word about it."""
        words: list[Word] = []
        for name, stream in self._streams.items():
            at = stream.progress
            said = at.round, _stage(at)
            if self._told.get(name) != said:
                self._told[name] = said
                words.append(Round(name, at.fingerprint, *said, tuple(at.above)))
        if words:
            self.confirm()
            self._sender.say(words)

    def _finish(self) -> None:
        """`advance` does it."""

    def _stale(self, stream: VendorStream) -> bool:
        # A later round was begun by an instance with another file.
        later = self._numbers.get(stream.name, 0) > stream.progress.round
        return stream.stale() or later

    def _write_again(self, stream: VendorStream) -> bool:
        self._make_topics(stream)
        self.confirm()
        # The time, so that a number never comes again, even if all files and words are lost.
        before = max(self._numbers.get(stream.name, 0), stream.progress.round)
        number = self._numbers[stream.name] = max(int(time.time()), before + 1)
        above = tuple(sorted(orgs_above(self._view, stream.applied.agreement)))
        led = Round(stream.name, stream.applied.edition, number, RoundStage.STOP, above)
        with self.batch():
            self._outbox.forget(stream.name, deletions=False)
            stream.write_again({}, led)
        return True

    def _has_file(self, shard: int, id_: str) -> None:
        """Note the file of a shard. With another one, the shard does not know all."""
        con = self._view.con
        known = con.execute("SELECT id FROM shard_file WHERE number = ?", [shard]).fetchone()
        if known is not None and known[0] != id_:
            self._lose(shard)
        con.execute("INSERT OR REPLACE INTO shard_file VALUES (?, ?)", [shard, id_])

    def _lose(self, shard: int | None = None) -> None:
        """Begin new rounds of all agreements, because a shard does not know all; None: any."""
        self._news = True
        self._view.con.execute(
            "UPDATE shard SET stage = ? WHERE number = ifnull(?, number)",
            [RoundStage.LOST.value, shard],
        )

    def _stages(self, stream: VendorStream) -> list[RoundStage]:
        """Return how far the shards of students are that have said something in this round."""
        rows = self._view.con.execute(
            "SELECT stage FROM shard WHERE agreement = ? AND round = ? AND edition = ?",
            [stream.name, stream.progress.round, stream.progress.fingerprint],
        )
        return [RoundStage(stage) for (stage,) in rows]

    def _all(self, stages: Collection[RoundStage], *wanted: RoundStage) -> bool:
        return sum(stage in wanted for stage in stages) == self._others


def _stage(at: StreamProgress) -> RoundStage:
    if at.written:
        return RoundStage.WHOLE
    return RoundStage.STOP if at.stopped else RoundStage.WRITE
