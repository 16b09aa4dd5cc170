"""Races between shards, kills at bad moments, and files on two machines."""

from __future__ import annotations

import threading
import time
from typing import Any
from unittest.mock import MagicMock

import pytest

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka import topics
from bus.vendors import (
    agreement_streams,
    shard_work,
)
from bus.vendors.asking import NotAnswered
from bus.vendors.district_view import DistrictView
from bus.vendors.record_rules import Change
from bus.vendors.shard import Shard
from bus.vendors.shard_words import (
    Asked,
    GivenUp,
    Seen,
    Word,
    encoded,
)
from tests.unit.test_vendor_projection import DAY, agreement, opt_out, record
from tests.unit.two_shards import (
    HEARD,
    LOG,
    SAID,
    SETTINGS,
    Common,
    OneKafka,
    Students,
    Talk,
    Two,
    delete,
    ends,
    new_view,
    not_written_again,
)
from tests.without_services import applied, without_services


@pytest.fixture(autouse=True)
def no_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    without_services(
        monkeypatch, OneKafka, ends=ends, not_written_again=not_written_again, delete=delete
    )


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


# ---- withdrawn records are sent again forever --------------------------------------------------


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


# ---- the common shard's deletions of old records against newer states of students' records ----


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


# ---- a paused agreement goes on without a new round, and has lost changes ----------------------


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


# ---- files of a shard on two machines ----------------------------------------------------------


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


# ---- what a kill of the common shard loses -----------------------------------------------------


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


# ---- an enrollment between a student and a teacher ---------------------------------------------


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


# ---- instances that were paused ----------------------------------------------------------------


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


# ---- opt-outs do not wait ----------------------------------------------------------------------


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


# ---- Kafka forgets words -----------------------------------------------------------------------


def test_kafka_keeps_what_is_not_needed_any_more_as_long_as_other_words() -> None:
    """`Asked(needed=False)` is a tombstone, which Kafka keeps for a day only."""
    _, value = encoded(Asked("math", 1, "class", "c", "", needed=False))
    config = topics.config(SETTINGS, topics.vendor_shards(SETTINGS))
    assert (
        value is not None or int(config.get("delete.retention.ms", 86_400_000)) >= 30 * topics.DAY
    )


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
