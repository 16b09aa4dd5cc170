"""The overview of a cluster whose partitions get new leaders."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from bus.errors import RetryLater
from bus.kafka import overview as module
from bus.kafka.overview import Overview, overview
from bus.settings import KafkaSettings, Settings

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
