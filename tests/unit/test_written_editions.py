"""Which edition of an agreement its topics hold whole."""

from __future__ import annotations

import pytest

from bus.kafka import topics
from bus.vendors import applied, written_editions
from tests.fakes.harness import Bus
from tests.unit.test_vendors_applied import an_applied


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    bus = Bus(monkeypatch)
    applied.write(bus.settings, an_applied())
    return bus


def test_before_the_topics_are_written_there_is_none(bus: Bus) -> None:
    assert written_editions.read(bus.settings, "math-app") == ""


def test_the_last_note_about_an_agreement_counts(bus: Bus) -> None:
    written_editions.note(bus.settings, "math-app", "first")
    written_editions.note(bus.settings, "library", "other")
    written_editions.note(bus.settings, "math-app", "second")
    assert written_editions.read(bus.settings, "math-app") == "second"
    assert written_editions.read(bus.settings, "library") == "other"


def test_the_same_note_is_written_once(bus: Bus) -> None:
    for _ in range(3):
        written_editions.note(bus.settings, "math-app", "first")
    assert len(bus.broker.messages(topics.vendors(bus.settings))) == 2


def test_a_note_is_no_agreement(bus: Bus) -> None:
    written_editions.note(bus.settings, "math-app", "first")
    assert list(applied.read(bus.settings)) == ["math-app"]
