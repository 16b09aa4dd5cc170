"""The consumer's loop, without Kafka."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.harness import Bus, FakeProduct


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    yield Bus(monkeypatch)


def test_what_was_there_is_delivered_and_then_it_ends(bus: Bus) -> None:
    bus.enroll("s1", "c1")
    bus.publish("class", "c1")
    bus.publish("student", "s1")
    lunch = FakeProduct()
    outcome = bus.worker(lunch).run(until_caught_up=True)
    assert lunch.ids == ["s1", "c1", "s1-c1"]
    assert outcome.delivered == {"student": 1, "class": 1, "enrollment": 1}
    assert bus.committed() == bus.ends()
