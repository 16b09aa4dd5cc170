"""What a crash of Kafka makes readable again in a vendor's topics is deleted again."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from bus.delivery import Position
from bus.settings import KafkaSettings, Settings
from bus.vendors import vendor_deletions
from bus.vendors.district_view import SCHEMA
from bus.vendors.vendor_deletions import LOOK_SECONDS, WATCH_SECONDS, VendorDeletions

TOPIC = "schoolbus.vendor.math-app.student"
P0, P1 = Position(TOPIC, 0), Position(TOPIC, 1)


class Kafka:
    """A Kafka that has these topics, with the first offset and the end of each partition."""

    def __init__(self, marks: dict[Position, tuple[int, int]]) -> None:
        self.marks_of = marks
        self.questions = 0

    def __call__(self, *_: Any) -> Kafka:
        return self

    def __enter__(self) -> Kafka:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def places(self, names: set[str]) -> list[Position]:
        self.questions += 1
        return [place for place in self.marks_of if place.topic in names]

    def marks(self, places: set[Position]) -> dict[Position, tuple[int, int]]:
        return {place: self.marks_of[place] for place in places}

    def delete(self, _: Settings, old: dict[Position, int]) -> None:
        for place, before in old.items():
            self.marks_of[place] = before, self.marks_of[place][1]


class Bench:
    """The deletions of one projection, and the Kafka that it has."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.con = sqlite3.connect(":memory:", isolation_level=None)
        self.con.executescript(SCHEMA)
        self.now = 1000.0
        self.restart()

    def restart(self) -> None:
        """Start the projection again, with the same file."""
        settings = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))
        self.deletions = VendorDeletions(settings, self.con, lambda: self.now)

    def after(self, seconds: float) -> None:
        """Let time pass, and look."""
        self.now += seconds
        self.deletions.repeat()

    def noted(self) -> int:
        (number,) = self.con.execute("SELECT count(*) FROM deleted").fetchone()
        return int(number)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    kafka = Kafka({P0: (70, 90), P1: (0, 5)})
    monkeypatch.setattr(vendor_deletions, "Reader", kafka)
    monkeypatch.setattr(vendor_deletions.old_records, "delete", kafka.delete)
    made = Bench(kafka)
    made.deletions.note({P0: 70})
    return made


def test_what_kafka_shows_again_is_deleted_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.after(0)
    assert not caplog.records
    bench.kafka.marks_of[P0] = 0, 90  # Kafka was killed
    bench.after(LOOK_SECONDS)
    assert bench.kafka.marks_of == {P0: (70, 90), P1: (0, 5)}
    assert "deleted again (partitions: 1)" in caplog.text


def test_it_is_deleted_again_at_the_start_of_the_projection(bench: Bench) -> None:
    bench.kafka.marks_of[P0] = 0, 90
    bench.now += 10 * WATCH_SECONDS
    bench.restart()
    bench.after(0)
    assert bench.kafka.marks_of[P0] == (70, 90)
    assert bench.noted() == 1, "Kafka may be killed again"


def test_kafka_is_asked_now_and_then_and_not_any_more_when_the_deletion_is_on_disk(
    bench: Bench,
) -> None:
    bench.after(0)
    bench.after(LOOK_SECONDS / 2)
    assert bench.kafka.questions == 1
    bench.after(WATCH_SECONDS)
    assert bench.noted() == 0
    bench.after(LOOK_SECONDS)
    assert bench.kafka.questions == 2


def test_a_new_deletion_is_watched_as_long_as_the_first_one(bench: Bench) -> None:
    bench.now += WATCH_SECONDS
    bench.deletions.note({P0: 80})
    bench.kafka.marks_of[P0] = 80, 90
    bench.after(WATCH_SECONDS / 2)
    assert bench.noted() == 1
    bench.kafka.marks_of[P0] = 70, 90
    bench.after(LOOK_SECONDS)
    assert bench.kafka.marks_of[P0] == (80, 90)


def test_nothing_is_deleted_in_a_topic_that_was_created_again(bench: Bench) -> None:
    bench.kafka.marks_of[P0] = 0, 60
    bench.after(0)
    assert bench.kafka.marks_of[P0] == (0, 60)
    bench.kafka.marks_of[P0] = 0, 75  # more was written
    bench.after(LOOK_SECONDS)
    assert bench.kafka.marks_of[P0] == (0, 75)
    assert bench.noted() == 0


def test_a_topic_that_was_deleted_is_forgotten(bench: Bench) -> None:
    del bench.kafka.marks_of[P0]
    bench.after(0)
    assert bench.noted() == 0
