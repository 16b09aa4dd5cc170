"""The ids of all delivered records that a consumer reads from its file, not from Kafka."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.consume import delivered_index
from bus.consume.delivered_file import FILE, DeliveredFile
from bus.delivery import Position
from bus.errors import RetryLater
from tests.fakes.harness import Bus, FakeProduct, Killed

EXAMPLES = max(5, settings().max_examples // 10)
"""The number of examples; each one runs a consumer with a file several times."""


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bus]:
    yield Bus(monkeypatch, home=tmp_path, recalls=True, partitions=2)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the keys that the index reads from Kafka."""
    found: list[str] = []
    passages = delivered_index.passages

    def recorded(*arguments: Any) -> Iterator[Any]:
        for message in passages(*arguments):
            found.append((message.key() or b"").decode())
            yield message

    monkeypatch.setattr(delivered_index, "passages", recorded)
    return found


def consume(bus: Bus, lunch: FakeProduct, **how: Any) -> list[str]:
    """Deliver all events in a separate run, and return the ids that it delivered."""
    lunch.journal = {}
    before = len(lunch.delivered_rows)
    bus.worker(lunch, **how).run(until_caught_up=True)
    return [row["sourcedId"] for _, _, row in lunch.delivered_rows[before:]]


def a_school(bus: Bus) -> None:
    bus.publish("class", "5b")
    for n in range(5):
        bus.publish("student", f"s{n}")


def file_of(bus: Bus) -> Path:
    (found,) = bus.settings.home.rglob(FILE)
    return found


# ---- a second run -------------------------------------------------------------------------------


def test_a_second_run_reads_nothing_again(bus: Bus, read: list[str]) -> None:
    lunch = FakeProduct()
    a_school(bus)
    consume(bus, lunch)
    bus.enroll("s1", "5b")
    bus.clock.advance(1)
    assert consume(bus, lunch) == ["s1-5b"]
    assert read == []


def test_without_its_file_it_reads_them_again(bus: Bus, read: list[str]) -> None:
    lunch = FakeProduct()
    a_school(bus)
    consume(bus, lunch)
    file_of(bus).unlink()
    bus.enroll("s1", "5b")
    assert consume(bus, lunch) == ["s1-5b"]
    assert {"s1", "5b"} <= set(read)


@pytest.mark.parametrize("damage", [b"", b"no database", b"\0" * 20_000])
def test_a_damaged_file_is_rebuilt(bus: Bus, read: list[str], damage: bytes) -> None:
    lunch = FakeProduct()
    a_school(bus)
    consume(bus, lunch)
    file_of(bus).write_bytes(damage)
    consume(bus, lunch)
    bus.enroll("s1", "5b")
    read.clear()
    assert consume(bus, lunch) == ["s1-5b"]
    assert read == []


def test_a_group_that_is_set_back_delivers_in_order_again(bus: Bus) -> None:
    """The ids in the file are ahead of the group's offsets, so they do not count as delivered."""
    lunch = FakeProduct()
    a_school(bus)
    bus.enroll("s1", "5b")
    consume(bus, lunch)
    bus.broker.group(bus.group).committed.clear()
    delivered = consume(bus, lunch, batch_records=1)
    assert delivered.index("s1") < delivered.index("s1-5b")
    assert delivered.index("5b") < delivered.index("s1-5b")


def test_a_second_instance_does_without_the_file(bus: Bus, read: list[str]) -> None:
    lunch = FakeProduct()
    a_school(bus)
    consume(bus, lunch)
    instances = [bus.worker(lunch).join() for _ in range(2)]
    bus.share({place: instances[place[1]] for place in bus.every_place()})
    bus.enroll("s1", "5b")
    bus.enroll("s2", "5b")
    for _ in range(8):
        for instance in instances:
            instance.turn(3)
        bus.clock.advance(1)
    for instance in instances:
        instance.leave()
    assert {"s1-5b", "s2-5b"} <= {row["sourcedId"] for _, _, row in lunch.delivered_rows}
    assert known(bus) <= delivered(bus)


def test_a_disk_that_fails_stops_nothing(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RetryLater(f"no space ({errno.ENOSPC})")

    lunch = FakeProduct()
    monkeypatch.setattr(DeliveredFile, "write", full)
    a_school(bus)
    consume(bus, lunch)
    monkeypatch.undo()
    assert len(lunch.delivered_rows) == 6


def test_ids_that_come_again_and_again_are_kept_once(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.consume.delivered_file.REPEATED", 3)
    lunch = FakeProduct()
    for _ in range(9):
        bus.publish("student", "s1")
        consume(bus, lunch)
    assert rows(bus) < 9


# ---- any sequence of events ---------------------------------------------------------------------

STEPS = st.lists(
    st.sampled_from(["publish", "enroll", "run", "run in ones", "kill", "lose", "set back"]),
    max_size=12,
)


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=EXAMPLES)
@given(steps=STEPS)
def test_the_file_has_what_lies_before_its_offsets(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        bus = Bus(patch, home=home, recalls=True, partitions=2, hold_seconds=1)
        lunch = FakeProduct()
        a_school(bus)
        for number, step in enumerate([*steps, "run"]):
            happen(bus, lunch, step, number)
            assert known(bus) <= delivered(bus)
        assert reach(bus) <= bus.committed().items()


def happen(bus: Bus, lunch: FakeProduct, step: str, number: int) -> None:
    match step:
        case "publish":
            bus.publish("student", f"new-{number % 3}")
        case "enroll":
            bus.enroll("s1", f"5{number}")
        case "run":
            consume(bus, lunch)
        case "run in ones":
            consume(bus, lunch, batch_records=1)
        case "kill":
            lunch.aftermath.append(Killed())
            instance = bus.worker(lunch, batch_records=2).join()
            with contextlib.suppress(Killed):
                instance.turn(12)
            instance.kill()
            lunch.aftermath.clear()
        case "lose":
            for file in bus.settings.home.rglob(FILE):
                file.unlink()
        case "set back":
            bus.broker.group(bus.group).committed.clear()


def opened(bus: Bus, query: str) -> list[Any]:
    import duckdb

    files = list(bus.settings.home.rglob(FILE))
    if not files:
        return []
    with duckdb.connect(str(files[0]), read_only=True) as con:
        return con.execute(query).fetchall()


def topics_of(bus: Bus) -> list[str]:
    """Return the topics of the file, in the order of their numbers in it."""
    delivered = bus.worker(FakeProduct()).loop._backlog.delivered
    return sorted(delivered._topics)


def reach(bus: Bus) -> Any:
    names = topics_of(bus)
    found = opened(bus, "SELECT topic, part, next FROM reach")
    return {Position(names[topic], part): at for topic, part, at in found}.items()


def rows(bus: Bus) -> int:
    return int(opened(bus, "SELECT count(*) FROM delivered")[0][0])


def known(bus: Bus) -> set[tuple[str, str]]:
    """Return the topics and ids in the file."""
    names = topics_of(bus)
    return {(names[at], id_) for at, id_ in opened(bus, "SELECT topic, id FROM delivered")}


def delivered(bus: Bus) -> set[tuple[str, str]]:
    """Return the keys of all messages before the file's offsets; the file must have all of them."""
    found = set()
    for place, end in reach(bus):
        for message in bus.published:
            here = Position(message.topic() or "", message.partition() or 0)
            if here == place and (message.offset() or 0) < end:
                found.add((place.topic, (message.key() or b"").decode()))
    assert found == known(bus)
    return found
