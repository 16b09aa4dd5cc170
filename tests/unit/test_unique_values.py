"""Values that only one record may have at a product: which record gets one, and when.

Case 3 of the field: a child who comes back, two students who swap their usernames, and a username
that is later given to another student.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers import canvas
from tests import canvas_model
from tests.fakes.harness import Batch, Bus, FakeProduct, Instance, Killed, Refusal, RetryLater

UNIQUE = {"student": "username", "staff": "username"}
EXAMPLES = max(5, settings().max_examples // 3)
"""The number of examples; each one runs a consumer with separate files several times."""
Logins = dict[str, str | None]


class Strict(FakeProduct):
    """A product that refuses a login that another user had before the batch or has in it."""

    def __init__(self) -> None:
        super().__init__()
        self.logins: Logins = {}
        self.wrong: list[str] = []
        self.before = self.check

    def check(self, batch: Batch) -> None:
        """Check and keep the logins of a batch. Order within the batch makes no difference."""
        new: Logins = {}
        for part in batch.parts:
            if part.kind in UNIQUE:
                for row in part.rows:
                    is_active = row["status"] == "active"
                    name = row["username"] if is_active else None
                    new[row["sourcedId"]] = name and name.lower()
        for id_, login in new.items():
            held = {other for other, had in self.logins.items() if login and had == login} - {id_}
            twice = {other for other, has in new.items() if login and has == login} - {id_}
            if held | twice:
                self.wrong.append(f"{id_} is delivered with the login of {sorted(held | twice)}")
        self.logins |= new


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bus]:
    yield Bus(monkeypatch, home=tmp_path)


@pytest.fixture
def lunch() -> Strict:
    return Strict()


def student(bus: Bus, id_: str, username: str | None, status: str = "active") -> None:
    bus.publish("student", id_, username=username, status=status)


def consume(bus: Bus, lunch: Strict, **how: Any) -> Logins:
    """Deliver all events, and return the logins that the product then has."""
    bus.worker(lunch, unique=UNIQUE, **how).run(until_caught_up=True)
    assert lunch.wrong == []
    return lunch.logins


def delivered(lunch: FakeProduct) -> list[tuple[str, str, str | None]]:
    return [
        (row["sourcedId"], row["status"], row["username"]) for _, _, row in lunch.delivered_rows
    ]


# ---- the cases ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 100])
@pytest.mark.parametrize("new_first", [True, False])
def test_a_child_comes_back_with_a_new_record(
    bus: Bus, lunch: Strict, batch: int, new_first: bool
) -> None:
    student(bus, "u-2", "jlepik")
    consume(bus, lunch)
    news: list[tuple[str, str, str]] = [
        ("u-12", "jlepik", "active"),
        ("u-2", "jlepik", "tobedeleted"),
    ]
    for one in news if new_first else reversed(news):
        student(bus, *one)
    assert consume(bus, lunch, batch_records=batch) == {"u-2": None, "u-12": "jlepik"}


@pytest.mark.parametrize("batch", [1, 100])
def test_two_swap_their_usernames(bus: Bus, lunch: Strict, batch: int) -> None:
    student(bus, "a", "red")
    student(bus, "b", "blue")
    consume(bus, lunch)
    student(bus, "a", "blue")
    student(bus, "b", "red")
    assert consume(bus, lunch, batch_records=batch) == {"a": "blue", "b": "red"}


def test_three_pass_theirs_round(bus: Bus, lunch: Strict) -> None:
    for id_, name in zip("abc", ("red", "blue", "green"), strict=True):
        student(bus, id_, name)
    consume(bus, lunch)
    for id_, name in zip("abc", ("blue", "green", "red"), strict=True):
        student(bus, id_, name)
    assert consume(bus, lunch) == {"a": "blue", "b": "green", "c": "red"}


def test_one_that_was_freed_on_monday_is_anothers_on_friday(bus: Bus, lunch: Strict) -> None:
    student(bus, "a", "red")
    consume(bus, lunch)
    student(bus, "a", "pink")
    consume(bus, lunch)
    before = len(lunch.delivered_rows)
    student(bus, "b", "red")
    assert consume(bus, lunch) == {"a": "pink", "b": "red"}
    assert delivered(lunch)[before:] == [("b", "active", "red")], (
        "delivered once, because it was free"
    )


def test_the_old_one_never_leaves(bus: Bus, lunch: Strict) -> None:
    """The new student is delivered without the login, and again when the old one leaves."""
    student(bus, "old", "red")
    consume(bus, lunch)
    student(bus, "new", "Red")
    assert consume(bus, lunch) == {"old": "red", "new": None}
    count = len(lunch.delivered_rows)
    student(bus, "third", "blue")
    assert consume(bus, lunch) == {"old": "red", "new": None, "third": "blue"}
    assert len(lunch.delivered_rows) == count + 1
    student(bus, "old", "red", "tobedeleted")
    assert consume(bus, lunch) == {"old": None, "new": "red", "third": "blue"}


def test_who_has_it_keeps_it(bus: Bus, lunch: Strict) -> None:
    """The first student keeps the login, even if the other one comes first on a later day."""
    student(bus, "old", "red")
    consume(bus, lunch)
    student(bus, "new", "red")
    consume(bus, lunch)
    student(bus, "new", "red")
    student(bus, "old", "red")
    assert consume(bus, lunch) == {"old": "red", "new": None}


def test_a_student_becomes_one_of_the_staff_under_the_same_id(bus: Bus, lunch: Strict) -> None:
    student(bus, "u-1", "red")
    consume(bus, lunch)
    bus.publish("staff", "u-1", username="red")
    assert consume(bus, lunch) == {"u-1": "red"}


def test_without_usernames_nothing_is_held_back(bus: Bus, lunch: Strict) -> None:
    for id_ in "ab":
        student(bus, id_, None)
        student(bus, f"{id_}-empty", "")
    assert set(consume(bus, lunch)) == {"a", "b", "a-empty", "b-empty"}


def test_what_the_product_refused_holds_nothing(bus: Bus, lunch: Strict) -> None:
    bus.publish("student", "old", username="red", become="refused")
    consume(bus, lunch)
    del lunch.logins["old"]
    student(bus, "new", "red")
    assert consume(bus, lunch)["new"] == "red"


def test_what_is_delivered_twice_and_refused_is_a_dead_letter(bus: Bus, lunch: Strict) -> None:
    student(bus, "old", "red")
    consume(bus, lunch)
    student(bus, "new", "red")
    consume(bus, lunch)
    deliver, refused = lunch.deliver, []

    def picky(batch: Batch) -> list[Refusal]:
        found = list(deliver(batch))
        if not batch.offsets:
            refused.extend(m for part in batch.parts for m in part.messages)
            found += [Refusal(message, "no") for message in refused]
        return found

    lunch.deliver = picky  # type: ignore[method-assign]
    student(bus, "old", "red", "tobedeleted")
    consume(bus, lunch)
    assert [dead_letter.id for dead_letter in bus.dead_letters] == ["new"]
    student(bus, "third", "blue")
    consume(bus, lunch)
    assert len(refused) == 1, "it is not delivered again and again"


def test_a_kill_after_the_zip_that_set_it_free(bus: Bus, lunch: Strict) -> None:
    """The product keeps the offsets itself, so the batch is not delivered again."""
    student(bus, "a", "red")
    consume(bus, lunch)
    lunch.journal = {}
    student(bus, "a", "pink")
    student(bus, "b", "red")
    lunch.aftermath.append(Killed())
    instance = bus.worker(lunch, unique=UNIQUE).join()
    with contextlib.suppress(Killed):
        instance.turn(12)
    instance.kill()
    assert lunch.logins == {"a": "pink", "b": None}
    assert consume(bus, lunch) == {"a": "pink", "b": "red"}


def test_canvas_takes_a_swap_and_a_child_that_came_back(bus: Bus, tmp_path: Path) -> None:
    """The model of Canvas refuses a login that another user has."""
    out = tmp_path / "out"

    def to_canvas() -> dict[str, str]:
        delivery = canvas.open_delivery(canvas.Settings(out=out))
        Instance(bus, delivery, canvas.PRODUCT).run(until_caught_up=True)  # type: ignore[arg-type]
        delivery.close()
        users = canvas_model.apply(sorted(out.glob("*.zip")))["users.csv"]
        return {id_: row["login_id"] for (id_,), row in users.items()}

    student(bus, "a", "red")
    student(bus, "b", "blue")
    assert to_canvas() == {"a": "red", "b": "blue"}
    student(bus, "a", "blue")
    student(bus, "b", "red")
    student(bus, "c", None)
    assert to_canvas() == {"a": "blue", "b": "red", "c": "c"}
    student(bus, "c", "blue")
    student(bus, "a", "blue", "tobedeleted")
    assert to_canvas() == {"a": "a", "b": "red", "c": "blue"}


# ---- two instances ------------------------------------------------------------------------------


def pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Bus, str, str]:
    """Return a bus with two partitions, and the id of a student in each."""
    bus = Bus(monkeypatch, partitions=2, home=tmp_path)
    ids = {bus.publish("student", f"s{n}", username=f"s{n}").partition(): f"s{n}" for n in range(9)}
    return bus, ids[0], ids[1]


def both(bus: Bus, lunch: Strict) -> list[Instance]:
    """Start two instances, each with one partition, and let them deliver all events."""
    instances = [bus.worker(lunch, unique=UNIQUE).join() for _ in range(2)]
    bus.share({place: instances[place[1]] for place in bus.every_place()})
    run(bus, instances)
    return instances


def run(bus: Bus, instances: list[Instance], seconds: int = 8) -> None:
    for _ in range(seconds):
        for instance in instances:
            instance.turn(3)
        bus.clock.advance(1)


def test_two_of_two_instances_swap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bus, one, two = pair(monkeypatch, tmp_path)
    instances = both(bus, lunch := Strict())
    student(bus, one, two)
    student(bus, two, one)
    run(bus, instances)
    assert (lunch.logins[one], lunch.logins[two]) == (two, one)
    assert lunch.wrong == []
    for instance in instances:
        instance.leave()


def test_the_old_one_is_another_instances(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The new student comes first, and the other instance is slow."""
    bus, one, two = pair(monkeypatch, tmp_path)
    instances = both(bus, lunch := Strict())
    student(bus, two, one)
    run(bus, instances[1:])
    assert (lunch.logins[one], lunch.logins[two]) == (one, None)
    student(bus, one, one, "tobedeleted")
    run(bus, instances[1:])
    assert lunch.logins[two] is None, "the old one was not delivered to the product yet"
    run(bus, instances)
    assert (lunch.logins[one], lunch.logins[two]) == (None, one)
    assert lunch.wrong == []
    for instance in instances:
        instance.leave()


def test_the_partition_of_the_new_one_goes_to_the_other_instance(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bus, one, two = pair(monkeypatch, tmp_path)
    instances = both(bus, lunch := Strict())
    student(bus, two, one)
    run(bus, instances)
    instances[1].leave()
    bus.share(dict.fromkeys(bus.every_place(), instances[0]))
    student(bus, one, "other")
    run(bus, instances[:1])
    assert (lunch.logins[one], lunch.logins[two]) == ("other", one)
    assert lunch.wrong == []
    instances[0].leave()


# ---- any sequence of events ---------------------------------------------------------------------

IDS, NAMES = "abcde", ("red", "blue", "green", "pink")
DAY = st.dictionaries(
    st.sampled_from(IDS), st.sampled_from((*NAMES, None, "withdrawn")), max_size=4
)
STEPS = st.lists(
    DAY | st.sampled_from(["run", "run in ones", "kill before", "kill after", "lose", "fail"]),
    max_size=12,
)


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=EXAMPLES)
@given(steps=STEPS, order=st.randoms(use_true_random=False))
def test_in_the_end_each_has_its_own(
    steps: list[Any], order: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each username belongs to one person at the end of each day.

    Batches have any size, instances are killed at any point, and the file is lost.
    """
    with pytest.MonkeyPatch.context() as patch:
        bus = Bus(patch, home=tmp_path_factory.mktemp("home"), retry_first=0.1, retry_most=1)
        lunch = Strict()
        sis: dict[str, str | None] = {}
        for step in [*steps, "run"]:
            if isinstance(step, dict):
                change(bus, sis, step, order)
            else:
                happen(bus, lunch, step)
        assert lunch.wrong == []
        assert {id_: lunch.logins[id_] for id_ in sis} == {
            id_: None if name == "withdrawn" else name for id_, name in sis.items()
        }


def change(bus: Bus, sis: dict[str, str | None], day: dict[str, str | None], order: Any) -> None:
    """Publish the day's changes in any order, unless they leave one username to two records."""
    after = dict(sis)
    for id_, name in day.items():
        taken = {other for other, has in after.items() if has == name} - {id_}
        if name in (None, "withdrawn") or not taken - day.keys():
            after[id_] = name
    named = [name for name in after.values() if name not in (None, "withdrawn")]
    if len(named) != len(set(named)):
        return
    changed = [id_ for id_ in after if id_ not in sis or after[id_] != sis[id_]]
    order.shuffle(changed)
    for id_ in changed:
        withdrawn = after[id_] == "withdrawn"
        last = sis.get(id_) if withdrawn else after[id_]
        student(
            bus,
            id_,
            None if last == "withdrawn" else last,
            "tobedeleted" if withdrawn else "active",
        )
    sis |= after


def happen(bus: Bus, lunch: Strict, step: str) -> None:
    match step:
        case "run":
            consume(bus, lunch)
        case "run in ones":
            consume(bus, lunch, batch_records=1)
        case "kill before" | "kill after":
            planned = lunch.failures if step == "kill before" else lunch.aftermath
            planned.append(Killed())
            instance = bus.worker(lunch, unique=UNIQUE, batch_records=2).join()
            with contextlib.suppress(Killed):
                instance.turn(12)
            instance.kill()
            planned.clear()
        case "lose":
            for file in bus.settings.home.rglob("unique.duckdb"):
                file.unlink()
        case "fail":
            lunch.failures.append(RetryLater("not now"))
