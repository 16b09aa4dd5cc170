"""Races between shards, kills at bad moments, and files on two machines.

There is one shard of students here, and the common shard. Kafka is a dict.
"""

from __future__ import annotations

import json
import pickle
import threading
import time
from datetime import datetime
from typing import Any, ClassVar
from unittest.mock import MagicMock

import pytest

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka import topics
from bus.settings import KafkaSettings, Settings, VendorsSettings
from bus.standard.kinds import Record
from bus.vendors import (
    agreement_streams,
    outbox,
    shard_group,
    shard_number,
    shard_work,
    vendor_stream,
)
from bus.vendors.asking import Asking, NotAnswered
from bus.vendors.district_view import DistrictView, student_of
from bus.vendors.outbox import Outbox
from bus.vendors.projection_run import Run
from bus.vendors.record_rules import Change
from bus.vendors.shard import Shard
from bus.vendors.shard_streams import CommonStreams, StudentStreams
from bus.vendors.shard_talk import CommonTalk
from bus.vendors.shard_words import (
    Asked,
    GivenUp,
    Round,
    Seen,
    ShardFile,
    Word,
    disclosed,
    encoded,
)
from tests.unit.test_vendor_outbox import NoKafka
from tests.unit.test_vendor_projection import DAY, SOME, agreement, opt_out, record
from tests.unit.test_vendor_rewriting import Encoder, applied

LOG: dict[str, list[tuple[str, Record | None]]] = {}
"""What Kafka got for the vendor: for each topic, the keys and the records, in order.

Each topic has one partition.
"""
LOW: dict[str, int] = {}
"""The first offset of each topic that was not deleted."""


class OneKafka(NoKafka):
    """All producers write to the same topics."""

    def produce(self, topic: str, value: Any, key: str, partition: int, **more: Any) -> None:
        LOG.setdefault(topic, []).append((key, pickle.loads(value) if value else None))


def ends(_: object, names: Any) -> dict[Position, int]:
    return {Position(name, 0): len(LOG.get(name, ())) for name in names}


def not_written_again(_: object, old: Any) -> list[tuple[Position, bytes]]:
    found = []
    for place, end in old.items():
        keys = [key for key, _ in LOG.get(place.topic, ())]
        before = keys[LOW.get(place.topic, 0) : end]
        found += [(place, key.encode()) for key in dict.fromkeys(before) if key not in keys[end:]]
    return found


def delete(_: object, old: Any) -> None:
    for place, end in old.items():
        LOW[place.topic] = max(end, LOW.get(place.topic, 0))


class Words:
    """What the common shard has said, for a shard of students."""

    def __init__(self) -> None:
        self.rounds: dict[str, Round] = {}

    def round(self, name: str) -> Round | None:
        return self.rounds.get(name)


class Talk:
    """What shards of students have said and the common shard has not heard."""

    said: ClassVar[list[tuple[int, Word]]] = []

    def __init__(self, number: int) -> None:
        self.rounds: dict[str, int] = {}
        self._number = number

    def entered(self, name: str, students: Any, at: datetime) -> None:
        self.say(list(disclosed(name, self.rounds.get(name, 0), students, at, entered=True)))

    def left(self, name: str, students: Any, at: datetime) -> None:
        self.say(list(disclosed(name, self.rounds.get(name, 0), students, at, entered=False)))

    def say(self, words: Any) -> None:
        self.said += [(self._number, word) for word in words]

    ask = say

    def asked(self) -> int:
        return 0

    def wait(self, _: int) -> None:
        """The test lets the common shard hear."""


SETTINGS = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"), vendors=VendorsSettings(shards=2))


def new_view() -> DistrictView:
    return DistrictView(None, "test", lambda _, value: pickle.loads(value))


class OneShard:
    """A shard, with its file."""

    def __init__(self, number: int, view: DistrictView | None = None) -> None:
        self.shard = Shard(number, 1)
        self.view = view or new_view()

    def store(self, changes: list[Change]) -> list[Change]:
        found = []
        for one in changes:
            if not self.shard.reads(one.kind, 0):
                continue
            states = [
                state
                if state is not None and self.shard.keeps(student_of(one.kind, state), one.kind)
                else None
                for state in (one.before, one.after)
            ]
            if states[0] != states[1]:
                found.append(Change(one.kind, one.id, *states))
        self.view.store(
            (one.kind, one.id, one.after, pickle.dumps(one.after) if one.after else None)
            for one in found
        )
        return found

    def change(self, changes: list[Change], *, send: bool = True) -> None:
        with self.streams.batch():
            self.streams.take(self.store(changes), DAY)
        if send:
            self.streams.begin_sending()
            self.streams.confirm()


class Students(OneShard):
    streams: StudentStreams

    def __init__(self, view: DistrictView | None = None) -> None:
        super().__init__(1, view)
        self.words = Words()
        self.start()

    def start(self) -> None:
        self.talk = Talk(1)
        self.outbox = Outbox(SETTINGS, self.view, self.talk, Asking(self.view.con, self.talk))
        args: Any = (SETTINGS, self.view, self.outbox, MagicMock(), 1, lambda: 0.0, self.shard)
        self.streams = StudentStreams(*args)
        words: Any = self.words
        talk: Any = self.talk
        talk.say([ShardFile(self.view.id)])
        self.streams.listen(words, talk)

    def repeat(self, given_up: set[tuple[str, str]]) -> None:
        """Send the records again that another shard gave up (`StudentWork._go_on`)."""
        if given_up:
            with self.streams.batch():
                self.streams.send_again(given_up)
            self.streams.begin_sending()
            self.streams.confirm()


class Common(OneShard):
    streams: CommonStreams

    def __init__(self, said: list[Word], view: DistrictView | None = None) -> None:
        super().__init__(0, view)
        self.said = said
        self.start()

    def start(self) -> None:
        record = MagicMock(**{"students.return_value": {}})
        sender: Any = MagicMock()
        sender.say = self.said.extend
        asking = Asking(self.view.con, CommonTalk(sender), waits=False)
        self.outbox = Outbox(SETTINGS, self.view, record, asking)
        args: Any = (SETTINGS, self.view, self.outbox, record, 1, lambda: 0.0, self.shard)
        self.streams = CommonStreams(*args)
        self.streams.lead(sender, 1, list(self.said))

    def hear(self) -> list[Word]:
        """Hear the words, send what follows, and lead on. Returns what was heard."""
        words, Talk.said[:] = list(Talk.said), []
        HEARD.extend(words)
        with self.streams.batch():
            self.streams.heard(words)
        self.streams.begin_sending()
        self.streams.confirm()
        self.streams.advance()
        return [word for _, word in words]


HEARD: list[tuple[int, Word]] = []
"""All words of shards of students that a common shard has heard."""
SAID: list[Word] = []
"""Partition 0 of the topic of words."""


class Two:
    """A common shard and one shard of students."""

    def __init__(self, **deal: Any) -> None:
        LOG.clear()
        LOW.clear()
        HEARD.clear()
        SAID.clear()
        Talk.said.clear()
        self.records: dict[tuple[str, str], Record] = {}
        self.applied = {"math": applied(agreement(**deal))}
        self.common, self.students = Common(SAID), Students()
        self.change(*((kind, id_, record(kind, id_, **values)) for kind, id_, values in SOME))
        self.common.streams.follow(self.applied, DAY, new=True)
        self.settle()

    def changes(self, *rows: tuple[str, str, Record | None]) -> list[Change]:
        found = []
        for kind, id_, after in rows:
            found.append(Change(kind, id_, self.records.get((kind, id_)), after))
            self.records.pop((kind, id_), None)
            if after is not None:
                self.records[kind, id_] = after
        return found

    def change(self, *rows: tuple[str, str, Record | None]) -> None:
        changes = self.changes(*rows)
        self.common.change(changes)
        self.students.change(changes)

    def listen(self) -> None:
        """The shard of students follows the last words of the common shard."""
        for one in SAID:
            before = self.students.words.rounds.get(getattr(one, "agreement", ""))
            if isinstance(one, Round) and (before is None or one.number >= before.number):
                self.students.words.rounds[one.agreement] = one
        self.students.streams.follow(self.applied, DAY, new=True)
        self.students.streams.begin_sending()
        self.students.repeat({(one.kind, one.id) for one in SAID if isinstance(one, GivenUp)})

    def settle(self) -> None:
        for _ in range(10):
            self.common.hear()
            self.listen()
            if self.students.streams.busy:
                self.students.streams.go_on(DAY)
            self.students.streams.confirm()
            self.students.streams.tell()
        self.common.hear()

    @property
    def has(self) -> dict[tuple[str, str], Record]:
        """What the vendor has, by kind and id."""
        last = {
            (topic.rpartition(".")[2], key): value
            for topic, some in LOG.items()
            for key, value in some[LOW.get(topic, 0) :]
        }
        return {key: value for key, value in last.items() if value is not None}


@pytest.fixture(autouse=True)
def no_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, stream = agreement_streams, vendor_stream
    monkeypatch.setattr(stream, "lookup", lambda _, __, scope: dict.fromkeys(scope.kinds, 1))
    monkeypatch.setattr(stream, "Encoder", Encoder)
    monkeypatch.setattr(stream, "vendor_schema", lambda *_: None)
    monkeypatch.setattr(stream, "unwrapped", lambda *_: bytes(range(64)))
    monkeypatch.setattr(streams.master_key, "read", lambda _: [])
    monkeypatch.setattr(streams.topics, "ensure", lambda *_: None)
    monkeypatch.setattr(streams.old_records, "ends", ends)
    monkeypatch.setattr(streams.old_records, "not_written_again", not_written_again)
    monkeypatch.setattr(streams.old_records, "delete", delete)
    monkeypatch.setattr(streams.written_editions, "note", lambda *_: None)
    monkeypatch.setattr(streams, "decoded_entries", lambda *_: [])
    monkeypatch.setattr(streams.disclosures, "entries", lambda *_: [])
    monkeypatch.setattr(streams.disclosure_questions, "inside", lambda *_: [])
    monkeypatch.setattr(outbox, "Producer", OneKafka)


def test_the_harness_works() -> None:
    two = Two()
    assert not two.common.streams.unfinished
    assert not two.students.streams.unfinished
    assert {
        ("student", "a"),
        ("student", "b"),
        ("class", "c1"),
        ("guardian", "g"),
    } <= two.has.keys()
    two.change(("optOut", "o", opt_out("a")), ("optOut", "p", opt_out("b")))
    two.settle()
    assert two.has == {}
    two.change(("optOut", "o", None))
    two.settle()
    assert ("student", "a") in two.has
    assert ("class", "c1") in two.has


# ---- 0. withdrawn records are sent again forever --------------------------------------------------


def test_a_withdrawn_record_is_not_sent_again_forever() -> None:
    """The common shard repeats `GivenUp` to all shards, also to the one that said it."""
    two = Two()
    gone = two.records["enrollment", "e1"] | {"status": "tobedeleted"}
    two.change(("enrollment", "e1", gone))
    numbers = []
    for _ in range(10):
        given_up = [word for _, word in Talk.said if isinstance(word, GivenUp)]
        two.common.hear()  # `CommonWork._take` repeats these words
        two.students.repeat({(one.kind, one.id) for one in given_up})
        numbers.append(len(LOG["schoolbus.vendor.math.enrollment"]))
    assert len(set(numbers[3:])) == 1, numbers


# ---- 1. the common shard's deletions of old records against newer states of students' records ----


@pytest.mark.parametrize("kill", [False, True], ids=["no kill", "the common shard is killed"])
def test_clean_does_not_delete_what_a_shard_of_students_has_sent_meanwhile(
    monkeypatch: pytest.MonkeyPatch, kill: bool
) -> None:
    two = Two()
    two.change(("optOut", "o", opt_out("b")))  # b is deleted; the old messages have b's key
    two.settle()

    def read(settings: Any, old: Any) -> list[tuple[Position, bytes]]:
        """b's key is in the old messages only. After this was read, b's opt-out ends."""
        found = not_written_again(settings, old)
        assert b"b" in {key for _, key in found}
        if not kill:
            two.students.change(two.changes(("optOut", "o", None)))
        return found

    monkeypatch.setattr(agreement_streams.old_records, "not_written_again", read)
    two.applied = {"math": applied(agreement(share={"categories": ["Student Name"]}))}
    two.common.streams.follow(two.applied, DAY, new=True)
    if kill:
        # Killed after the commit of the deletions (agreement_streams.py `_clean`), before they
        # are sent.
        def killed(*_: Any) -> Any:
            raise RetryLater("kill -9")

        with monkeypatch.context() as patch, pytest.raises(RetryLater):
            patch.setattr(two.common.streams, "begin_sending", lambda: None)
            patch.setattr(two.common.streams, "confirm", lambda: None)
            for _ in range(5):
                two.common.streams.advance()
                two.listen()
                two.students.streams.go_on(DAY)
                two.students.streams.confirm()
                two.students.streams.tell()
                with two.common.streams.batch():
                    words, Talk.said[:] = list(Talk.said), []
                    two.common.streams.heard(words)
                patch.setattr(agreement_streams.old_records, "delete", killed)
        monkeypatch.setattr(agreement_streams.old_records, "not_written_again", not_written_again)
        two.students.change(two.changes(("optOut", "o", None)))  # b enters meanwhile
        assert ("student", "b") in two.has
        two.common.start()  # `_catch_up`, and then what is in its file is sent
        two.common.streams.follow(two.applied, DAY, new=True)
        two.common.streams.begin_sending()
        two.common.streams.confirm()
    two.settle()
    assert not two.common.streams.unfinished
    assert two.students.streams._streams["math"]._projection.cohort.among(["b"]) == {"b"}
    assert ("student", "b") in two.has


# ---- 2. a paused agreement goes on without a new round, and has lost changes ----------------------


def test_an_agreement_that_was_changed_and_changed_back_misses_nothing() -> None:
    """The common shard is busy (or restarts), and sees only the last state of the agreement."""
    two = Two()
    first = two.applied
    two.applied = {"math": applied(agreement(share={"categories": ["Student Name"]}))}
    two.listen()  # the shard of students sees the change, and waits for a round
    two.change(("optOut", "o", opt_out("b")))
    two.applied = first
    two.common.streams.follow(two.applied, DAY, new=True)
    two.settle()
    assert not two.students.streams.unfinished
    assert ("student", "b") not in two.has


def test_words_that_kafka_has_forgotten_do_not_hide_changes() -> None:
    """Nothing ran for more than 30 days, so the topic of words is empty at the start."""
    two = Two()
    SAID.clear()
    two.students.words.rounds = {}
    two.students.start()
    two.common.start()
    # `Work._catch_up` of the shard of students:
    two.students.streams.follow(two.applied, DAY, new=False)
    two.students.change(two.changes(("optOut", "o", opt_out("b"))), send=False)
    two.students.streams.follow(two.applied, DAY, new=True)  # `_begin_day`
    two.students.streams.begin_sending()
    two.students.streams.confirm()
    # The common shard says its rounds again.
    two.common.streams.follow(two.applied, DAY, new=False)
    two.common.streams.follow(two.applied, DAY, new=True)
    two.settle()
    assert not two.students.streams.unfinished
    assert ("student", "b") not in two.has


# ---- 3. files of a shard on two machines ----------------------------------------------------------


def copy_of(view: DistrictView) -> DistrictView:
    found = new_view()
    view.con.backup(found.con)
    return found


def test_a_common_shard_that_comes_back_to_a_machine_with_an_old_file_sends_nothing_of_it() -> None:
    """A rolling restart: the common shard moves to another machine and back."""
    two = Two()
    old_file = copy_of(two.common.view)  # machine A, round 1
    two.common = Common(SAID)  # machine B, without a file: round 2
    two.common.change([Change(kind, id_, None, one) for (kind, id_), one in two.records.items()])
    two.common.streams.follow(two.applied, DAY, new=True)
    two.settle()
    two.change(("optOut", "o", opt_out("a")), ("optOut", "p", opt_out("b")))
    two.settle()
    assert two.has == {}
    # Back on machine A. A guardian of the students who opted out gets another name.
    two.common = Common(SAID, old_file)
    two.common.streams.follow(two.applied, DAY, new=False)
    with two.common.streams.batch():
        two.common.streams.heard(HEARD)  # its file continues at an old offset
    changed = two.records["guardian", "g"] | {"familyName": "Secret"}
    two.common.change(two.changes(("guardian", "g", changed)), send=False)
    two.common.streams.follow(two.applied, DAY, new=True)
    two.common.streams.begin_sending()
    two.common.streams.confirm()
    assert two.has == {}


def test_a_shard_of_students_that_stopped_on_two_machines_knows_what_the_other_one_sent() -> None:
    two = Two()
    two.applied = {"math": applied(agreement(purpose="another"))}
    two.common.streams.follow(two.applied, DAY, new=True)
    two.common.hear()
    two.listen()  # machine A has stopped for round 2
    old = two.students
    Talk.said.clear()  # it is killed before it says so
    two.students = Students()  # machine B, without a file, in the same round
    two.students.change([Change(kind, id_, None, one) for (kind, id_), one in two.records.items()])
    new = record("student", "c", orgSourcedIds=["s1"], grades=["06"])
    two.settle()
    two.change(("student", "c", new))  # only B knows that the vendor has c
    two.settle()
    assert ("student", "c") in two.has
    # Back to machine A, whose file has stopped for round 2. While the shard moves, c opts out.
    two.students = old
    two.students.start()
    two.listen()
    two.students.change([Change("student", "c", None, new)])
    two.students.change(two.changes(("optOut", "o", opt_out("c"))))
    two.settle()
    assert not two.students.streams.unfinished
    assert ("student", "c") not in two.has


# ---- 4. what a kill of the common shard loses -----------------------------------------------------


def test_a_common_shard_that_was_killed_before_it_said_seen_says_it_after_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a shard of students waits for two minutes; its opt-outs wait, too."""
    topic = topics.vendor_shards(SETTINGS)
    place = Position(topic, 1)
    said: list[Word] = []

    class Reader:
        def __init__(self, *_: Any) -> None:
            self.goal = {place: 7}

        def behind(self, *_: Any) -> bool:
            return False

        def take(self, *_: Any) -> Any:
            from bus.vendors.district_reader import DistrictBatch

            return DistrictBatch([], {place: 7})  # the end of the partition

        def stored(self, *_: Any) -> None:
            """Nothing."""

    monkeypatch.setattr(shard_work, "said", lambda _: [])
    monkeypatch.setattr(shard_work, "DistrictReader", Reader)
    marks = {Position(topic, number): (0, 7) for number in (1, 2)}
    reader = MagicMock(**{"return_value.__enter__.return_value.marks.return_value": marks})
    monkeypatch.setattr(shard_work, "Reader", reader)
    work: Any = object.__new__(shard_work.CommonWork)
    work._settings, work._shard = SETTINGS, Shard(0, 2)
    work._changes, work._streams, work._day = MagicMock(kinds={}), MagicMock(busy=False), DAY
    work._heed = work._tick = lambda: None
    work._view = new_view()
    work._view.reach({place: 7})  # committed by the attempt that was killed
    work._reader = work._read()
    work._words = MagicMock(say=lambda words: said.extend(words))
    empty = MagicMock(messages=[], reached={})
    work._reader.take = lambda *_: empty
    for _ in range(3):
        work._go_on()
    assert Seen(1, 7) in said


# ---- 5. an enrollment between a student and a teacher ---------------------------------------------


def test_an_enrollment_of_a_student_becomes_one_of_a_teacher_in_the_same_partition() -> None:
    two = Two()
    of_teacher = two.records["enrollment", "e1"] | {"userSourcedId": "t", "role": "teacher"}
    changes = two.changes(("enrollment", "e1", of_teacher))
    two.common.change(changes)  # the common shard is the faster one
    two.students.change(changes)
    two.settle()
    assert two.has["enrollment", "e1"]["userSourcedId"] == "t"


def test_an_enrollment_of_a_teacher_becomes_one_of_a_student_in_the_same_partition() -> None:
    two = Two()
    of_student = two.records["enrollment", "e3"] | {"userSourcedId": "b", "role": "student"}
    changes = two.changes(("enrollment", "e3", of_student))
    two.students.change(changes)  # the shard of students is the faster one
    two.common.change(changes)
    two.settle()
    assert two.has["enrollment", "e3"]["userSourcedId"] == "b"


# ---- 6. instances that were paused ----------------------------------------------------------------


def test_a_late_word_of_an_instance_that_was_paused_does_not_stop_the_shards_of_students() -> None:
    """The new common shard does not say its round again before the next day."""
    two = Two()
    zombie = SAID[-1]
    two.common = Common(SAID)  # another machine has taken over, and has written all in round 2
    two.common.change([Change(kind, id_, None, one) for (kind, id_), one in two.records.items()])
    two.common.streams.follow(two.applied, DAY, new=True)
    two.settle()
    SAID.append(zombie)  # the first one wakes up in `advance`, and says WHOLE of round 1
    two.settle()
    two.change(("optOut", "o", opt_out("b")))
    two.settle()
    assert two.students.streams.names == ["math"]
    assert ("student", "b") not in two.has


def test_an_instance_that_lost_its_shards_agrees_on_the_number_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it was paused, an instance with another number may have begun to work."""
    agreed: list[int] = []
    stopping = threading.Event()
    part = MagicMock(partition=0)

    class Consumer:
        def __init__(self, *_: Any) -> None:
            self.polls = 0

        def subscribe(self, _: Any, on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
            self.assigned, self.lost = on_assign, on_lost

        def poll(self, _: float) -> None:
            self.polls += 1
            if self.polls == 1:
                self.assigned(self, [part])
            elif self.polls == 2:
                self.lost(self, [part])
            elif self.polls == 3:
                self.assigned(self, [part])
            elif self.polls == 5:
                stopping.set()

        def assign(self, _: Any) -> None: ...
        def pause(self, _: Any) -> None: ...
        def close(self) -> None: ...

    monkeypatch.setattr(shard_group, "Consumer", Consumer)
    monkeypatch.setattr(shard_group, "group_settings", lambda *_: {})
    monkeypatch.setattr(shard_group.topics, "ensure", lambda *_: None)
    monkeypatch.setattr(shard_group, "ShardThread", MagicMock(return_value=MagicMock(error=None)))
    monkeypatch.setattr(shard_group.shard_number, "agreed", lambda *_: agreed.append(1) or True)
    run = Run(SETTINGS, lambda: DAY, time.monotonic, stopping=stopping)
    group = shard_group.ShardGroup(run)
    monkeypatch.setattr(group, "_stop", lambda: group._threads.clear())
    group.work()
    assert len(agreed) == 2


# ---- 7. opt-outs do not wait ----------------------------------------------------------------------


def test_an_opt_out_deletes_a_student_while_an_agreement_waits_for_its_round() -> None:
    """The common shard is away, or deletes old records of another agreement for some minutes."""
    two = Two()
    two.applied = {"math": applied(agreement(share={"categories": ["Student Name"]}))}
    two.listen()
    two.students.change(two.changes(("optOut", "o", opt_out("b"))))
    two.listen()
    assert ("student", "b") not in two.has


def test_an_opt_out_deletes_a_student_while_another_one_waits_for_the_common_shard() -> None:
    two = Two()
    there = threading.Event()
    two.students.talk.wait = lambda _: there.wait(20) and None  # type: ignore[method-assign]
    new = record("student", "c", orgSourcedIds=["s2"], grades=["06"])
    opted = opt_out("b")
    changes = two.changes(("student", "c", new), ("optOut", "o", opted))
    with two.students.streams.batch():
        two.students.streams.take(two.students.store(changes), DAY)
    two.students.streams.begin_sending()
    time.sleep(0.5)
    gone = ("student", "b") not in two.has
    there.set()
    two.students.streams.confirm()
    assert gone


# ---- 9. Kafka forgets words -----------------------------------------------------------------------


def test_kafka_keeps_what_is_not_needed_any_more_as_long_as_other_words() -> None:
    """`Asked(needed=False)` is a tombstone, which Kafka keeps for a day only."""
    _, value = encoded(Asked("math", 1, "class", "c", "", needed=False))
    config = topics.config(SETTINGS, topics.vendor_shards(SETTINGS))
    assert (
        value is not None or int(config.get("delete.retention.ms", 86_400_000)) >= 30 * topics.DAY
    )


# ---- instances that wait, or were paused ---------------------------------------------------------


def test_two_instances_with_different_new_numbers_do_not_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody works with the number that counts. One of the two wins, and the other one waits."""
    stored = [(1, "")]
    stopping = threading.Event()
    monkeypatch.setattr(shard_number, "_read", lambda _: stored[-1])
    members = [MagicMock(client_id="vendors-2"), MagicMock(client_id="vendors-3")]
    group = MagicMock(**{"result.return_value.members": members})
    admin = MagicMock(**{"describe_consumer_groups.return_value.__getitem__.return_value": group})
    monkeypatch.setattr(shard_number, "AdminClient", lambda _: admin)

    class Sender:
        def __init__(self, *_: Any) -> None: ...
        def add(self, value: bytes, _: bytes) -> None:
            stored.append(tuple(json.loads(value)))

        def flush(self) -> None: ...

    monkeypatch.setattr(shard_number, "Sender", Sender)
    assert shard_number.agreed(SETTINGS, stopping, lambda: None)
    other = SETTINGS.model_copy(update={"vendors": VendorsSettings(shards=3)})
    assert not shard_number.agreed(other, stopping, stopping.set)
    assert [number for number, _ in stored] == [1, 2]


def test_an_instance_that_was_paused_stops_its_shards_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kafka says only later that another instance has them."""
    now = [0.0]
    stopped: list[int] = []

    class Consumer:
        def __init__(self, *_: Any) -> None:
            self.polls = 0

        def subscribe(self, _: Any, on_assign: Any, **__: Any) -> None:
            self.assigned = on_assign

        def poll(self, _: float) -> None:
            self.polls += 1
            if self.polls == 1:
                self.assigned(self, [MagicMock(partition=1)])
            if self.polls == 3:
                now[0] += 30

        def assign(self, _: Any) -> None: ...
        def pause(self, _: Any) -> None: ...
        def close(self) -> None: ...

    thread = MagicMock(error=None)
    thread.outcome = MagicMock(sent=0, undecodable=0, agreements=[])
    thread.ask_to_stop = lambda: stopped.append(1)
    monkeypatch.setattr(shard_group, "Consumer", Consumer)
    monkeypatch.setattr(shard_group, "group_settings", lambda *_: {})
    monkeypatch.setattr(shard_group.topics, "ensure", lambda *_: None)
    monkeypatch.setattr(shard_group, "ShardThread", lambda *_, **__: thread)
    monkeypatch.setattr(shard_group.shard_number, "agreed", lambda *_: True)
    group = shard_group.ShardGroup(Run(SETTINGS, lambda: DAY, lambda: now[0]))
    with pytest.raises(RetryLater, match="paused"):
        group.work()
    group.close()
    assert stopped == [1]


def test_what_was_said_is_not_said_again_when_its_answer_comes_late() -> None:
    """Otherwise, the common shard would fall behind more and more."""
    two = Two()
    said: list[Word] = []
    waits: list[int] = []

    def ask(words: Any) -> None:
        said.extend(words)

    def wait(offset: int) -> None:
        waits.append(offset)
        if len(waits) == 1:
            raise NotAnswered("the common shard has not answered")

    talk: Any = two.students.talk
    talk.ask, talk.wait, talk.asked = ask, wait, lambda: 17
    talk.entered = lambda _, students, __: said.extend(students)
    new = record("student", "c", orgSourcedIds=["s2"], grades=["06"], agentSourcedIds=["h"])
    two.students.change(two.changes(("student", "c", new)), send=False)
    two.students.streams.begin_sending()
    with pytest.raises(RetryLater):
        two.students.streams.confirm()
    first = list(said)
    assert "c" in first
    assert any(isinstance(one, Asked) and one.id == "h" for one in first)
    two.students.streams.begin_sending()
    two.students.streams.confirm()
    assert said == first
    assert waits == [0, 17]
    assert ("student", "c") in two.has


def test_what_kafka_did_not_store_is_said_again() -> None:
    """What was said before does not count for it."""
    two = Two()
    said: list[Word] = []
    refuse: list[bool] = []

    def ask(words: Any) -> None:
        if refuse:
            refuse.pop()
            raise RetryLater("Kafka does not answer")
        said.extend(words)

    talk: Any = two.students.talk
    talk.ask, talk.asked = ask, lambda: 17
    talk.entered = lambda _, students, __: ask([Seen(0, 0)])
    first = record("student", "c", orgSourcedIds=["s2"], grades=["06"], agentSourcedIds=[])
    two.students.change(two.changes(("student", "c", first)))
    new = record("student", "d", orgSourcedIds=["s2"], grades=["06"], agentSourcedIds=["h"])
    two.students.change(two.changes(("student", "d", new)), send=False)
    refuse.append(True)
    two.students.streams.begin_sending()
    with pytest.raises(RetryLater):
        two.students.streams.confirm()
    two.students.streams.begin_sending()
    two.students.streams.confirm()
    assert any(isinstance(one, Asked) and one.id == "h" for one in said)
