"""The streams of all agreements in one shard, when several shards write them (`bus.vendors.shard`).

The common shard leads the rounds in which topics are written whole, and the shards of students
follow (`bus.vendors.shard_words`). A shard decides by what is in its file and by the last words of
the others. So after a kill, it says its last word again, and goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import date

import structlog

from bus.kafka import topics
from bus.kafka.reader import scan
from bus.vendors.agreement_streams import AgreementStreams
from bus.vendors.applied import Applied
from bus.vendors.district_view import Key
from bus.vendors.record_rules import orgs_above
from bus.vendors.shard_talk import CommonWords, StudentTalk
from bus.vendors.shard_words import Asked, Disclosed, Round, RoundStage, Word, WordSender, decoded
from bus.vendors.stream_progress import StreamProgress
from bus.vendors.vendor_stream import VendorStream

log = structlog.get_logger(__name__)


class StudentStreams(AgreementStreams):
    """The streams in a shard of students. `listen` comes before anything else."""

    def listen(self, words: CommonWords, talk: StudentTalk) -> None:
        """Follow what the common shard says, and answer it."""
        self._words = words
        self._talk = talk
        self._told: dict[str, tuple[int, RoundStage]] = {}  # the last word about each agreement
        self._paused: dict[str, str] = {}  # agreements whose next round has not begun
        self._waiting: set[str] = set()

    @property
    def unfinished(self) -> bool:
        """Whether the topics of an agreement are not written whole."""
        return bool(self._waiting) or super().unfinished

    @property
    def busy(self) -> bool:
        """Whether `go_on` has something to do now."""
        return any(stream.progress.busy for stream in self._streams.values())

    def follow(self, applied: Mapping[str, Applied], day: date, *, new: bool) -> None:
        """Follow the agreements, and the rounds of the common shard."""
        self._waiting = set()
        self._talk.rounds = {name: stream.progress.round for name, stream in self._streams.items()}
        super().follow(applied, day, new=new)
        for name in self._paused.keys() - self._waiting:
            del self._paused[name]
        for stream in self._streams.values():
            self._move_on(stream)

    def tell(self) -> None:
        """Tell the common shard which topics have been written, as far as this shard goes."""
        for stream in self._streams.values():
            at = stream.progress
            if at.stopped:
                self._say(stream, RoundStage.STOPPED)
            elif at.reached is None and at.checked is None and not at.written:
                self._say(stream, RoundStage.WHOLE)

    def send_again(self, keys: Collection[Key]) -> None:
        """Add the present states of records, within a batch."""
        for stream in self._streams.values():
            self._add(stream.send_again(keys, self._outbox))

    def _active(self) -> dict[str, str]:
        return self._paused | super()._active()

    def _finish(self) -> None:
        self.tell()

    def _stale(self, stream: VendorStream) -> bool:
        led = self._words.round(stream.name)
        at = stream.progress
        return (
            stream.stale() or led is None or (led.edition, led.number) != (at.fingerprint, at.round)
        )

    def _write_again(self, stream: VendorStream) -> bool:
        name, at = stream.name, stream.progress
        led = self._words.round(name)
        if led is None or led.edition != stream.applied.edition or led.stage is not RoundStage.STOP:
            self._waiting.add(name)
            self._paused.setdefault(name, at.fingerprint)
            self.confirm()
            with self.batch():
                self._outbox.forget(name, deletions=False)
            if led is not None and led.edition == stream.applied.edition:
                # The others have written in this round already, and this shard knows nothing of it.
                self._say(stream, RoundStage.LOST, led)
            return False
        self.confirm()
        with self.batch():
            self._outbox.forget(name, deletions=False)
            self._outbox.forget_entered(name)
            stream.write_again({}, led)
        self._talk.rounds[name] = led.number
        self._say(stream, RoundStage.STOPPED)
        return True

    def _move_on(self, stream: VendorStream) -> None:
        """Follow the common shard's round."""
        led, at = self._words.round(stream.name), stream.progress
        self._talk.rounds[stream.name] = at.round
        if led is None or led.number != at.round:
            return
        if at.stopped and led.stage is not RoundStage.STOP:
            with self.batch():
                stream.may_write({})
        if not at.written and at.reached is None and led.stage is RoundStage.WHOLE:
            with self.batch():
                stream.finished()

    def _say(self, stream: VendorStream, stage: RoundStage, led: Round | None = None) -> None:
        """Say how far a stream is, unless that was the last word about it."""
        number = led.number if led else stream.progress.round
        if self._told.get(stream.name) != (number, stage):
            self.confirm()
            self._talk.say([Round(stream.name, stream.applied.edition, number, stage)])
            self._told[stream.name] = number, stage


class CommonStreams(AgreementStreams):
    """The streams in the common shard. `lead` comes before anything else."""

    def lead(self, sender: WordSender, others: int) -> None:
        """Lead the rounds.

        others: how many shards of students there are.
        """
        self._sender = sender
        self._others = others
        self._numbers: dict[str, int] = {}  # the last round of each agreement
        self._told: dict[str, tuple[int, RoundStage]] = {}
        self._news = True  # whether there may be something to say although all is written
        topic = topics.vendor_shards(self._settings)
        for message in scan(self._settings, topic, stop={0: _END}):
            word = decoded(message.key(), message.value())
            if isinstance(word, Round):
                self._numbers[word.agreement] = word.number

    @property
    def busy(self) -> bool:
        """Whether `go_on` has something to do now: `advance` does everything."""
        return False

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
        missing: list[Key] = []
        for shard, word in words:
            stream = self._streams.get(getattr(word, "agreement", ""))
            match word:
                case Round():
                    self._news = True
                    self._view.con.execute(
                        "INSERT OR REPLACE INTO shard VALUES (?, ?, ?, ?, ?)",
                        [word.agreement, shard, word.edition, word.number, word.stage.value],
                    )
                case Asked() if stream is not None and word.round == stream.progress.round:
                    asked[word.agreement].append((shard, word))
                case Disclosed() if stream is not None and word.round == stream.progress.round:
                    stream.disclosed(word.students, entered=word.entered)
        for name, some in asked.items():
            messages, new = self._streams[name].asked(some, self._outbox)
            self._add(messages)
            missing += new
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
                    "a shard has lost its file; all is written again", agreement=stream.name
                )
                self._write_again(stream)
                continue
            if at.stopped and self._all(stages, RoundStage.STOPPED, RoundStage.WHOLE):
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

    def next_day(self, active: Collection[str], day: date) -> None:
        """Do what follows from the date, and say all rounds again: Kafka forgets old words."""
        super().next_day(active, day)
        self._told, self._news = {}, True

    def tell(self) -> None:
        """Say how far each round is, unless that was the last word about it."""
        words: list[Word] = []
        for name, stream in self._streams.items():
            at = stream.progress
            said = at.round, _stage(at)
            if self._told.get(name) != said:
                self._told[name] = said
                words.append(Round(name, at.fingerprint, *said, tuple(at.above)))
        self._sender.say(words)

    def _finish(self) -> None:
        """`advance` does it."""

    def _write_again(self, stream: VendorStream) -> bool:
        self._make_topics(stream)
        self.confirm()
        number = 1 + max(self._numbers.get(stream.name, 0), stream.progress.round)
        self._numbers[stream.name] = number
        above = tuple(sorted(orgs_above(self._view, stream.applied.agreement)))
        led = Round(stream.name, stream.applied.edition, number, RoundStage.STOP, above)
        with self.batch():
            self._outbox.forget(stream.name, deletions=False)
            stream.write_again({}, led)
        return True

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


_END = 2**62
