"""Records that are equivalent to a product: which one is delivered, and when.

The students of these tests have several enrollments in one class, as in case 2 of the field.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import zipfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from confluent_kafka import KafkaError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.consume import active_index
from bus.consume.active_index import ActiveIndex
from bus.product import Equivalent
from bus.replay.compare import reconcile
from consumers import canvas
from tests.fakes.harness import Bus, FakeProduct, Instance, Killed, RetryLater

RULE = Equivalent(("classSourcedId", "userSourcedId", "role"), last="endDate", first="beginDate")
SIBLINGS = {"enrollment": RULE}
EXAMPLES = max(5, settings().max_examples // 3)
"""The number of examples; each one runs a consumer with separate files several times."""
FIRST_DAY = date(2026, 8, 24)
LEFT = ("e-1a", date(2026, 8, 24), date(2026, 9, 11))
BACK = ("e-1b", date(2026, 10, 1), date(2026, 12, 18))
Delivered = tuple[str, str, date | None, date | None]
"""What was delivered: the record, its status, the first day and the last day."""


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bus]:
    found = Bus(monkeypatch, home=tmp_path)
    found.publish("student", "u-1")
    found.publish("class", "cl-1")
    found.publish("class", "cl-2")
    yield found


@pytest.fixture
def lunch() -> FakeProduct:
    return FakeProduct()


def enroll(
    bus: Bus, id_: str, first: date | None, last: date | None, status: str = "active", **more: Any
) -> None:
    fields = {"userSourcedId": "u-1", "classSourcedId": "cl-2", "role": "student", **more}
    bus.publish("enrollment", id_, beginDate=first, endDate=last, status=status, **fields)


def consumer(bus: Bus, lunch: FakeProduct, **how: Any) -> Instance:
    return bus.worker(lunch, siblings=SIBLINGS, **how)


def consume(bus: Bus, lunch: FakeProduct, **how: Any) -> list[Delivered]:
    """Deliver all events, and return the enrollment rows that this delivers."""
    before = len(lunch.delivered_rows)
    consumer(bus, lunch, **how).run(until_caught_up=True)
    return delivered(lunch, before)


def delivered(lunch: FakeProduct, since: int = 0) -> list[Delivered]:
    return [
        (row["sourcedId"], row["status"], row["beginDate"], row["endDate"])
        for _, kind, row in lunch.delivered_rows[since:]
        if kind == "enrollment"
    ]


def index_file(bus: Bus) -> Path:
    [path] = bus.settings.home.rglob("*.duckdb")
    return path


# ---- the rule -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 100])
@pytest.mark.parametrize("order", [(LEFT, BACK), (BACK, LEFT)])
def test_a_student_who_came_back_has_access_until_the_latest_day(
    bus: Bus, lunch: FakeProduct, order: Any, batch: int
) -> None:
    """Case 2 of the field: the order and the batches make no difference."""
    for one in order:
        enroll(bus, *one)
    last = consume(bus, lunch, batch_records=batch)[-1]
    assert last == ("e-1b", "active", date(2026, 8, 24), date(2026, 12, 18))


def test_several_in_one_batch_are_delivered_once(bus: Bus, lunch: FakeProduct) -> None:
    enroll(bus, *BACK)
    enroll(bus, *LEFT)
    assert len(consume(bus, lunch)) == 1


@pytest.mark.parametrize(
    ("days", "counts"),
    [
        ([(0, 10), (5, None), (3, 90)], 1),  # no last day is the latest
        ([(0, 30), (5, 30), (3, 30)], 1),  # then the latest first day
        ([(None, 30), (5, 30), (None, 30)], 1),
        ([(5, 30), (5, 30), (5, 30)], 2),  # then the greatest sourcedId
        ([(None, None), (None, None), (None, None)], 2),
    ],
)
def test_the_order_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, days: Any, counts: int
) -> None:
    for number, order in enumerate(itertools.permutations(range(3))):
        bus, lunch = Bus(monkeypatch, home=tmp_path / str(number)), FakeProduct()
        bus.publish("student", "u-1")
        bus.publish("class", "cl-2")
        for one in order:
            first, last = days[one]
            enroll(bus, f"e{one}", day(first), day(last))
        found = consume(bus, lunch, batch_records=1 + number % 3)[-1]
        earliest = min((first for first, _ in days if first is not None), default=None)
        if any(first is None for first, _ in days):
            earliest = None
        assert found == (f"e{counts}", "active", day(earliest), day(days[counts][1]))


def day(number: int | None) -> date | None:
    return None if number is None else FIRST_DAY + timedelta(days=number)


def test_one_of_several_is_withdrawn_and_nothing_is_delivered_if_the_result_is_the_same(
    bus: Bus, lunch: FakeProduct
) -> None:
    enroll(bus, *LEFT)
    enroll(bus, *BACK)
    enroll(bus, "e-1c", date(2026, 9, 20), date(2026, 9, 30))
    consume(bus, lunch)
    enroll(bus, "e-1c", date(2026, 9, 20), date(2026, 9, 30), "tobedeleted")
    assert consume(bus, lunch) == []


def test_the_one_that_counts_is_withdrawn_and_the_next_is_delivered(
    bus: Bus, lunch: FakeProduct
) -> None:
    enroll(bus, *LEFT)
    enroll(bus, *BACK)
    consume(bus, lunch)
    enroll(bus, *BACK, "tobedeleted")
    assert consume(bus, lunch) == [("e-1a", "active", *LEFT[1:])]
    [cause] = [m for m, kind, row in lunch.delivered_rows[-1:] if kind == "enrollment"]
    assert cause.key() == b"e-1b"  # delivered together with the message that caused it


def test_one_of_two_that_give_the_same_row_is_withdrawn_and_nothing_is_delivered(
    bus: Bus, tmp_path: Path
) -> None:
    """A row for Canvas has only the person, the class, the role and the days."""
    enroll(bus, "once", *BACK[1:])
    enroll(bus, "twice", *BACK[1:])
    assert len(to_canvas(bus, tmp_path / "out")) == 1
    enroll(bus, "twice", *BACK[1:], "tobedeleted")
    assert to_canvas(bus, tmp_path / "out") == []
    enroll(bus, "once", *BACK[1:], "tobedeleted")
    assert [row["status"] for row in to_canvas(bus, tmp_path / "out")] == ["inactive"]


def test_the_last_is_withdrawn_and_that_is_delivered(bus: Bus, lunch: FakeProduct) -> None:
    enroll(bus, *LEFT)
    enroll(bus, *BACK)
    consume(bus, lunch)
    enroll(bus, *LEFT, "tobedeleted")
    consume(bus, lunch)
    enroll(bus, *BACK, "tobedeleted")
    assert consume(bus, lunch) == [("e-1b", "tobedeleted", *BACK[1:])]


def test_all_are_withdrawn_at_once(bus: Bus, lunch: FakeProduct) -> None:
    enroll(bus, *LEFT)
    enroll(bus, *BACK)
    consume(bus, lunch)
    enroll(bus, *BACK, "tobedeleted")
    enroll(bus, *LEFT, "tobedeleted")
    assert [status for _, status, _, _ in consume(bus, lunch)] == ["tobedeleted"]


def test_a_change_of_the_one_that_does_not_count_is_not_delivered(
    bus: Bus, lunch: FakeProduct
) -> None:
    enroll(bus, *LEFT)
    enroll(bus, *BACK)
    consume(bus, lunch)
    enroll(bus, *LEFT, primary=True)
    assert consume(bus, lunch) == []
    enroll(bus, *BACK, primary=True)
    assert consume(bus, lunch) == [("e-1b", "active", LEFT[1], BACK[2])]


def test_an_enrollment_that_goes_to_another_class_is_withdrawn_from_the_first(
    bus: Bus, lunch: FakeProduct
) -> None:
    enroll(bus, *BACK)
    consume(bus, lunch)
    enroll(bus, *BACK, classSourcedId="cl-1")
    before = len(lunch.delivered_rows)
    consume(bus, lunch)
    rows = [row for _, _, row in lunch.delivered_rows[before:]]
    assert {(row["classSourcedId"], row["status"]) for row in rows} == {
        ("cl-1", "active"),
        ("cl-2", "tobedeleted"),
    }


def test_what_waited_too_long_stays_and_is_delivered_when_something_comes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lunch: FakeProduct
) -> None:
    bus = Bus(monkeypatch, home=tmp_path, hold_seconds=5)
    bus.carry("class")
    bus.publish("student", "u-1")
    enroll(bus, *BACK)
    assert consume(bus, lunch) == []
    assert [dead_letter.id for dead_letter in bus.dead_letters] == ["e-1b"]
    bus.publish("class", "cl-2")
    enroll(bus, *LEFT)
    assert consume(bus, lunch) == [("e-1b", "active", LEFT[1], BACK[2])]


def test_what_becomes_a_dead_letter_is_not_delivered_beside_a_sibling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lunch: FakeProduct
) -> None:
    """The withdrawal does not wait, so it is in the batch in which its successor is given up."""
    bus = Bus(monkeypatch, home=tmp_path, hold_seconds=0)
    bus.carry("class")
    bus.publish("student", "u-1")
    enroll(bus, *LEFT, "tobedeleted")
    enroll(bus, *BACK)
    assert {status for _, status, *_ in consume(bus, lunch)} == {"tobedeleted"}
    assert [dead_letter.id for dead_letter in bus.dead_letters] == ["e-1b"]


def test_a_record_that_is_no_sibling_is_delivered_as_it_is(bus: Bus, lunch: FakeProduct) -> None:
    enroll(bus, "e-1", None, None)
    enroll(bus, "e-2", None, None, role="teacher")
    enroll(bus, "e-3", None, None, classSourcedId="cl-1")
    assert [id_ for id_, *_ in consume(bus, lunch)] == ["e-1", "e-2", "e-3"]
    enroll(bus, "e-9", None, None, "tobedeleted", classSourcedId="cl-1", role="aide")
    assert consume(bus, lunch) == [("e-9", "tobedeleted", None, None)]  # none is active


# ---- what is kept -------------------------------------------------------------------------------


def test_what_is_active_is_kept_and_not_read_again(
    bus: Bus, lunch: FakeProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    enroll(bus, *LEFT)
    enroll(bus, *BACK)
    consume(bus, lunch)
    monkeypatch.setattr("bus.consume.active_index.ActiveIndex._absorb", refuse)
    enroll(bus, "e-1c", None, date(2026, 9, 30))
    assert len(consume(bus, lunch)) == 1


def refuse(*_: object) -> None:
    raise AssertionError("the topic is read again")


@pytest.mark.parametrize("lost", ["deleted", "damaged", "of another cluster", "of another rule"])
def test_what_is_lost_is_rebuilt_and_nothing_is_delivered_twice(
    bus: Bus, lunch: FakeProduct, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home of the previous version has no such file."""
    enroll(bus, *LEFT)
    enroll(bus, *BACK)
    consume(bus, lunch)
    match lost:
        case "deleted":
            index_file(bus).unlink()
        case "damaged":
            index_file(bus).write_bytes(b"rubbish" * 1000)
        case "of another cluster":
            bus.broker.cluster = "cluster-2"
        case "of another rule":
            monkeypatch.setattr("bus.consume.active_index.LAYOUT", "0")
    assert consume(bus, lunch) == []
    enroll(bus, *LEFT, primary=True)
    assert consume(bus, lunch) == []
    enroll(bus, *BACK, "tobedeleted")
    assert consume(bus, lunch) == [("e-1a", "active", *LEFT[1:])]


@pytest.mark.parametrize("lost", [False, True])
def test_many_that_come_as_columns_are_the_same_as_few(
    bus: Bus, lunch: FakeProduct, lost: bool
) -> None:
    """A large batch is decoded as a whole, and so are the events that rebuild the index."""
    for number in range(100):
        enroll(bus, f"e{number}", *LEFT[1:], userSourcedId=f"s{number}")
        bus.publish("student", f"s{number}")
    assert len(consume(bus, lunch)) == 100
    if lost:
        index_file(bus).unlink()
    enroll(bus, "f7", *BACK[1:], userSourcedId="s7")
    assert consume(bus, lunch) == [("f7", "active", LEFT[1], BACK[2])]
    enroll(bus, "f7", *BACK[1:], "tobedeleted", userSourcedId="s7")
    assert consume(bus, lunch) == [("e7", "active", *LEFT[1:])]


def test_what_is_behind_reads_what_lies_between(bus: Bus, lunch: FakeProduct) -> None:
    enroll(bus, *LEFT)
    consume(bus, lunch)
    old = index_file(bus).read_bytes()
    enroll(bus, *BACK)
    consume(bus, lunch)
    index_file(bus).write_bytes(old)  # the file was lost, or another machine had the partition
    enroll(bus, *LEFT, primary=True)
    assert consume(bus, lunch) == []


def test_a_group_that_is_set_back_gets_all_again(bus: Bus, lunch: FakeProduct) -> None:
    enroll(bus, *LEFT)
    enroll(bus, *BACK)
    first = consume(bus, lunch)
    bus.broker.group(bus.group).committed.clear()
    assert consume(bus, lunch) == first


@pytest.mark.parametrize("how", ["a file", "no right"])
def test_without_a_folder_it_is_kept_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lunch: FakeProduct, how: str
) -> None:
    home = tmp_path / "home"
    if how == "a file":
        home.write_text("")
    else:
        monkeypatch.setattr(Path, "mkdir", no_right)
    bus = Bus(monkeypatch, home=home)
    bus.publish("student", "u-1")
    bus.publish("class", "cl-2")
    enroll(bus, *BACK)
    enroll(bus, *LEFT)
    assert len(consume(bus, lunch)) == 1
    enroll(bus, *LEFT, primary=True)
    assert consume(bus, lunch) == []


def no_right(*_: object, **__: object) -> None:
    raise PermissionError


def test_bytes_that_do_not_decode_are_nothing(bus: Bus, lunch: FakeProduct) -> None:
    enroll(bus, *LEFT)
    bus.publish("enrollment", "e-1a", become="rubbish", userSourcedId="u-1", classSourcedId="cl-2")
    consume(bus, lunch)
    index_file(bus).unlink()
    enroll(bus, *BACK)
    assert consume(bus, lunch) == [("e-1b", "active", LEFT[1], BACK[2])]


def test_a_large_batch_is_written_beside_what_comes_next(
    bus: Bus, lunch: FakeProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_index, "BESIDE", 0)
    instance = consumer(bus, lunch, batch_records=1).join()
    for one in (BACK, LEFT):
        enroll(bus, *one)
    enroll(bus, *BACK, "tobedeleted")
    instance.turn(30)
    assert delivered(lunch)[-1] == ("e-1a", "active", *LEFT[1:])
    instance.leave()
    enroll(bus, *BACK)
    assert consume(bus, lunch)[-1] == ("e-1b", "active", LEFT[1], BACK[2])


def test_what_could_not_be_written_is_written_with_what_comes_next(
    bus: Bus, lunch: FakeProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_index, "BESIDE", 0)
    write, failures = ActiveIndex._write, [True]

    def full(index: ActiveIndex, part: int, offset: int) -> None:
        if failures:
            failures.pop()
            raise duckdb.IOException("no space left")
        write(index, part, offset)

    monkeypatch.setattr(ActiveIndex, "_write", full)
    instance = consumer(bus, lunch).join()
    enroll(bus, *BACK)
    instance.turn(20)
    enroll(bus, *LEFT, primary=True)
    instance.turn(20)
    assert failures == []
    enroll(bus, *LEFT)
    instance.turn(20)
    assert [one[0] for one in delivered(lunch)] == ["e-1b", "e-1b"]


def test_a_file_does_not_include_what_could_not_be_written(
    bus: Bus, lunch: FakeProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_index, "BESIDE", 0)

    def full(index: ActiveIndex, part: int, offset: int) -> None:
        raise duckdb.IOException("no space left")

    instance = consumer(bus, lunch).join()
    with monkeypatch.context() as disk:
        disk.setattr(ActiveIndex, "_write", full)
        enroll(bus, *BACK)
        instance.turn(20)
        instance.leave()
    enroll(bus, *LEFT, primary=True)
    assert consume(bus, lunch)[-1] == ("e-1b", "active", LEFT[1], BACK[2])


def test_another_instance_takes_the_file_over(bus: Bus, lunch: FakeProduct) -> None:
    first = consumer(bus, lunch).join()
    enroll(bus, *BACK)
    first.turn(20)
    second = consumer(bus, lunch).join()
    bus.share(dict.fromkeys(bus.every_place(), second))
    first.turn(5)
    enroll(bus, *LEFT, primary=True)
    second.turn(20)
    assert [one[0] for one in delivered(lunch)] == ["e-1b", "e-1b"]  # its first day is earlier now
    enroll(bus, *LEFT)
    second.turn(20)
    assert len(delivered(lunch)) == 2
    bus.share(dict.fromkeys(bus.every_place(), first))
    second.turn(5)
    enroll(bus, *BACK, "tobedeleted")
    first.turn(20)
    assert delivered(lunch)[-1] == ("e-1a", "active", *LEFT[1:])


# ---- kills --------------------------------------------------------------------------------------


def test_killed_before_the_product_has_it(bus: Bus, lunch: FakeProduct) -> None:
    enroll(bus, *LEFT)
    consume(bus, lunch)
    enroll(bus, *BACK)
    lunch.failures = [Killed()]
    kill_in_delivery(bus, lunch)
    assert consume(bus, lunch) == [("e-1b", "active", LEFT[1], BACK[2])]


def test_killed_after_the_product_has_it_and_before_the_index(bus: Bus, lunch: FakeProduct) -> None:
    """The product has the record but the index does not, and then its withdrawal arrives."""
    enroll(bus, *LEFT)
    consume(bus, lunch)
    enroll(bus, *BACK)
    lunch.aftermath = [Killed()]
    kill_in_delivery(bus, lunch)
    assert delivered(lunch)[-1][0] == "e-1b"
    enroll(bus, *BACK, "tobedeleted")
    assert consume(bus, lunch) == [("e-1a", "active", *LEFT[1:])]


def test_killed_after_the_index_and_before_the_commit(bus: Bus, lunch: FakeProduct) -> None:
    enroll(bus, *LEFT)
    consume(bus, lunch)
    enroll(bus, *BACK)
    committed = dict(bus.broker.group(bus.group).committed)
    consume(bus, lunch)
    bus.broker.group(bus.group).committed.clear()
    bus.broker.group(bus.group).committed |= committed
    assert consume(bus, lunch) == [("e-1b", "active", LEFT[1], BACK[2])]  # the same row again
    enroll(bus, *LEFT, primary=True)
    assert consume(bus, lunch) == []


def kill_in_delivery(bus: Bus, lunch: FakeProduct) -> None:
    instance = consumer(bus, lunch).join()
    with pytest.raises(Killed):
        instance.turn(20)
    instance.kill()


def test_a_batch_that_is_given_up_does_not_change_the_index(bus: Bus, lunch: FakeProduct) -> None:
    enroll(bus, *LEFT)
    consume(bus, lunch)
    first = consumer(bus, lunch).join()
    first.turn(3)
    enroll(bus, *BACK)
    lunch.failures = [RetryLater("busy", after=5)]
    second = consumer(bus, lunch)

    def divide() -> None:
        second.join()
        bus.share(dict.fromkeys(bus.every_place(), second))

    bus.clock.after(3, divide)
    first.turn(20)
    assert delivered(lunch)[-1][0] == "e-1a"
    enroll(bus, *BACK, "tobedeleted")
    second.turn(20)
    assert delivered(lunch)[-1] == ("e-1a", "active", *LEFT[1:])


# ---- replays ------------------------------------------------------------------------------------


class Unlocked(FakeProduct):
    """A product that cannot know what its live consumer has delivered."""

    unlocked = True


def replay(bus: Bus, lunch: FakeProduct, *, since: int = 0, batch: int = 100, **about: Any) -> Any:
    """Replay enrollments from an offset on, and return the rows that this delivers."""
    kinds = ("enrollment",)
    window = bus.window(kinds=kinds)
    window = window.after({bus.place("enrollment"): since})
    before = len(lunch.delivered_rows)
    bus.replay(lunch, bus.about(window, **about), batch=batch, kinds=kinds, siblings=SIBLINGS).run()
    return delivered(lunch, before)


@pytest.mark.parametrize("product", [FakeProduct, Unlocked])
@pytest.mark.parametrize("since", [0, 1])
def test_a_replay_of_some_records_delivers_the_winner_of_all(
    bus: Bus, product: Any, since: int
) -> None:
    """A retry of a dead letter delivers the same row, even if another record became the dead letter."""
    lunch = product()
    enroll(bus, *BACK)
    enroll(bus, *LEFT)
    consume(bus, lunch)
    assert replay(bus, lunch, since=since) == [("e-1b", "active", LEFT[1], BACK[2])]


def test_a_replay_of_a_withdrawal_sends_what_is_active(bus: Bus, lunch: FakeProduct) -> None:
    enroll(bus, *BACK)
    enroll(bus, *LEFT)
    enroll(bus, *BACK, "tobedeleted")
    consume(bus, lunch)
    assert replay(bus, lunch, since=2) == [("e-1a", "active", *LEFT[1:])]
    enroll(bus, *LEFT, "tobedeleted")
    consume(bus, lunch)
    assert {status for _, status, *_ in replay(bus, lunch)} == {"tobedeleted"}


@pytest.mark.parametrize("product", [FakeProduct, Unlocked])
def test_a_replay_does_not_overwrite_a_sibling_that_arrives_during_it(
    bus: Bus, product: Any
) -> None:
    lunch = product()
    enroll(bus, *LEFT)
    consume(bus, lunch)

    def change_sibling() -> None:
        lunch.overtake = lambda: None
        enroll(bus, *BACK)
        consume(bus, lunch)

    lunch.overtake = change_sibling
    replay(bus, lunch)
    assert shown(lunch, "cl-2") == ("e-1b", LEFT[1], BACK[2])


@pytest.mark.parametrize("batch", [1, 100])
@pytest.mark.parametrize("current", [False, True])
def test_a_replay_into_another_place_ends_as_the_live_consumer_did(
    bus: Bus, lunch: FakeProduct, current: bool, batch: int
) -> None:
    enroll(bus, *BACK)
    enroll(bus, *LEFT)
    enroll(bus, "e-2", None, None, classSourcedId="cl-1")
    enroll(bus, "e-2", None, None, "tobedeleted", classSourcedId="cl-1")
    consume(bus, lunch)
    other = FakeProduct()
    replay(bus, other, into="elsewhere", only_current=current, batch=batch)
    for class_ in ("cl-1", "cl-2"):
        assert shown(other, class_) == shown(lunch, class_)


def test_what_was_active_before_the_window_counts(bus: Bus) -> None:
    enroll(bus, *BACK)
    enroll(bus, *LEFT)
    other = FakeProduct()
    assert replay(bus, other, since=1, into="elsewhere") == [("e-1b", "active", LEFT[1], BACK[2])]
    enroll(bus, *LEFT, primary=True)
    assert replay(bus, other, since=2, into="elsewhere") == []


# ---- the products -------------------------------------------------------------------------------


def canvas_rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of enrollments.csv in all zips, in the order of their imports."""
    found: list[dict[str, str]] = []
    for path in sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            if "enrollments.csv" in archive.namelist():
                text = archive.read("enrollments.csv").decode()
                found += csv.DictReader(io.StringIO(text))
    return found


def to_canvas(bus: Bus, folder: Path) -> list[dict[str, str]]:
    """Deliver all events to Canvas's folder, and return the enrollment rows that this adds."""
    before = len(canvas_rows(folder))
    delivery = canvas.open_delivery(canvas.Settings(out=folder))
    Instance(bus, delivery, canvas.PRODUCT).run(until_caught_up=True)  # type: ignore[arg-type]
    delivery.close()
    return canvas_rows(folder)[before:]


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("order", [(LEFT, BACK), (BACK, LEFT)])
def test_canvas_gives_access_until_the_latest_day(
    bus: Bus, tmp_path: Path, order: Any, apart: bool
) -> None:
    out = tmp_path / "out"
    for one in order:
        enroll(bus, *one)
        if apart:
            to_canvas(bus, out)
    to_canvas(bus, out)
    last = canvas_rows(out)[-1]
    assert (last["status"], last["start_date"], last["end_date"]) == (
        "active",
        "2026-08-24T00:00:00Z",
        "2026-12-18T23:59:59Z",
    )
    enroll(bus, *LEFT, primary=True)
    assert to_canvas(bus, out) == []
    enroll(bus, *BACK, "tobedeleted")
    [row] = to_canvas(bus, out)
    assert (row["status"], row["end_date"]) == ("active", "2026-09-11T23:59:59Z")
    enroll(bus, *LEFT, "tobedeleted")
    [row] = to_canvas(bus, out)
    assert row["status"] == "inactive"


@pytest.mark.parametrize("order", [(LEFT, BACK), (BACK, LEFT)])
def test_a_reconciliation_knows_what_counts(bus: Bus, tmp_path: Path, order: Any) -> None:
    out = tmp_path / "out"
    for one in order:
        enroll(bus, *one)
    to_canvas(bus, out)

    def compared() -> int:
        found, _ = reconcile(
            bus.settings,
            canvas.PRODUCT,
            out,
            lambda folder: canvas.open_delivery(canvas.Settings(out=folder)),
        )
        return len(found.found)

    assert compared() == 0
    enroll(bus, *BACK, "tobedeleted")
    assert compared() == 1
    to_canvas(bus, out)
    assert compared() == 0
    enroll(bus, *LEFT, "tobedeleted")
    assert compared() == 1, "Canvas has it yet"
    to_canvas(bus, out)
    assert compared() == 0, "its row is marked as withdrawn"


# ---- any sequence of events ---------------------------------------------------------------------


DAYS = st.sampled_from([None, 0, 10, 20])
ENROLLMENTS = st.tuples(
    st.sampled_from(["e1", "e2", "e3"]),
    DAYS,
    DAYS,
    st.sampled_from(["active", "active", "tobedeleted"]),
    st.sampled_from(["cl-2", "cl-2", "cl-1"]),
)
STEPS = st.lists(
    st.one_of(
        st.lists(ENROLLMENTS, min_size=1, max_size=4),
        st.sampled_from(
            ["run", "run in ones", "kill before", "kill after", "commit fails", "lose", "held"]
        ),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=EXAMPLES)
@given(steps=STEPS)
def test_after_random_steps_the_product_has_the_winning_records(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    """Batches have any size, instances are killed at any point, and the index is sometimes lost."""
    with pytest.MonkeyPatch.context() as patch:
        bus = Bus(patch, home=tmp_path_factory.mktemp("home"), retry_first=0.1, retry_most=1)
        lunch = FakeProduct()
        bus.publish("student", "u-1")
        for name in ("cl-1", "cl-2"):
            bus.publish("class", name)
        state: dict[str, Any] = {}
        for step in [*steps, "run"]:
            if isinstance(step, list):
                for id_, first, last, status, class_ in step:
                    enroll(bus, id_, day(first), day(last), status, classSourcedId=class_)
                    state[id_] = (first, last, status, class_)
            else:
                happen(bus, lunch, step)
        for class_ in ("cl-1", "cl-2"):
            assert shown(lunch, class_) == right(state, class_), class_


def happen(bus: Bus, lunch: FakeProduct, step: str) -> None:
    match step:
        case "run":
            consume(bus, lunch)
        case "run in ones":
            consume(bus, lunch, batch_records=1)
        case "kill before" | "kill after":
            planned = lunch.failures if step == "kill before" else lunch.aftermath
            planned.append(Killed())
            instance = consumer(bus, lunch, batch_records=2).join()
            with contextlib.suppress(Killed):
                instance.turn(12)
            instance.kill()
            planned.clear()
        case "commit fails":
            bus.broker.commits = [KafkaError.REBALANCE_IN_PROGRESS] * 3
            instance = consumer(bus, lunch, batch_records=2).join()
            instance.turn(4)
            instance.kill()
            bus.broker.commits = []
        case "lose":
            for path in bus.settings.home.rglob("*.duckdb*"):
                path.unlink()
        case "held":
            enroll(bus, "e9", None, None, classSourcedId="cl-9")
            instance = consumer(bus, lunch).join()
            instance.turn(4)
            instance.kill()
            bus.publish("class", "cl-9")


def shown(lunch: FakeProduct, class_: str) -> Any:
    """Return what the product has of a class, or None if that was withdrawn."""
    last: Any = None
    for _, kind, row in lunch.delivered_rows:
        if kind == "enrollment" and row["classSourcedId"] == class_:
            last = row
    if last is None or last["status"] != "active":
        return None
    return last["sourcedId"], last["beginDate"], last["endDate"]


def right(state: dict[str, Any], class_: str) -> Any:
    """Return what the product should have of a class, from a second version of the rule."""
    active = [
        (last is None, last or 0, first is not None, first or 0, id_, first, last)
        for id_, (first, last, status, where) in state.items()
        if status == "active" and where == class_
    ]
    if not active:
        return None
    *_, id_, _, last = max(active)
    firsts = [one[5] for one in active]
    return id_, day(None if None in firsts else min(firsts)), day(last)
