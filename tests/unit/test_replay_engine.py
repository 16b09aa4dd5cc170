"""A run of a replay without Kafka: what it delivers, and how it pauses, crashes and resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import structlog
from confluent_kafka import KafkaError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from bus.cli.replay import _end, _show
from bus.kafka import topics
from bus.kafka.reader import Reader
from bus.replay import replay_log
from bus.replay.window import Completeness, completeness
from tests.fakes.harness import Batch, Bus, FakeProduct, Killed, RetryLater, Stop


class Unlocked(FakeProduct):
    """A product that cannot know what its live consumer has delivered."""

    unlocked = True


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    yield Bus(monkeypatch)


@pytest.fixture
def lunch() -> FakeProduct:
    return FakeProduct()


def history(bus: Bus) -> None:
    """Publish a class, three students who enroll, and a change of the first, one second apart."""
    bus.publish("class", "c1")
    for number in range(3):
        bus.clock.advance(1)
        bus.publish("student", f"s{number}")
        bus.clock.advance(1)
        bus.enroll(f"s{number}", "c1")
    bus.clock.advance(1)
    bus.publish("student", "s0", grades=["07"])


STORY = "c1 s0 s0-c1 s1 s1-c1 s2 s2-c1 s0".split()
"""The ids in the order of time. Within a batch, referenced records come first."""


# ---- whether its window is complete -------------------------------------------------------------

BY_TIME = {"cleanup.policy": "delete", "retention.ms": str(730 * 86_400_000)}
COMPACTED = {"cleanup.policy": "compact", "min.compaction.lag.ms": str(400 * 86_400_000)}


def whole(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, since: str, config: dict[str, str] = BY_TIME
) -> Completeness:
    monkeypatch.setattr("bus.replay.window._configs", lambda _, names: dict.fromkeys(names, config))
    kinds = ("student",)
    return completeness(bus.settings, bus.window(since, kinds=kinds), since, kinds)


def times(bus: Bus) -> list[datetime]:
    entries = bus.broker.messages("schoolbus.student")
    return [datetime.fromtimestamp(one.timestamp()[1] / 1000, UTC) for one in entries]


@pytest.mark.parametrize("config", [BY_TIME, COMPACTED])
def test_a_window_that_begins_before_what_kafka_has_left_is_not_complete(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, config: dict[str, str]
) -> None:
    history(bus)
    first, second, *_ = times(bus)
    if config is COMPACTED:  # the times of the fake's clock are long ago
        config = config | {"min.compaction.lag.ms": str(10**12)}
    for since in ("beginning", first.isoformat(), "student/0=0"):
        assert whole(bus, monkeypatch, since, config) == Completeness()
    bus.broker.log(("schoolbus.student", 0)).low = 1
    lost = Completeness(deleted=("student",), oldest=second)
    for since in ("beginning", first.isoformat(), "student/0=0"):
        assert whole(bus, monkeypatch, since, config) == lost
    for since in (second.isoformat(), "student/0=1"):
        assert whole(bus, monkeypatch, since, config).complete


def test_a_window_of_which_kafka_has_nothing_left_is_not_complete(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    history(bus)
    log = bus.broker.log(("schoolbus.student", 0))
    log.low = len(log.entries)
    assert whole(bus, monkeypatch, "2020-01-01") == Completeness(deleted=("student",))
    recently = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    assert whole(bus, monkeypatch, recently).complete, "retention.ms keeps two years"


def test_what_was_deleted_while_a_replay_was_paused_is_missed(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    history(bus)
    window, (_, second, *_) = bus.window(kinds=("student",)), times(bus)
    whole(bus, monkeypatch, "beginning")
    bus.broker.log(("schoolbus.student", 0)).low = 2
    rest = window.after({bus.place("student"): 1})
    assert completeness(bus.settings, rest, second.isoformat()).deleted == ("student",)
    rest = window.after({bus.place("student"): 2})
    assert completeness(bus.settings, rest, times(bus)[2].isoformat()).complete


def test_the_output_of_a_run_warns_of_what_kafka_has_deleted(
    bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = replay_log.ReplayEntry(bus.about(), replay_log.ReplayState(status="done"))
    lost = Completeness(deleted=("attendance",), oldest=datetime(2026, 3, 1, 7, tzinfo=UTC))
    _end(True, entry, lost)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["complete"], printed["deleted"]) == (False, ["attendance"])
    assert printed["oldest"] == "2026-03-01T07:00:00+00:00"
    _end(False, entry, lost)
    text = " ".join(capsys.readouterr().out.split())
    assert "the window is not complete: Kafka has deleted older history (attendance)" in text
    assert "only from 2026-03-01 07:00:00 UTC on" in text
    _end(False, entry, Completeness())
    assert "not complete" not in capsys.readouterr().out
    _end(True, entry, None)
    assert json.loads(capsys.readouterr().out)["complete"] is None


# ---- what it delivers ---------------------------------------------------------------------------


def test_all_of_a_window_comes_in_the_order_of_time(bus: Bus, lunch: FakeProduct) -> None:
    history(bus)
    about = bus.about()
    state = bus.replay(lunch, about, batch=1, tells_time=True).run()
    assert lunch.ids == STORY
    assert state.status == bus.state(about).status == "done"
    assert state.delivered == {"class": 1, "student": 4, "enrollment": 3}
    assert state.done == about.stop


def test_what_is_published_after_the_window_is_left_to_the_live_consumer(
    bus: Bus, lunch: FakeProduct
) -> None:
    history(bus)
    about = bus.about()
    bus.publish("student", "s9")
    bus.replay(lunch, about, tells_time=True).run()
    assert sorted(lunch.ids) == sorted(STORY)


def test_the_live_consumers_offsets_do_not_move(bus: Bus, lunch: FakeProduct) -> None:
    history(bus)
    bus.replay(lunch, bus.about(), tells_time=True).run()
    assert bus.committed() == {}


def test_only_current_brings_each_record_once_and_what_is_referred_to_first(
    bus: Bus, lunch: FakeProduct
) -> None:
    history(bus)
    state = bus.replay(lunch, bus.about(only_current=True)).run()
    assert lunch.ids == "s1 s2 s0 c1 s0-c1 s1-c1 s2-c1".split()
    assert lunch.records["student", "s0"]["grades"] == ["07"]
    assert state.passed == 1


def test_a_product_of_states_gets_only_the_latest_of_each_record(
    bus: Bus, lunch: FakeProduct
) -> None:
    history(bus)
    bus.replay(lunch, bus.about(), batch=1).run()
    assert lunch.ids == "c1 s0-c1 s1 s1-c1 s2 s2-c1 s0".split()


def test_the_latest_of_a_record_is_its_last_wherever_it_lies(bus: Bus, lunch: FakeProduct) -> None:
    for student in "s0 s0 s1 s0 s2 s1".split():
        bus.publish("student", student)
    bus.replay(lunch, bus.about()).run()
    assert [message.offset() for message, _, _ in lunch.delivered_rows] == [3, 4, 5]


def test_of_one_student(bus: Bus, lunch: FakeProduct) -> None:
    history(bus)
    bus.publish("enrollment", "e9", userSourcedId="s9", classSourcedId="s1")  # only its bytes match
    kinds = ("student", "enrollment")
    window = bus.window(kinds=kinds)
    about = bus.about(window, students=("s1",))
    bus.replay(lunch, about, tells_time=True, kinds=kinds).run()
    assert lunch.ids == ["s1", "s1-c1"]


def test_what_an_aborted_transaction_wrote_is_not_history(bus: Bus, lunch: FakeProduct) -> None:
    transaction = bus.broker.transaction()
    bus.publish("student", "s1", write=transaction.append)
    transaction.abort()
    bus.publish("student", "s2")
    state = bus.replay(lunch, bus.about(), tells_time=True).run()
    assert (lunch.ids, state.status) == (["s2"], "done")


@pytest.mark.parametrize(
    ("become", "reason"),
    [
        ("refused", "the lunch lady says no"),
        ("untranslatable", "this record has no row"),
        ("rubbish", "the value is not Avro"),
    ],
)
@pytest.mark.parametrize("tells_time", [False, True])
def test_what_never_goes_is_a_dead_letter_and_the_rest_goes_on(
    bus: Bus, lunch: FakeProduct, become: Any, reason: str, tells_time: bool
) -> None:
    bus.publish("student", "s1", become=become)
    bus.publish("student", "s2")
    bus.broker.unwritten = 2
    about = bus.about()
    state = bus.replay(lunch, about, tells_time=tells_time).run()
    assert lunch.ids == ["s2"]
    [dead_letter] = bus.dead_letters
    assert dead_letter.reason.startswith(f"in the replay {about.id}: ")
    assert reason in dead_letter.reason
    assert (state.left_out, state.delivered) == (1, {"student": 1})


def test_into_another_place_nothing_is_a_dead_letter_and_that_place_says_where_to_go_on(
    bus: Bus, lunch: FakeProduct
) -> None:
    for number in range(3):
        bus.publish("student", f"s{number}")
    bus.publish("student", "s3", become="refused")
    lunch.journal = {bus.place("student"): 1}
    state = bus.replay(lunch, bus.about(into="elsewhere")).run()
    assert lunch.ids == ["s1", "s2"]
    assert (state.left_out, bus.dead_letters) == (1, [])
    assert lunch.journal == {bus.place("student"): 4}


def test_what_fails_into_another_place_is_logged_and_has_no_dead_letter(
    bus: Bus, lunch: FakeProduct
) -> None:
    """A retry of a dead letter would deliver to the place of the live consumer."""
    bus.publish("student", "s1", become="untranslatable")
    bus.publish("student", "s2", become="untranslatable")
    about = bus.about(into="elsewhere")
    with structlog.testing.capture_logs() as logs:
        state = bus.replay(lunch, about).run()
    assert state.left_out == 2
    assert topics.deadletters(bus.settings, "lunch") not in bus.broker.topics
    (line,) = [line for line in logs if line["event"] == "records could not be delivered"]
    assert (line["records"], line["place"]) == (2, "schoolbus.student/0/0")
    assert "this record has no row" in line["example"]
    for shown, place in ((about, "elsewhere"), (bus.about(), "")):
        console = Console(file=StringIO(), width=500)
        _show(console, replay_log.ReplayEntry(shown, state), "done")
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("see bus deadletters list lunch" in text) is not bool(place)
        assert ("They have no dead letters" in text) is bool(place)


def test_into_another_place_the_current_state_is_without_withdrawn_records(
    bus: Bus, lunch: FakeProduct
) -> None:
    history(bus)
    bus.publish("class", "c1", status="tobedeleted")
    bus.replay(lunch, bus.about(into="elsewhere", only_current=True)).run()
    assert sorted(lunch.ids) == ["s0", "s1", "s2"]  # nor the records that refer to the class


# ---- progress -----------------------------------------------------------------------------------


def test_progress_is_saved_after_each_batch(bus: Bus, lunch: FakeProduct) -> None:
    for number in range(5):
        bus.publish("student", f"s{number}")
    about = bus.about()
    saved = []
    lunch.before = lambda _: saved.append(sum(bus.state(about).done.values()))
    bus.replay(lunch, about, batch=2, tells_time=True).run()
    assert lunch.batches == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    assert saved == [0, 2, 4]


def test_batches_that_divide_the_records_evenly_leave_no_empty_one(
    bus: Bus, lunch: FakeProduct
) -> None:
    for number in range(4):
        bus.publish("student", f"s{number}")
    about = bus.about()
    bus.replay(lunch, about, batch=2, tells_time=True).run()
    assert lunch.batches == [["s0", "s1"], ["s2", "s3"]]
    assert bus.state(about).done == about.stop


def test_a_stop_pauses_after_the_batch_in_hand_and_it_goes_on_from_there(
    bus: Bus, lunch: FakeProduct
) -> None:
    history(bus)
    about = bus.about()
    run = bus.replay(lunch, about, batch=1, tells_time=True)
    lunch.before = lambda _: run.stop()
    assert run.run().status == "paused"
    assert lunch.ids == STORY[:1]
    lunch.before = lambda _: None
    assert bus.replay(lunch, about, batch=1, tells_time=True).run().status == "done"
    assert lunch.ids == STORY


@pytest.mark.parametrize(("to", "status"), [("pause", "paused"), ("cancel", "cancelled")])
def test_a_request_is_answered_after_the_current_batch(
    bus: Bus, lunch: FakeProduct, to: Any, status: str
) -> None:
    history(bus)
    about = bus.about()

    def ask(_: object) -> None:
        bus.request(about, to)
        bus.clock.advance(2)

    lunch.before = ask
    assert bus.replay(lunch, about, batch=1, tells_time=True).run().status == status
    assert bus.state(about).status == status
    assert lunch.ids == STORY[:1]


def test_a_request_is_answered_while_the_product_is_down(bus: Bus, lunch: FakeProduct) -> None:
    history(bus)
    about = bus.about()
    lunch.failures = [RetryLater("down") for _ in range(1_000)]
    bus.clock.after(30, lambda: bus.request(about, "pause"))
    assert bus.replay(lunch, about, tells_time=True).run().status == "paused"
    assert lunch.ids == []


def test_what_the_product_cannot_take_now_is_tried_again(bus: Bus, lunch: FakeProduct) -> None:
    history(bus)
    lunch.failures = [RetryLater("busy", after=45)]
    before = bus.clock.now
    bus.replay(lunch, bus.about(), batch=1, tells_time=True).run()
    assert lunch.ids == STORY
    assert 45 <= bus.clock.now - before < 60


def test_a_stop_of_the_product_is_saved_as_failed_and_the_replay_continues(
    bus: Bus, lunch: FakeProduct
) -> None:
    history(bus)
    about = bus.about()
    lunch.failures = [Stop("the key is refused")]
    with pytest.raises(Stop, match="the key is refused"):
        bus.replay(lunch, about, tells_time=True).run()
    assert (bus.state(about).status, bus.state(about).error) == ("failed", "the key is refused")
    assert bus.replay(lunch, about, batch=1, tells_time=True).run().error == ""
    assert lunch.ids == STORY


def test_a_second_process_takes_over_and_the_first_ends(bus: Bus, lunch: FakeProduct) -> None:
    history(bus)
    about = bus.about()
    second = FakeProduct()

    def take_over(_: object) -> None:
        lunch.before = lambda _: None
        bus.replay(second, about, batch=1, tells_time=True).run()

    lunch.before = take_over
    with pytest.raises(Stop, match="another process runs this replay"):
        bus.replay(lunch, about, batch=3, tells_time=True).run()
    assert second.ids == STORY
    assert bus.state(about).status == "done"


def test_a_rate_is_kept(bus: Bus, lunch: FakeProduct) -> None:
    for number in range(20):
        bus.publish("student", f"s{number}")
    moments = []
    lunch.before = lambda _: moments.append(bus.clock.now)
    bus.replay(lunch, bus.about(rate=2.0), tells_time=True).run()
    assert [len(batch) for batch in lunch.batches if batch] == [2] * 10
    assert 9 <= moments[-1] - moments[0] < 11


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("at", range(3))
def test_killed_at_any_batch_it_delivers_the_rest_and_at_most_one_batch_again(
    bus: Bus, lunch: FakeProduct, batch: int, taken: bool, at: int
) -> None:
    history(bus)
    about = bus.about()
    left = [at]

    def kill(coming: Batch) -> None:
        left[0] -= len(coming.parts) > 0
        if left[0] == -1 and coming.parts:
            (lunch.aftermath if taken else lunch.failures).append(Killed())

    lunch.before = kill
    killed = at < -(-len(STORY) // batch)
    run = bus.replay(lunch, about, batch=batch, tells_time=True)
    if killed:
        with pytest.raises(Killed):
            run.run()
        bus.replay(lunch, about, batch=batch, tells_time=True).run()
    else:
        run.run()
    assert bus.state(about).status == "done"
    again = STORY[at * batch : (at + 1) * batch] if killed and taken else []
    assert sorted(lunch.ids) == sorted(STORY + again)
    assert sum(bus.state(about).delivered.values()) == len(STORY)


# ---- while the live consumer runs ---------------------------------------------------------------


def test_one_that_is_overtaken_looks_again_and_leaves_the_newer_state_to_the_live_consumer(
    bus: Bus, lunch: FakeProduct
) -> None:
    history(bus)
    live = bus.worker(lunch)
    live.run(until_caught_up=True)
    about = bus.about()
    begun = len(lunch.ids)
    met: list[int] = []

    def change(_: object) -> None:
        lunch.overtake = lambda: None
        bus.publish("student", "s1", grades=["08"])
        bus.worker(lunch).run(until_caught_up=True)
        met.append(len(lunch.ids))

    lunch.overtake = lambda: change(None)
    bus.replay(lunch, about).run()
    assert met == [begun + 1]  # the live consumer delivered the change first
    assert lunch.ids[begun + 1 :] == "s2 s0 c1 s0-c1 s1-c1 s2-c1".split()
    assert lunch.records["student", "s1"]["grades"] == ["08"]


def test_without_a_lock_the_last_word_is_the_latest(bus: Bus) -> None:
    history(bus)
    lunch = Unlocked()
    bus.worker(lunch).run(until_caught_up=True)
    begun = len(lunch.ids)

    def change(_: object) -> None:
        lunch.before = lambda _: None
        bus.publish("student", "s1", grades=["08"])
        bus.worker(lunch).run(until_caught_up=True)

    lunch.before = change
    bus.replay(lunch, bus.about()).run()
    assert lunch.ids[begun:].count("s1") == 3  # live, earlier and current state
    assert lunch.records["student", "s1"]["grades"] == ["08"]


STUDENTS = st.sampled_from(["s0", "s1", "s2"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["publish", "live", "kill", "lost", "retry", "pause"]), STUDENTS),
    max_size=8,
)


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(
    before=st.lists(STUDENTS, min_size=1, max_size=10),
    troubles=st.lists(STEPS, min_size=1, max_size=4),
    batch=st.integers(1, 4),
    chunk=st.sampled_from([FakeProduct, Unlocked]),
    current=st.booleans(),
)
def test_a_replay_never_takes_a_product_back_in_time(
    before: list[str],
    troubles: list[list[tuple[str, str]]],
    batch: int,
    chunk: type[FakeProduct],
    current: bool,
) -> None:
    """The product ends with the latest state of each record, after any failure.

    Records arrive, the live consumer delivers, and the replay is killed, paused and resumed. A product
    with a lock never has an older state than the live consumer delivered.
    """
    with pytest.MonkeyPatch.context() as patch:
        bus = Bus(patch, partitions=2)
        lunch = chunk()
        for student in before:
            bus.publish("student", student)
        if troubles[0]:  # otherwise the live consumer has not delivered anything
            bus.worker(lunch).run(until_caught_up=True)
        about = bus.about(only_current=current)
        delivered_rows: dict[str, int] = {}
        for steps in troubles:
            run = bus.replay(lunch, about, batch=batch)

            def happen(steps: list[tuple[str, str]] = list(steps), run: Any = run) -> None:  # noqa: B006
                lunch.overtake = lambda: None
                while steps:
                    what, student = steps.pop(0)
                    if what == "publish":
                        bus.publish("student", student)
                    elif what == "live":
                        bus.worker(lunch).run(until_caught_up=True)
                    elif what == "pause":
                        run.stop()
                    else:
                        lunch.overtake = happen
                        how = {"retry": RetryLater("busy"), "kill": Killed(), "lost": Killed()}
                        (lunch.aftermath if what == "lost" else lunch.failures).append(how[what])
                        return
                lunch.overtake = lambda: None

            lunch.overtake = happen
            try:
                run.run()
            except Killed:
                lunch.failures, lunch.aftermath = [], []
        lunch.overtake = lambda: None
        lunch.failures, lunch.aftermath = [], []
        bus.replay(lunch, about, batch=batch).run()
        assert bus.state(about).status == "done"
        bus.worker(lunch).run(until_caught_up=True)
        latest = {(m.key() or b"").decode(): m for m in bus.published}
        had = {record["sourcedId"]: message for message, _, record in lunch.delivered_rows}
        assert {k: m.offset() for k, m in had.items()} == {k: m.offset() for k, m in latest.items()}
        if not lunch.unlocked and troubles[0]:
            for message, _, record in lunch.delivered_rows[len(before) :]:
                assert (message.offset() or 0) >= delivered_rows.get(record["sourcedId"], 0)
                delivered_rows[record["sourcedId"]] = message.offset() or 0


# ---- while Kafka is down ------------------------------------------------------------------------


def away(bus: Bus, lunch: FakeProduct, seconds: float) -> None:
    """Take Kafka down for this many seconds once the product has the first batch."""

    def back() -> None:
        bus.broker.down = False
        bus.broker.restarts += 1

    def go(_: object) -> None:
        lunch.before = lambda _: None
        bus.broker.down = True
        bus.clock.after(seconds, back)

    lunch.before = go


@pytest.mark.parametrize("tells_time", [False, True])
@pytest.mark.parametrize("seconds", [3, 300])
def test_a_replay_goes_on_when_kafka_comes_again(
    bus: Bus, lunch: FakeProduct, seconds: float, tells_time: bool
) -> None:
    history(bus)
    bus.broker.fetch = 1  # so that most is still unread when Kafka goes down
    about = bus.about()
    away(bus, lunch, seconds)
    state = bus.replay(lunch, about, batch=1, tells_time=tells_time).run()
    assert state.status == bus.state(about).status == "done"
    # Only a product with `tells_time` gets the first of the two states of s0.
    assert lunch.ids == (STORY if tells_time else [STORY[0], *STORY[2:]])
    assert sum(state.delivered.values()) == len(lunch.ids)


def test_a_stop_while_kafka_is_away_ends_it_and_it_goes_on_later(
    bus: Bus, lunch: FakeProduct
) -> None:
    history(bus)
    bus.broker.fetch = 1
    about = bus.about()
    run = bus.replay(lunch, about, batch=1, tells_time=True)
    away(bus, lunch, 1_000)
    bus.clock.after(10, run.stop)
    with pytest.raises(RetryLater, match=f"bus replay resume {about.id}"):
        run.run()
    bus.broker.down = False
    assert bus.replay(lunch, about, batch=1, tells_time=True).run().status == "done"
    assert sorted(set(lunch.ids)) == sorted(set(STORY))


@pytest.mark.parametrize("code", [KafkaError._TIMED_OUT, KafkaError.CONCURRENT_TRANSACTIONS])
def test_progress_that_cannot_be_saved_is_aborted_and_written_again(
    bus: Bus, lunch: FakeProduct, code: int
) -> None:
    history(bus)
    about = bus.about()
    bus.broker.ends = [code] * 3
    state = bus.replay(lunch, about, batch=1, tells_time=True)
    with pytest.raises(RetryLater):
        state.run()  # the first message of progress, which says that it starts
    bus.broker.ends = []
    assert bus.replay(lunch, about, batch=1, tells_time=True).run().status == "done"

    about = bus.about()
    lunch.before = lambda _: bus.broker.ends.append(code)
    assert bus.replay(lunch, about, batch=1, tells_time=True).run().status == "done"
    assert bus.state(about).status == "done"
    assert lunch.ids == STORY * 2


def test_an_instance_that_continued_in_between_is_not_fenced_off(
    bus: Bus, lunch: FakeProduct
) -> None:
    """Only this process loses Kafka; another process resumes the replay and ends it."""
    history(bus)
    about = bus.about()
    run = bus.replay(lunch, about, batch=1, tells_time=True)

    def taken_over(_: object) -> None:
        lunch.before = lambda _: None
        assert bus.replay(lunch, about, batch=1, tells_time=True).run().status == "done"
        bus.broker.ends = [KafkaError._TIMED_OUT]
        run._log._doubt = True

    lunch.before = taken_over
    with pytest.raises(Stop, match="another process runs this replay now"):
        run.run()
    assert bus.state(about).status == "done"


def test_the_topic_of_replays_is_read_once(
    bus: Bus, lunch: FakeProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    class Counting(Reader):
        def take(self, *args: Any, **kwargs: Any) -> Any:
            messages, ended = super().take(*args, **kwargs)
            given.extend(messages)
            return messages, ended

    history(bus)
    run = bus.replay(lunch, bus.about(), batch=1, tells_time=True)
    for _ in range(50):
        bus.request(bus.about(), "run")
    monkeypatch.setattr(replay_log, "Reader", Counting)
    lunch.before = lambda _: bus.clock.advance(2)
    assert run.run().status == "done"
    there = len(bus.broker.messages(topics.replays(bus.settings)))
    assert 50 < len(given) <= there
