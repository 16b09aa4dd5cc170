"""The worker loop without Kafka: what it delivers, when it commits, and how it handles failures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.fakes.broker import failure
from tests.fakes.harness import Batch, Bus, FakeProduct, Instance, Killed, RetryLater, Stop, fate

DOWN = 10_000
"""The number of tries that fail when the product is down for good."""


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    yield Bus(monkeypatch)


@pytest.fixture
def lunch() -> FakeProduct:
    return FakeProduct()


def down(times: int) -> list[BaseException]:
    return [RetryLater("not now") for _ in range(times)]


def two_partitions(monkeypatch: pytest.MonkeyPatch) -> tuple[Bus, str, str]:
    """Return a bus with two partitions, and the id of a student in each."""
    bus = Bus(monkeypatch, partitions=2)
    names: dict[int, str] = {}
    for number in range(10):
        message = bus.publish("student", f"s{number}")
        names.setdefault(message.partition() or 0, f"s{number}")
        if len(names) == 2:
            return bus, names[0], names[1]
    raise AssertionError("all students are in one partition")


# ---- normal operation ---------------------------------------------------------------------------


def test_what_was_there_is_delivered_and_then_it_ends(bus: Bus, lunch: FakeProduct) -> None:
    bus.enroll("s1", "c1")
    bus.publish("class", "c1")
    bus.publish("student", "s1")
    outcome = bus.worker(lunch).run(until_caught_up=True)
    assert lunch.ids == ["s1", "c1", "s1-c1"]
    assert outcome.delivered == {"student": 1, "class": 1, "enrollment": 1}
    assert bus.committed() == bus.ends()


def test_nothing_to_deliver_ends_at_once(bus: Bus, lunch: FakeProduct) -> None:
    bus.worker(lunch).run(until_caught_up=True)
    assert lunch.batches == []


def test_what_comes_later_is_delivered_too(bus: Bus, lunch: FakeProduct) -> None:
    bus.clock.after(5, lambda: bus.publish("student", "s1"))
    bus.clock.after(9, lambda: bus.publish("student", "s2"))
    bus.worker(lunch).run_for(20)
    assert lunch.batches == [["s1"], ["s2"]]


def test_offsets_are_committed_only_after_the_delivery(bus: Bus, lunch: FakeProduct) -> None:
    bus.publish("student", "s1")
    seen = []
    lunch.before = lambda _: seen.append(bus.committed())
    bus.worker(lunch).run(until_caught_up=True)
    assert seen == [{}]
    assert bus.committed() == {bus.place("student"): 1}


def test_a_batch_is_no_larger_than_the_product_wants(bus: Bus, lunch: FakeProduct) -> None:
    for number in range(5):
        bus.publish("student", f"s{number}")
    bus.worker(lunch, batch_records=2).run(until_caught_up=True)
    assert lunch.batches == [["s0", "s1"], ["s2", "s3"], ["s4"]]


def test_an_open_transaction_is_not_delivered_and_an_aborted_one_never(
    bus: Bus, lunch: FakeProduct
) -> None:
    aborted, committed = bus.broker.transaction(), bus.broker.transaction()
    bus.publish("student", "s1", write=aborted.append)
    aborted.abort()
    bus.publish("student", "s2", write=committed.append)
    bus.worker(lunch).run(until_caught_up=True)
    assert lunch.ids == []
    bus.clock.after(5, committed.commit)
    bus.worker(lunch).run_for(20)
    assert lunch.ids == ["s2"]
    assert bus.committed() == bus.ends()  # transaction markers count as read


def test_deferred_work_is_written_each_minute_while_no_event_arrives(
    bus: Bus, lunch: FakeProduct
) -> None:
    bus.publish("student", "s1")
    bus.worker(lunch).run_for(200)
    assert 3 <= lunch.settled <= 5


def test_kafkas_own_failure_ends_it_with_a_reason(
    bus: Bus, lunch: FakeProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = bus.worker(lunch)

    def fail(_: object) -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL, "fenced", fatal=True))

    monkeypatch.setattr(worker.loop._offsets_client, "ends", fail)
    with pytest.raises(Stop, match="Kafka says _FATAL; nothing is lost"):
        worker.run(until_caught_up=True)
    assert worker.consumer.closed


def test_the_products_stop_ends_it_and_nothing_is_committed(bus: Bus, lunch: FakeProduct) -> None:
    bus.publish("student", "s1")
    lunch.failures = [Stop("the key is refused")]
    with pytest.raises(Stop, match="the key is refused"):
        bus.worker(lunch).run()
    assert bus.committed() == {}


# ---- where it starts ----------------------------------------------------------------------------


def test_it_goes_on_where_the_group_is(bus: Bus, lunch: FakeProduct) -> None:
    bus.publish("student", "s1")
    bus.worker(lunch).run(until_caught_up=True)
    bus.publish("student", "s2")
    bus.worker(lunch).run(until_caught_up=True)
    assert lunch.batches == [["s1"], ["s2"]]


@pytest.mark.parametrize(("journal", "delivered_rows"), [(2, ["s2"]), (0, ["s0", "s1", "s2"])])
def test_the_deliverys_own_offsets_win_over_the_groups(
    bus: Bus, lunch: FakeProduct, journal: int, delivered_rows: list[str]
) -> None:
    for number in range(3):
        bus.publish("student", f"s{number}")
    bus.broker.group(bus.group).committed[bus.place("student")] = 1
    lunch.journal = {bus.place("student"): journal}
    bus.worker(lunch).run(until_caught_up=True)
    assert lunch.ids == delivered_rows


def test_an_offset_beyond_the_end_means_that_the_topic_was_recreated(
    bus: Bus, lunch: FakeProduct
) -> None:
    bus.publish("student", "s1")
    bus.broker.group(bus.group).committed[bus.place("student")] = 7
    bus.worker(lunch).run(until_caught_up=True)
    assert lunch.ids == ["s1"]
    assert bus.committed() == {bus.place("student"): 1}


def test_an_offset_before_the_first_that_is_left_means_to_begin_there(
    bus: Bus, lunch: FakeProduct
) -> None:
    for number in range(3):
        bus.publish("student", f"s{number}")
    bus.broker.log(bus.place("student")).low = 2
    bus.worker(lunch).run(until_caught_up=True)
    assert lunch.ids == ["s2"]


def test_after_a_kill_between_delivery_and_commit_the_batch_comes_again(
    bus: Bus, lunch: FakeProduct
) -> None:
    bus.publish("student", "s1")
    lunch.aftermath = [Killed()]
    first = bus.worker(lunch).join()
    with pytest.raises(Killed):
        first.turn(5)
    first.kill()
    bus.worker(lunch).run(until_caught_up=True)
    assert lunch.batches == [["s1"], ["s1"]]


# ---- a product that is down ---------------------------------------------------------------------


def test_what_the_product_cannot_take_now_is_tried_again_and_nothing_is_lost(
    bus: Bus, lunch: FakeProduct
) -> None:
    bus.publish("student", "s1")
    bus.clock.after(1, lambda: bus.publish("student", "s2"))
    lunch.failures = down(8)
    seen = []
    bus.clock.after(2, lambda: seen.append((len(lunch.failures), lunch.ids)))
    bus.worker(lunch).run_for(500)
    [(left, delivered_rows)] = seen
    assert 2 <= left < 8  # it retried, with pauses between the tries
    assert delivered_rows == []
    assert lunch.batches == [["s1"], ["s2"]]
    assert bus.committed() == bus.ends()


def test_it_waits_as_long_as_the_product_asks(bus: Bus, lunch: FakeProduct) -> None:
    bus.publish("student", "s1")
    lunch.failures = [RetryLater("busy", after=45)]
    before = bus.clock.now
    bus.worker(lunch).run(until_caught_up=True)
    assert 45 <= bus.clock.now - before < 60


def test_while_it_waits_it_stays_in_its_group_and_reads_nothing(
    bus: Bus, lunch: FakeProduct
) -> None:
    bus.publish("student", "s1")
    lunch.failures = [RetryLater("busy", after=45)]
    worker = bus.worker(lunch)
    seen = []
    bus.clock.after(20, lambda: seen.append((worker.paused, len(worker.places))))
    worker.run(until_caught_up=True)
    assert seen == [({"student", "staff", "class", "enrollment"}, 4)]


def test_the_circuit_opens_says_why_and_closes(bus: Bus, lunch: FakeProduct) -> None:
    bus.publish("student", "s1")
    lunch.failures = down(4)
    worker = bus.worker(lunch)
    assert worker.ready() == "the consumer has not joined its group yet"
    seen = []
    lunch.before = lambda _: seen.append(worker.ready())
    worker.run(until_caught_up=True)
    assert seen[:3] == ["", "", ""]
    assert "lunch does not answer (3 tries failed)" in seen[3]
    assert worker.ready() == ""


def test_a_stop_while_the_circuit_is_open_ends_it_and_the_batch_comes_at_the_next_start(
    bus: Bus, lunch: FakeProduct
) -> None:
    bus.publish("student", "s1")
    lunch.failures = down(DOWN)
    bus.worker(lunch).run_for(60)
    assert bus.committed() == {}
    lunch.failures = []
    bus.worker(lunch).run(until_caught_up=True)
    assert lunch.batches == [["s1"]]


def test_a_stop_while_the_circuit_is_closed_waits_for_the_time_to_drain(
    monkeypatch: pytest.MonkeyPatch, lunch: FakeProduct
) -> None:
    bus = Bus(monkeypatch, circuit_failures=1_000, drain_seconds=20, retry_most=1)
    bus.publish("student", "s1")
    lunch.failures = down(DOWN)
    before = bus.clock.now
    bus.worker(lunch).run_for(10)
    assert 30 < bus.clock.now - before < 33
    assert lunch.batches == []


def test_a_stop_delivers_what_is_in_hand(bus: Bus, lunch: FakeProduct) -> None:
    bus.publish("student", "s1")
    worker = bus.worker(lunch)
    bus.clock.after(0.1, worker.stop)
    worker.run()
    assert lunch.ids == ["s1"]
    assert bus.committed() == bus.ends()


# ---- records that can never be delivered --------------------------------------------------------


@pytest.mark.parametrize(
    ("become", "reason"),
    [
        ("refused", "the lunch lady says no"),
        ("untranslatable", "this record has no row"),
        ("rubbish", "the value is not Avro"),
    ],
)
def test_what_never_goes_is_a_dead_letter_and_the_rest_goes_on(
    bus: Bus, lunch: FakeProduct, become: str, reason: str
) -> None:
    bus.publish("student", "s1", become=become)  # type: ignore[arg-type]
    bus.publish("student", "s2")
    outcome = bus.worker(lunch).run(until_caught_up=True)
    [dead_letter] = bus.dead_letters
    assert (dead_letter.kind, dead_letter.id, dead_letter.place) == (
        "student",
        "s1",
        "schoolbus.student/0/0",
    )
    assert reason in dead_letter.reason
    assert lunch.ids == ["s2"]
    assert outcome.dead_lettered == 1
    assert outcome.delivered["student"] == 1
    assert bus.committed() == bus.ends()


@pytest.mark.parametrize("become", ["refused", "untranslatable", "rubbish"])
def test_dead_letters_are_written_before_offsets_are_committed(
    bus: Bus, lunch: FakeProduct, become: str
) -> None:
    message = bus.publish("student", "s1", become=become)  # type: ignore[arg-type]
    bus.broker.unwritten = 3
    bus.worker(lunch).run(until_caught_up=True)
    assert len(bus.dead_letters) == 1
    assert bus.broker.unwritten == 0
    dead_letter = ("write", ("schoolbus.deadletters.lunch", 0), 0)
    place = (message.topic(), message.partition())
    commits = [
        at
        for at, (what, _, offsets) in enumerate(bus.broker.history)
        if what == "commit" and offsets.get(place, 0) > 0
    ]
    assert bus.broker.history.index(dead_letter) < min(commits)


def test_a_dead_letter_of_what_does_not_decode_is_there_before_the_rest_is_delivered(
    bus: Bus, lunch: FakeProduct
) -> None:
    """A delivery that keeps offsets treats all events before them as done."""
    bus.publish("student", "s1", become="rubbish")
    bus.publish("student", "s2")
    dead_letters = []
    lunch.before = lambda _: dead_letters.append(len(bus.dead_letters))
    bus.worker(lunch).run(until_caught_up=True)
    assert dead_letters == [1]


# ---- references before referrers ----------------------------------------------------------------


def test_an_enrollment_is_held_until_its_class_comes_and_no_commit_passes_it(
    bus: Bus, lunch: FakeProduct
) -> None:
    bus.carry("class")
    bus.publish("student", "s1")
    bus.enroll("s1", "c1")
    bus.enroll("s2", "c1", status="tobedeleted")  # a withdrawal does not wait
    bus.clock.after(10, lambda: bus.publish("class", "c1"))
    seen = []
    bus.clock.after(9, lambda: seen.append((lunch.ids, bus.committed())))
    bus.worker(lunch).run_for(20)
    assert seen == [(["s1", "s2-c1"], {bus.place("student"): 1, bus.place("class"): 2})]
    assert lunch.ids == ["s1", "s2-c1", "c1", "s1-c1"]
    assert bus.committed() == bus.ends()


def test_what_is_held_comes_again_after_a_kill(bus: Bus, lunch: FakeProduct) -> None:
    bus.carry("class")
    bus.publish("student", "s1")
    bus.enroll("s1", "c1")
    first = bus.worker(lunch).join()
    first.turn(20)
    assert first.waiting == 1
    first.kill()
    bus.publish("class", "c1")
    bus.worker(lunch).run(until_caught_up=True)
    assert lunch.ids == ["s1", "c1", "s1-c1"]


def test_after_the_time_to_hold_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch, lunch: FakeProduct
) -> None:
    bus = Bus(monkeypatch, hold_seconds=100)
    bus.carry("class")
    bus.publish("student", "s1")
    bus.enroll("s1", "c1")
    seen = []
    bus.clock.after(95, lambda: seen.append(len(bus.dead_letters)))
    bus.worker(lunch).run(until_caught_up=True)
    [dead_letter] = bus.dead_letters
    assert seen == [0]
    assert "enrollment s1-c1 refers to class c1, which was not delivered" in dead_letter.reason
    assert bus.committed() == bus.ends()


def test_a_kind_that_nobody_publishes_is_not_waited_for(bus: Bus, lunch: FakeProduct) -> None:
    """Case 1 of the field: an extract without courses.csv. Here, no classes are published."""
    bus.publish("student", "s1")
    bus.enroll("s1", "c1")
    before = bus.clock.now
    bus.worker(lunch).run(until_caught_up=True)
    assert lunch.ids == ["s1", "s1-c1"]
    assert bus.dead_letters == []
    assert bus.clock.now - before < 5  # it did not wait
    assert bus.committed() == bus.ends()


def test_a_kind_that_comes_later_is_waited_for_from_then_on(bus: Bus, lunch: FakeProduct) -> None:
    bus.publish("student", "s1")
    bus.enroll("s1", "c1")

    def later() -> None:
        bus.publish("class", "c1")  # s1-c1 was already delivered without it
        bus.enroll("s1", "c2")

    bus.clock.after(5, later)
    seen = []
    bus.clock.after(15, lambda: seen.append(list(lunch.ids)))
    bus.clock.after(16, lambda: bus.publish("class", "c2"))
    bus.worker(lunch).run_for(30)
    assert seen == [["s1", "s1-c1", "c1"]]
    assert lunch.ids == ["s1", "s1-c1", "c1", "c2", "s1-c2"]


def test_a_kind_that_another_instance_reads_is_waited_for(bus: Bus, lunch: FakeProduct) -> None:
    """The instance with the enrollments learns of the new kind, although it reads none of it."""
    bus.publish("student", "s1")
    quick, slow = bus.worker(lunch).join(), bus.worker(lunch).join()
    bus.share({p: slow if p[0] == bus.place("class").topic else quick for p in bus.every_place()})
    slow.turn()
    quick.turn(20)
    bus.publish("class", "c1")
    bus.enroll("s1", "c1")
    quick.turn(20)
    assert (quick.waiting, lunch.ids) == (1, ["s1"])
    slow.turn(20)
    quick.turn(20)
    assert lunch.ids == ["s1", "c1", "s1-c1"]


@pytest.mark.parametrize("become", ["refused", "untranslatable", "rubbish"])
def test_a_dead_letter_holds_nothing_back(bus: Bus, lunch: FakeProduct, become: Any) -> None:
    """Records that refer to the dead letter are delivered, as if another instance wrote it."""
    bus.publish("student", "s1")
    bus.publish("class", "c1", become=become)
    bus.clock.after(5, lambda: bus.enroll("s1", "c1"))
    worker = bus.worker(lunch)
    worker.run_for(20)
    assert lunch.ids == ["s1", "s1-c1"]
    assert [dead_letter.id for dead_letter in bus.dead_letters] == ["c1"]
    assert bus.committed() == bus.ends()


@pytest.mark.parametrize("seconds", [0, 5])
def test_what_the_product_got_counts_though_it_refuses_a_change_of_it(
    bus: Bus, lunch: FakeProduct, seconds: float
) -> None:
    bus.publish("student", "s1")
    bus.publish("class", "c1")
    change = partial(bus.publish, "class", "c1", become="refused")
    if seconds:
        bus.clock.after(seconds, change)
    else:
        change()
    bus.clock.after(10, lambda: bus.enroll("s1", "c1"))
    bus.worker(lunch).run_for(20)
    assert lunch.ids == ["s1", "c1", "s1-c1"]


def test_a_newer_state_in_the_same_batch_counts(bus: Bus, lunch: FakeProduct) -> None:
    bus.publish("student", "s1")
    bus.publish("class", "c1", become="refused")
    bus.publish("class", "c1")
    bus.clock.after(5, lambda: bus.enroll("s1", "c1"))
    bus.worker(lunch).run_for(10)
    assert lunch.ids == ["s1", "c1", "s1-c1"]


def test_nothing_is_given_up_that_another_instance_has_still_to_deliver(
    bus: Bus, lunch: FakeProduct
) -> None:
    bus.publish("class", "c1")
    bus.publish("student", "s1")
    bus.enroll("s1", "c1")
    quick, slow = bus.worker(lunch).join(), bus.worker(FakeProduct()).join()
    bus.share({p: slow if p[0] == bus.place("class").topic else quick for p in bus.every_place()})
    slow.turn()
    quick.turn(20)
    bus.clock.advance(300)  # ten times as long as anything is held
    quick.turn(20)
    assert (quick.waiting, bus.dead_letters, lunch.ids) == (1, [], ["s1"])
    slow.turn(20)
    quick.turn(20)
    assert (quick.waiting, bus.dead_letters, lunch.ids) == (0, [], ["s1", "s1-c1"])


def test_when_many_wait_no_more_of_them_are_read(
    monkeypatch: pytest.MonkeyPatch, lunch: FakeProduct
) -> None:
    bus = Bus(monkeypatch, hold_records=2)
    bus.carry("class")
    bus.publish("student", "s1")
    for number in range(2):
        bus.enroll("s1", f"c{number}")
    worker = bus.worker(lunch).join()
    worker.turn(10)
    bus.enroll("s1", "c2")
    worker.turn(10)
    assert (worker.waiting, worker.paused) == (2, {"enrollment"})
    for number in range(3):
        bus.publish("class", f"c{number}")
    worker.turn(20)
    assert (worker.waiting, worker.paused) == (0, set())
    assert lunch.ids[-3:] == ["s1-c0", "s1-c1", "s1-c2"]


def test_while_it_is_behind_lower_levels_are_read_first(bus: Bus, lunch: FakeProduct) -> None:
    for number in range(3):
        bus.enroll("s1", f"c{number}")
        bus.publish("class", f"c{number}")
        bus.publish("student", f"s{number}")
    bus.broker.fetch = 1
    worker = bus.worker(lunch, batch_records=1).join()
    seen = []
    lunch.before = lambda _: seen.append(frozenset(worker.paused))
    worker.turn(30)
    students, classes, nothing = {"class", "enrollment"}, {"enrollment"}, set[str]()
    assert list(dict.fromkeys(seen)) == [
        frozenset(students),
        frozenset(classes),
        frozenset(nothing),
    ]
    assert lunch.ids == "s0 s1 s2 c0 c1 c2 s1-c0 s1-c1 s1-c2".split()


# ---- partitions are assigned and revoked --------------------------------------------------------


def test_an_instance_learns_what_another_has_delivered(bus: Bus, lunch: FakeProduct) -> None:
    bus.publish("class", "c1")
    bus.publish("student", "s1")
    bus.worker(lunch).run(until_caught_up=True)
    bus.enroll("s1", "c1")
    before = bus.clock.now
    bus.worker(lunch).run(until_caught_up=True)
    assert lunch.ids[-1] == "s1-c1"
    assert bus.clock.now - before < 5  # it did not wait


def test_a_batch_that_is_partly_anothers_now_is_dropped_and_read_again(
    monkeypatch: pytest.MonkeyPatch, lunch: FakeProduct
) -> None:
    bus, one, other = two_partitions(monkeypatch)
    bus.carry("class")
    bus.enroll(one, "c1")  # is held, then read again with the other records
    first, second = bus.worker(lunch).join(), bus.worker(lunch)
    first.turn()
    lunch.failures = [RetryLater("busy", after=5)]
    moved = bus.place("student", 1)

    def divide() -> None:
        second.join()
        bus.share({p: second if p == moved else first for p in bus.every_place()})

    bus.clock.after(3, divide)
    first.turn(20)
    assert one in lunch.ids
    assert other not in lunch.ids
    assert first.places == {p for p in map(tuple, bus.every_place()) if p != moved}
    second.turn(20)
    bus.publish("class", "c1")
    for instance in (first, second, first, second):
        instance.turn(20)
    assert sorted(lunch.ids) == sorted(set(lunch.ids))
    assert {other, f"{one}-c1"} < set(lunch.ids)
    assert bus.committed() == bus.ends()


def test_what_was_in_a_dropped_batch_does_not_count_as_delivered(
    bus: Bus, lunch: FakeProduct
) -> None:
    bus.publish("student", "s1")
    bus.publish("class", "c1")
    first, second = bus.worker(lunch).join(), bus.worker(lunch)
    lunch.failures = [RetryLater("busy", after=5)]
    classes = bus.place("class")

    def divide() -> None:
        second.join()
        bus.share({p: second if p == classes else first for p in bus.every_place()})

    bus.clock.after(3, divide)
    first.turn(20)
    bus.enroll("s1", "c1")
    first.turn(20)
    assert (first.waiting, lunch.ids) == (1, ["s1"])
    second.turn(20)
    first.turn(20)
    assert lunch.ids == ["s1", "c1", "s1-c1"]


def test_a_batch_goes_on_when_nothing_of_it_is_anothers(bus: Bus, lunch: FakeProduct) -> None:
    bus.publish("student", "s1")
    lunch.failures = [RetryLater("busy", after=5)]
    worker = bus.worker(lunch)
    bus.clock.after(3, lambda: bus.share(dict.fromkeys(bus.every_place(), worker)))
    worker.run(until_caught_up=True)
    assert lunch.batches == [["s1"]]


def test_what_is_held_or_in_hand_is_dropped_with_its_partition(
    bus: Bus, lunch: FakeProduct
) -> None:
    bus.carry("student", "class")
    bus.enroll("s1", "c1")
    first = bus.worker(lunch).join()
    first.turn(20)
    second = bus.worker(lunch).join()
    bus.share(dict.fromkeys(bus.every_place(), first))
    first.turn()
    bus.publish("student", "s1")
    first.turn()
    assert (first.waiting, first.in_hand) == (1, 1)
    bus.share(dict.fromkeys(bus.every_place(), second))
    first.turn()
    assert (first.waiting, first.in_hand, first.places) == (0, 0, set())
    assert set(lunch.released) == {
        bus.place(kind) for kind in ("student", "staff", "class", "enrollment")
    }
    bus.publish("class", "c1")
    first.turn(5)
    assert lunch.ids == []
    second.turn(20)
    assert lunch.ids == ["s1", "c1", "s1-c1"]


def test_an_instance_that_was_thought_dead_drops_what_it_had_and_comes_back(
    bus: Bus, lunch: FakeProduct
) -> None:
    worker = bus.worker(lunch).join()
    worker.turn(5)
    bus.publish("student", "s1")
    worker.turn()
    assert worker.in_hand == 1
    worker.consumer.lose()
    worker.turn()
    assert worker.in_hand == 0
    worker.turn(10)
    assert lunch.batches == [["s1"]]
    assert bus.committed() == bus.ends()


@pytest.mark.parametrize("code", [KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION])
def test_offsets_that_cannot_be_committed_in_a_rebalance_go_with_the_next(
    bus: Bus, lunch: FakeProduct, code: int
) -> None:
    bus.publish("student", "s1")
    worker = bus.worker(lunch).join()

    def refuse(_: Batch) -> None:
        bus.broker.commits = [code] * 2  # the commits after the delivery and after settling

    lunch.before = refuse
    while not lunch.batches:
        worker.turn()
    assert bus.committed() == {}
    worker.turn(6)
    assert bus.committed() == bus.ends()
    assert lunch.batches == [["s1"]]


def does_not_answer(worker: Instance, monkeypatch: pytest.MonkeyPatch, codes: list[int]) -> None:
    """Let Kafka answer the next questions about the ends of topics with these errors."""
    ends = worker.loop._offsets_client.ends

    def asked(names: Any) -> Any:
        if codes:
            raise failure(codes.pop(0))
        return ends(names)

    monkeypatch.setattr(worker.loop._offsets_client, "ends", asked)


def test_while_a_broker_restarts_it_asks_again(
    bus: Bus, lunch: FakeProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must ask whether the kinds of the references are published."""
    worker = bus.worker(lunch).join()
    worker.turn(3)
    codes = [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._DESTROY_BROKER]
    does_not_answer(worker, monkeypatch, codes)
    bus.enroll("s1", "c1")
    worker.turn(5)
    assert codes == []
    assert lunch.ids == ["s1-c1"]
    assert bus.committed() == bus.ends()


def test_a_start_that_is_to_catch_up_waits_for_a_broker(
    bus: Bus, lunch: FakeProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.publish("student", "s1")
    worker = bus.worker(lunch)
    codes = [KafkaError._TIMED_OUT, KafkaError.LEADER_NOT_AVAILABLE]
    does_not_answer(worker, monkeypatch, codes)
    assert worker.run(until_caught_up=True).had_events
    assert codes == []
    assert lunch.batches == [["s1"]]
    assert bus.committed() == bus.ends()


def test_a_dropped_batch_is_read_again_although_a_broker_restarts(
    bus: Bus, lunch: FakeProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.publish("student", "s1")
    bus.publish("class", "c1")
    first, second = bus.worker(lunch).join(), bus.worker(lunch)
    lunch.failures = [RetryLater("busy", after=5)]
    classes = bus.place("class")
    offsets = first.loop._offsets_client
    committed = offsets.committed
    codes = [KafkaError._TRANSPORT, KafkaError.COORDINATOR_NOT_AVAILABLE]
    moved = []

    def asked(places: Any) -> Any:
        if moved and codes:
            raise failure(codes.pop(0))
        return committed(places)

    def divide() -> None:
        second.join()
        bus.share({p: second if p == classes else first for p in bus.every_place()})
        moved.append(classes)

    monkeypatch.setattr(offsets, "committed", asked)
    bus.clock.after(3, divide)
    first.turn(20)
    assert codes == []
    assert lunch.batches == [["s1"]]
    second.turn(20)
    assert lunch.batches == [["s1"], ["c1"]]
    assert bus.committed() == bus.ends()


def test_without_the_right_to_ask_it_ends(
    bus: Bus, lunch: FakeProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = bus.worker(lunch).join()
    worker.turn(3)
    does_not_answer(worker, monkeypatch, [KafkaError.TOPIC_AUTHORIZATION_FAILED])
    bus.enroll("s1", "c1")
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        worker.turn(5)


def test_two_instances_that_are_to_catch_up_end_together(
    monkeypatch: pytest.MonkeyPatch, lunch: FakeProduct
) -> None:
    bus, _, _ = two_partitions(monkeypatch)
    first, second = bus.worker(lunch), bus.worker(lunch).join()
    bus.clock.after(50, lambda: _turns(second))
    before = bus.clock.now
    first.run(until_caught_up=True)
    assert bus.clock.now - before > 50
    assert bus.committed() == bus.ends()
    assert sorted(lunch.ids) == sorted(
        {fate(m) or (m.key() or b"").decode() for m in bus.published}
    )


def _turns(worker: Instance) -> None:
    worker.turn(20)
