"""The work of the shards, when several instances share it (`bus.vendors.shard`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

from confluent_kafka import Message

from bus.delivery import Position
from bus.kafka import topics
from bus.kafka.reader import Reader, position
from bus.vendors.asking import Asking
from bus.vendors.common_words import NOT_READ, CommonWords, said
from bus.vendors.district_reader import DistrictBatch, DistrictReader
from bus.vendors.instance_turn import ShardTurn, Turn
from bus.vendors.outbox import Outbox
from bus.vendors.projection_run import Run
from bus.vendors.projection_work import Work
from bus.vendors.scope import OPT_OUT
from bus.vendors.shard import Shard
from bus.vendors.shard_streams import CommonStreams, StudentStreams
from bus.vendors.shard_talk import CommonTalk, StudentTalk, WordSender
from bus.vendors.shard_words import (
    Disclosed,
    GivenUp,
    Seen,
    ShardFile,
    Word,
    decoded,
)

NOTICE_SECONDS = 30.0
"""Seconds after which each shard has noticed that an agreement does not hold any more."""


class ShardWork(Work):
    """What all shards have in common. They work until they are stopped.

    there: whether this instance still has the shard, as far as it can know.
    """

    def __init__(self, run: Run, shard: Shard, there: Callable[[], bool]) -> None:
        super().__init__(run, shard)
        self._there = there

    def _take_turn(self) -> Turn:
        return ShardTurn(self._settings, self._there)

    def _finished(self) -> bool:
        self.done = self._all_done()
        return False

    def _sender(self) -> WordSender:
        sender = WordSender(self._settings, self._shard.number)
        self._closing.append(sender.close)
        return sender


class StudentWork(ShardWork):
    """The work of a shard of students."""

    streams_type = StudentStreams
    _streams: StudentStreams

    def _outbox(self) -> Outbox:
        place = Position(topics.vendor_shards(self._settings), 0)
        reached = self._view.places().get(place)
        self._words = CommonWords(self._settings, self._shard.number, reached)
        if reached is None:
            self._view.reach({place: self._words.given_up()[1]})
        self._closing.append(self._words.close)
        self._talk = StudentTalk(self._sender(), self._words, self._stopping.is_set)
        asking = Asking(self._view.con, self._talk)
        return Outbox(self._settings, self._view, self._talk, asking)

    def _join(self) -> None:
        self._closing.append(self._words.end)  # the outbox may wait for the common shard
        self._talk.say([ShardFile(self._view.id)])
        self._streams.listen(self._words, self._talk)

    def _heed(self) -> None:
        super()._heed()
        if self._words.changed():
            self._follow(new=self.worked)
            if self.worked:  # what must be sent again at the end of a round
                self._streams.begin_sending()

    def _go_on(self) -> None:
        super()._go_on()
        given_up, reached = self._words.given_up()
        if given_up:
            with self._streams.batch():
                self._view.reach({self._words.place: reached})
                self._streams.send_again({(one.kind, one.id) for one in given_up})
            self._streams.begin_sending()
        self._streams.tell()

    def _all_done(self) -> bool:
        return super()._all_done() and not self._words.behind()

    def _plan_ends(self) -> None:
        """Read the agreements again; the common shard ends them."""
        self._read_agreements()
        self._follow(new=True)


class CommonWork(ShardWork):
    """The work of the common shard."""

    streams_type = CommonStreams
    _streams: CommonStreams
    _ends_since = math.inf  # since when agreements wait for their ends

    def _read(self) -> DistrictReader:
        settings = self._settings
        first = topics.topic(settings, OPT_OUT)
        self._topic = topics.vendor_shards(settings)
        begun = {Position(self._topic, number + 1): 0 for number in range(self._shard.of)}
        self._said = said(settings)
        for word in self._said:
            if isinstance(word, Seen):
                begun[Position(self._topic, word.shard)] = word.next
        places = self._view.places()
        begun |= {place: places[place] for place in begun.keys() & places.keys()}
        # A kill may have come before it was said what has been done.
        self._to_say = {place.partition: at for place, at in begun.items()}
        self._hold: dict[Position, int] = {}
        with Reader(settings, NOT_READ) as reader:
            marks = reader.marks(begun)
        self._missed = any(at < marks[place][0] for place, at in begun.items())
        return DistrictReader(settings, self._changes.kinds, first, places, self._shard, begun)

    def _outbox(self) -> Outbox:
        self._words = self._sender()
        asking = Asking(self._view.con, CommonTalk(self._words), waits=False)
        return Outbox(self._settings, self._view, self._record, asking)

    def _join(self) -> None:
        self._streams.lead(self._words, self._shard.of, self._said, missed=self._missed)

    def _take(self, batch: DistrictBatch) -> None:
        """Commit a batch of the district's messages and of what other shards say."""
        words, rest = self._split(batch.messages)
        students = [word for _, word in words if isinstance(word, Disclosed)]
        if students:
            self._streams.confirm()  # the record of disclosures is free then
        self._words.say([word for _, word in words if isinstance(word, GivenUp)])
        for (name, entered), some in groupby(students, lambda one: (one.agreement, one.entered)):
            group = list(some)
            note = self._record.entered if entered else self._record.left
            note(name, [one for word in group for one in word.students], group[0].at)
        if batch.messages:
            with self._streams.batch():
                self._view.reach(batch.reached)
                changes = self._changed(DistrictBatch(rest, {}))
                self._streams.take(changes, self._day)
                missing = self._streams.heard(words)
            if missing:
                # The record may be in the topics already, and only be read later than the record
                # that refers to it.
                self._hold |= {
                    place: end
                    for place, end in self._reader.ends().items()
                    if place.topic != self._topic
                }
        self._reader.stored(batch.reached)
        self._to_say |= {
            place.partition: at for place, at in batch.reached.items() if place.topic == self._topic
        }

    def _split(self, messages: Sequence[Message]) -> tuple[list[tuple[int, Word]], list[Message]]:
        """Return what the shards of students say, and the messages of the district."""
        words: list[tuple[int, Word]] = []
        rest = []
        for message in messages:
            if message.topic() != self._topic:
                rest.append(message)
            elif (word := decoded(message.key(), message.value())) is not None:
                words.append((position(message).partition, word))
        return words, rest

    def _go_on(self) -> None:
        super()._go_on()
        self._say_seen()
        self._streams.advance()

    def _may_end(self) -> bool:
        """Return whether all shards have had time to notice that agreements do not hold."""
        if not self._ends.waiting:
            self._ends_since = math.inf
        elif self._ends_since == math.inf:
            self._ends_since = self._clock()
        return self._clock() - self._ends_since >= NOTICE_SECONDS

    def _say_seen(self) -> None:
        """Tell the shards of students what has been done of what they asked for."""
        if self._to_say and not self._reader.behind(self._hold):
            self._streams.begin_sending()
            self._streams.confirm()
            self._words.say([Seen(*one) for one in self._to_say.items()])
            self._to_say, self._hold = {}, {}

    def _all_done(self) -> bool:
        if self._to_say or not super()._all_done():
            return False
        return not self._reader.behind(self._reader.ends())
