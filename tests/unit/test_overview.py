"""The overview of a cluster: partitions that get new leaders, and groups that read late."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from bus.errors import RetryLater
from bus.kafka import late_groups
from bus.kafka import overview as module
from bus.kafka.overview import Overview, overview
from bus.settings import KafkaSettings, Settings
from tests.fakes.admin import FakeAdmin
from tests.fakes.broker import EPOCH, Broker
from tests.fakes.clock import Clock

SETTINGS = Settings(kafka=KafkaSettings(bootstrap="fake:9092"))


@pytest.mark.parametrize(
    "code", [KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.NOT_LEADER_FOR_PARTITION]
)
def test_a_broker_that_has_just_started_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    answers: list[Any] = [KafkaException(KafkaError(code)), Overview({}, {"canvas": 3})]

    def answer(*_: Any) -> Overview:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    monkeypatch.setattr(module, "_overview", answer)
    assert overview(SETTINGS).lag == {"canvas": 3}


def test_another_error_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fails(*_: Any) -> Overview:
        asked.append(1)
        raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))

    monkeypatch.setattr(module, "_overview", fails)
    with pytest.raises(RetryLater, match="GROUP_AUTHORIZATION_FAILED"):
        overview(SETTINGS)
    assert len(asked) == 1


# ---- groups that read late -----------------------------------------------------------------------

PREFIX = "schoolbus.vendor.math-app"
DAY = 86_400_000
NOW = EPOCH + 100 * DAY


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    """A vendor's topic with two old messages and a new one, and one with an old one only."""
    found = Broker(Clock())
    monkeypatch.setattr(module, "AdminClient", partial(FakeAdmin, found))
    monkeypatch.setattr("bus.kafka.late_groups.now", lambda: NOW)
    for topic, days in (("student", (90, 31, 29)), ("org", (90,))):
        found.create(f"{PREFIX}.{topic}", 1)
        for ago in days:
            found.append(f"{PREFIX}.{topic}", 0, key=b"p", value=b"v", time=NOW - ago * DAY)
    found.create("schoolbus.student", 1)
    found.append("schoolbus.student", 0, key=b"s", value=b"v", time=NOW - 90 * DAY)
    return found


def commit(broker: Broker, group: str, metadata: str = "", **offsets: int) -> None:
    for kind, offset in offsets.items():
        place = (f"{PREFIX}.{kind}", 0)
        broker.group(group).committed[place] = offset
        broker.group(group).metadata[place] = metadata


def test_a_group_reads_late_if_it_has_left_a_message_unread_for_more_than_30_days(
    broker: Broker,
) -> None:
    commit(broker, "late", student=1, org=1)
    commit(broker, "very-late", student=0, org=0)
    commit(broker, "good", student=2, org=1)
    commit(broker, "of-a-deleted-topic", course=0)
    commit(broker, "began-yesterday", late_groups.metadata(NOW - DAY), student=0)
    commit(broker, "began-in-spring", late_groups.metadata(NOW - 50 * DAY), student=0)
    broker.group("district").committed["schoolbus.student", 0] = 0
    broker.group("never-read")
    student, org = f"{PREFIX}.student", f"{PREFIX}.org"
    assert module.reading_groups(SETTINGS) == {
        "late": {student},
        "very-late": {student, org},
        "good": set(),
        "of-a-deleted-topic": set(),
        "began-yesterday": set(),
        "began-in-spring": {student},
        "district": set(),
    }


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (None, 0),
        ("", 0),
        ("anything", 0),
        ("schoolbus-complete-at=", 0),
        ("schoolbus-complete-at=-5", 0),
        ("schoolbus-complete-at=1795500000000", EPOCH),
        (late_groups.metadata(EPOCH), EPOCH),
    ],
)
def test_the_metadata_of_another_program_says_nothing(text: str | None, time: int) -> None:
    assert late_groups.complete_at(TopicPartition("t", 0, 1, *([text] if text else []))) == time
