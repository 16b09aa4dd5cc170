"""Shards write a vendor's topics in rounds. Every round ends well, whatever happens to a shard.

A shard may be killed, may lose its file, or may find that the agreement has changed.

Kafka is a list here. Everything else is the real thing, but for the loop around it
(`bus.vendors.shard_work`), which `Common.step` and `Students.step` imitate.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.delivery import Position
from bus.errors import RetryLater
from bus.settings import KafkaSettings, Settings
from bus.standard.kinds import KINDS, Record
from bus.vendors import outbox
from bus.vendors.agreement import Agreement
from bus.vendors.asking import Asking
from bus.vendors.district_view import DistrictView, student_of
from bus.vendors.outbox import Outbox
from bus.vendors.record_rules import Change
from bus.vendors.scope import compile_scope
from bus.vendors.shard import Shard
from bus.vendors.shard_streams import CommonStreams, StudentStreams
from bus.vendors.shard_talk import StudentTalk
from bus.vendors.shard_words import Disclosed, Round, RoundStage, Seen, Word
from tests.unit.test_vendor_projection import (
    CHANGE,
    DAY,
    SCHOOLS,
    SOME,
    agreement,
    opt_out,
    record,
)
from tests.unit.test_vendor_shards import NUMBER, part_of
from tests.vendor_checker import District
from tests.without_services import applied, without_services

PLACE = Position("schoolbus.vendor.math.all", 0)
DEALS = [
    agreement(students={"leave_after": 0}),
    agreement(students={"leave_after": 0}, share={"categories": ["Student Name"]}, roles=[]),
    agreement(students={"leave_after": 0, "schools": ["s1"]}),
    agreement(students={"leave_after": 0, "grades": ["06"]}, roles=["guardian"]),
]


class Killed(BaseException):
    """A shard was killed at this point."""


class Kafka:
    """The vendor's messages, what the shards say, and the district's changes.

    log:     kind, id and record of each message to the vendor.
    low:     the first of them that was not deleted.
    words:   for each shard, what it has said.
    changes: kind, id, owner's partition, and the state before and after.
    inside:  the students who are in the agreement, as the record of disclosures says.
    kill_in: the shard that works now is killed after so many messages and words; None: it is not.
    """

    def __init__(self) -> None:
        self.log: list[tuple[str, str, Record | None]] = []
        self.low = 0
        self.words: list[list[Word]] = [[] for _ in range(NUMBER + 1)]
        self.changes: list[tuple[Change, int]] = []
        self.inside: set[str] = set()
        self.kill_in: int | None = None
        self.district = District()

    def survive(self) -> None:
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in < 0:
                raise Killed

    def send(self, topic: str, value: bytes | None, key: str) -> None:
        self.survive()
        kind = topic.rpartition(".")[2]
        self.log.append((kind, key, pickle.loads(value) if value else None))
        if value and kind == "student":
            assert key in self.inside, "the record of disclosures names a student first"

    def readable(self) -> list[tuple[str, str, Record | None]]:
        return self.log[self.low :]

    def states(self) -> dict[tuple[str, str], Record]:
        found: dict[tuple[str, str], Record | None] = {}
        for kind, id_, one in self.readable():
            found[kind, id_] = one
        return {key: one for key, one in found.items() if one is not None}

    def change(self, kind: str, id_: str, after: Record | None) -> None:
        before, owner = self.district.records.get((kind, id_)), KINDS[kind].owner
        one = after or before
        if one is None or (before and after and part_of(before[owner]) != part_of(after[owner])):
            return  # a record in two partitions: see test_vendor_moved_records.py
        self.changes.append((Change(kind, id_, before, after), part_of(one[owner])))
        if after is None:
            del self.district.records[kind, id_]
        else:
            self.district.records[kind, id_] = after


class Producer:
    """The outbox's producer."""

    kafka: Kafka

    def __init__(self, _: dict[str, Any]) -> None:
        """Do nothing."""

    def produce(self, topic: str, value: bytes | None, key: str, _: int, **__: Any) -> None:
        self.kafka.send(topic, value, key)

    def poll(self, _: float) -> None:
        """Do nothing."""

    def flush(self, _: float) -> int:
        return 0

    def purge(self) -> None:
        """Do nothing."""


class AtOnce:
    """Does the work of the outbox's thread at once, in the same thread."""

    def __init__(self, *_: object) -> None:
        """Do nothing."""

    def submit(self, work: Callable[..., int], *arguments: Any, **more: Any) -> Future[int]:
        found: Future[int] = Future()
        try:
            found.set_result(work(*arguments, **more))
        except BaseException as error:
            found.set_exception(error)
        return found

    def shutdown(self) -> None:
        """Do nothing."""


class Sender:
    """Says the words of a shard."""

    def __init__(self, kafka: Kafka, number: int) -> None:
        self._kafka, self._number = kafka, number

    def say(self, words: Sequence[Word]) -> int:
        for word in words:
            self._kafka.survive()
            self._kafka.words[self._number].append(word)
        return len(self._kafka.words[self._number])


class CommonWords:
    """What the common shard has said, as a shard of students reads it."""

    def __init__(self, world: World, number: int) -> None:
        self._world, self._number = world, number
        self._read = 0

    def round(self, name: str) -> Round | None:
        found = None
        for word in self._world.kafka.words[0]:
            if isinstance(word, Round) and word.agreement == name:
                found = word
        return found

    def changed(self) -> bool:
        before, self._read = self._read, len(self._world.kafka.words[0])
        return self._read > before

    def wait(self, offset: int, _: object) -> None:
        """Let the common shard work, as it does in a thread or an instance of its own."""
        kafka = self._world.kafka
        rest, kafka.kill_in = kafka.kill_in, None
        self._world.common.step()
        kafka.kill_in = rest
        seen = [one for one in kafka.words[0] if isinstance(one, Seen)]
        assert max(one.next for one in seen if one.shard == self._number) >= offset


class Process:
    """A shard: its file, and what it has in memory."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.shard = world, Shard(number, NUMBER)
        self.settings = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))
        self.lose_file()

    def lose_file(self) -> None:
        self.view = DistrictView(None, "test", lambda _, value: pickle.loads(value))
        self.read = 0
        self.start()

    def start(self) -> None:
        """Start, again after a kill, with what is in the file."""
        self.view.rollback()
        self.deal: Agreement | None = None
        self.ready = False

    def take(self) -> None:
        """Store the changes that are new in this shard, and what follows from them."""
        new, self.read = self.world.kafka.changes[self.read :], len(self.world.kafka.changes)
        changes: dict[tuple[str, str], Change] = {}
        for one, part in new:
            if not self.shard.reads(one.kind, part):
                continue
            after = one.after
            if after and not self.shard.keeps(student_of(one.kind, after), one.kind):
                after = None
            before = self.view.get(one.kind, one.id)
            changes[one.kind, one.id] = Change(one.kind, one.id, before, after)
        self.view.store(
            (kind, id_, one.after, pickle.dumps(one.after) if one.after else None)
            for (kind, id_), one in changes.items()
        )
        some = [one for one in changes.values() if one.before != one.after]
        self.streams.take(some, DAY)

    @contextmanager
    def batch(self) -> Iterator[None]:
        read = self.read
        try:
            with self.streams.batch():
                yield
        except BaseException:
            self.read = read
            raise

    def follow(self, *, new: bool) -> None:
        self.deal = self.world.deal
        self.streams.follow({"math": applied(self.deal)}, DAY, new=new)

    def begin(self) -> None:
        """Read everything, and only then send."""
        self.follow(new=False)
        with self.batch():
            self.take()
        self.follow(new=True)
        self.streams.next_day(["math"], DAY)
        self.streams.begin_sending()
        self.ready = True

    streams: Any

    def step(self) -> None:
        raise NotImplementedError


class Students(Process):
    def start(self) -> None:
        super().start()
        self.words = CommonWords(self.world, self.shard.number)
        sender: Any = Sender(self.world.kafka, self.shard.number)
        words: Any = self.words
        talk = StudentTalk(sender, words, lambda: False)
        box = Outbox(self.settings, self.view, talk, Asking(self.view.con, talk))
        self.streams = StudentStreams(
            self.settings, self.view, box, MagicMock(), 1, lambda: 0.0, self.shard
        )
        self.streams.listen(words, talk)

    def step(self) -> None:
        if not self.ready:
            self.begin()
        if self.words.changed() or self.deal is not self.world.deal:
            self.follow(new=True)
            self.streams.begin_sending()
        if self.streams.busy:
            self.streams.go_on(DAY)
        if self.read < len(self.world.kafka.changes):
            with self.batch():
                self.take()
            self.streams.begin_sending()
        self.streams.confirm()
        self.streams.tell()


class Common(Process):
    def lose_file(self) -> None:
        self.heard = [0] * (NUMBER + 1)
        for word in self.world.kafka.words[0]:
            if isinstance(word, Seen):
                self.heard[word.shard] = word.next
        super().lose_file()

    def start(self) -> None:
        super().start()
        record = MagicMock()
        record.students.return_value = {}
        box = Outbox(self.settings, self.view, self)
        self.streams = CommonStreams(
            self.settings, self.view, box, record, 1, lambda: 0.0, self.shard
        )
        sender: Any = Sender(self.world.kafka, 0)
        self.sender = sender
        self.streams.lead(sender, NUMBER, self.world.kafka.words[0])

    def entered(self, _: str, students: Sequence[str], __: datetime) -> None:
        self.world.kafka.inside |= set(students)

    def left(self, _: str, students: Sequence[str], __: datetime) -> None:
        self.world.kafka.inside -= set(students)

    def step(self) -> None:
        if not self.ready:
            self.begin()
        if self.deal is not self.world.deal:
            self.follow(new=True)
        kafka, heard = self.world.kafka, list(self.heard)
        words = []
        for number in range(1, NUMBER + 1):
            words += [(number, one) for one in kafka.words[number][heard[number] :]]
            heard[number] = len(kafka.words[number])
        for _, word in words:
            if isinstance(word, Disclosed):
                (self.entered if word.entered else self.left)("math", word.students, word.at)
        with self.batch():
            self.take()
            self.streams.heard(words)
        self.heard = heard  # in the same transaction
        self.streams.begin_sending()
        self.streams.confirm()
        self.sender.say([Seen(number, heard[number]) for number in range(1, NUMBER + 1)])
        self.streams.advance()


class World:
    """A district with one vendor, and three shards."""

    def __init__(self) -> None:
        self.kafka = Producer.kafka = Kafka()
        self.deal = DEALS[0]
        self.common = Common(self, 0)
        self.shards: list[Process] = [
            self.common,
            *(Students(self, number) for number in range(1, NUMBER + 1)),
        ]
        for kind, id_, values in SOME:
            self.kafka.change(kind, id_, record(kind, id_, **values))

    def step(self, number: int, kill_in: int | None = None) -> None:
        """Let a shard work once; it is killed after so many messages and words."""
        self.kafka.kill_in = kill_in
        try:
            self.shards[number].step()
        except Killed:
            self.shards[number].start()
        finally:
            self.kafka.kill_in = None

    def settle(self) -> None:
        """Let all shards work until nothing is left to do."""
        for _ in range(12):
            for number in (1, 2, 0):
                self.step(number)
        assert not any(one.streams.unfinished for one in self.shards), "the round does not end"

    def check(self) -> None:
        """Check all that the vendor can read."""
        assert self.kafka.states() == self.kafka.district.expected(self.deal, DAY)
        scope = compile_scope(self.deal)
        for kind, _, one in self.kafka.readable():
            if one is not None:
                assert kind in scope.kinds, "a kind of an earlier edition"
                assert set(one) == set(scope.kinds[kind].fields), "a field of an earlier edition"
        students = {id_ for kind, id_ in self.kafka.states() if kind == "student"}
        assert students == self.kafka.inside


@pytest.fixture(autouse=True, scope="module")
def no_kafka() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        without_services(
            patch,
            Producer,
            ends=lambda *_: {PLACE: len(Producer.kafka.log)},
            not_written_again=not_written_again,
            delete=delete,
            inside=lambda *_: set(Producer.kafka.inside),
        )
        patch.setattr(outbox, "ThreadPoolExecutor", AtOnce)
        yield


def not_written_again(_: Settings, old: dict[Position, int]) -> list[tuple[Position, bytes]]:
    if not old:
        return []
    kafka = Producer.kafka
    new = {(kind, id_) for kind, id_, _ in kafka.log[old[PLACE] :]}
    before = dict.fromkeys((kind, id_) for kind, id_, _ in kafka.log[kafka.low : old[PLACE]])
    return [
        (Position(f"schoolbus.vendor.math.{kind}", 0), id_.encode())
        for kind, id_ in before
        if (kind, id_) not in new
    ]


def delete(_: Settings, old: dict[Position, int]) -> None:
    if old:
        Producer.kafka.low = max(Producer.kafka.low, old[PLACE])


# ---- tests ---------------------------------------------------------------------------------------


def test_shards_write_the_topics_of_a_new_agreement_together() -> None:
    world = World()
    world.settle()
    world.check()
    assert world.kafka.states()


def test_a_field_that_is_taken_out_is_gone_at_the_end_of_the_round() -> None:
    world = World()
    world.settle()
    world.deal = DEALS[1]
    world.settle()
    world.check()


@pytest.mark.parametrize("number", range(NUMBER + 1))
@pytest.mark.parametrize("steps", range(5))
def test_a_shard_that_loses_its_file_begins_a_new_round(number: int, steps: int) -> None:
    """In each stage of a round."""
    world = World()
    world.settle()
    world.deal = DEALS[2]
    for step in range(steps):
        world.step((0, 1, 2)[step % 3])
    world.shards[number].lose_file()
    world.settle()
    world.check()


def test_while_one_shard_is_away_another_one_deletes_a_student_with_an_opt_out() -> None:
    world = World()
    world.settle()
    world.deal = DEALS[1]
    world.step(0)
    mine = 1 + part_of("a") % NUMBER
    world.step(mine)
    world.kafka.change("optOut", "o", opt_out("a"))
    at = len(world.kafka.log)
    world.step(mine)
    world.step(mine)
    assert ("student", "a", None) in world.kafka.log[at:]
    assert [one for _, _, one in world.kafka.log[at:] if one is not None] == []


def test_a_deletion_that_was_not_sent_is_sent_although_the_next_round_has_not_begun() -> None:
    world = World()
    world.settle()
    mine = 1 + part_of("a") % NUMBER
    world.kafka.change("optOut", "o", opt_out("a"))
    world.step(mine, kill_in=0)
    world.deal = DEALS[1]
    at = len(world.kafka.log)
    world.step(mine)
    assert ("student", "a", None) in world.kafka.log[at:]


def test_who_entered_in_an_earlier_round_is_recorded_as_left() -> None:
    """A shard said that a student enters, and was killed; then the agreement excluded the student.

    The common shard reads what the shard has said only when the next round has begun.
    """
    world = World()
    world.settle()
    new = record("student", "z", orgSourcedIds=["s1"], grades=["07"], agentSourcedIds=[])
    world.kafka.change("student", "z", new)
    world.step(1 + part_of("z") % NUMBER, kill_in=1)
    world.deal = DEALS[3]
    world.step(0)
    assert "z" in world.kafka.inside
    world.settle()
    world.check()


def test_a_round_does_not_begin_before_all_shards_have_stopped() -> None:
    world = World()
    world.settle()
    world.deal = DEALS[1]
    for _ in range(5):
        world.step(0)
        world.step(1)
    said = [one for one in world.kafka.words[0] if isinstance(one, Round)]
    assert said[-1].stage is RoundStage.STOP


ACTIONS = st.one_of(
    st.tuples(st.just("step"), st.integers(0, NUMBER), st.none() | st.integers(0, 12)),
    st.tuples(st.just("step"), st.integers(0, NUMBER), st.none() | st.integers(0, 12)),
    st.tuples(st.just("change"), st.lists(CHANGE, min_size=1, max_size=5)),
    st.tuples(st.just("agree"), st.sampled_from(DEALS)),
    st.tuples(st.just("lose"), st.integers(0, NUMBER)),
)


@settings(deadline=None)
@given(st.lists(ACTIONS, max_size=25))
def test_whatever_happens_the_vendor_has_what_it_may_have(
    actions: list[tuple[Any, ...]],
) -> None:
    world = World()
    for school in SCHOOLS:
        world.kafka.change("org", school, record("org", school, parentSourcedId="d"))
    world.settle()
    for what, *more in actions:
        if what == "step":
            try:
                world.step(*more)
            except RetryLater:
                world.shards[more[0]].start()
        elif what == "change":
            for one in more[0]:
                world.kafka.change(*one)
        elif what == "agree":
            (world.deal,) = more
        else:
            world.shards[more[0]].lose_file()
    world.settle()
    world.check()
