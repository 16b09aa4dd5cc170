"""How long history is kept, and what it costs."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bus.cli import app
from bus.kafka import topics
from bus.kafka.retention import DistrictSize, _changes, _known, _loses, plan, wanted
from bus.settings import RetentionSettings, Settings

DAY = 24 * 60 * 60 * 1000


def settings(**how: int | bool) -> Settings:
    return Settings(home=Path("nowhere"), retention=RetentionSettings(**how))  # type: ignore[arg-type]


def test_a_topic_is_kept_as_the_settings_say() -> None:
    found = wanted(settings(history_days=30), "schoolbus.student")
    assert found == {"cleanup.policy": "compact", "min.compaction.lag.ms": str(30 * DAY)}
    found = wanted(settings(attendance_days=90), "schoolbus.attendance")
    assert found == {"cleanup.policy": "delete", "retention.ms": str(90 * DAY)}


def test_only_what_is_kept_by_time_can_be_tiered() -> None:
    """Kafka refuses remote storage for compacted topics."""
    tiered = settings(tiered=True, local_days=3)
    assert "remote.storage.enable" not in wanted(tiered, "schoolbus.student")
    found = wanted(tiered, "schoolbus.attendance")
    assert (found["remote.storage.enable"], found["local.retention.ms"]) == ("true", str(3 * DAY))


def test_what_a_district_costs() -> None:
    found = {
        topic.name.rpartition(".")[2]: topic
        for topic in plan(settings(), DistrictSize(1_000, attendance_a_day=1_000), 3)
    }
    assert found["student"].first == 1_000 * 65 * 3
    assert found["student"].later > found["student"].first
    assert found["enrollment"].records == 8_000
    assert found["attendance"].later == 1_000 * 180 * 2 * 211 * 3


def test_tiered_attendance_costs_the_brokers_little() -> None:
    district = DistrictSize(1_000, attendance_a_day=1_000)
    whole = plan(settings(), district, 3)[-1]
    tiered = plan(settings(tiered=True, local_days=7), district, 3)[-1]
    assert tiered.later == pytest.approx(whole.later * 7 / 730, rel=0.01)


@pytest.mark.parametrize(
    ("before", "after", "loses"),
    [("1000", "2000", False), ("2000", "1000", True), ("-1", "1000", True), ("1000", "-1", False)],
)
def test_what_would_take_history_away(before: str, after: str, loses: bool) -> None:
    changes = _changes({"retention.ms": before}, {"retention.ms": after})
    assert _loses(changes) is loses


def test_the_settings_apply_to_every_internal_topic() -> None:
    """The functions of `bus.kafka.topics` that name a topic by the settings alone are the measure."""
    own = settings(deadletter_days=45)
    named = {
        function(own)
        for function in vars(topics).values()
        if inspect.isfunction(function)
        and function.__module__ == topics.__name__
        and list(inspect.signature(function).parameters) == ["settings"]
        and inspect.signature(function).return_annotation == "str"
    }
    assert {"schoolbus.audit", "schoolbus.quarantine", "schoolbus.replays"} <= named
    assert named == set(topics.internal(own))
    assert all(_known(own, name) for name in named)
    assert not _known(own, "schoolbus.of-somebody-else")
    assert wanted(own, "schoolbus.audit")["retention.ms"] == str(45 * DAY)


def test_a_topic_that_kafka_only_compacts_loses_history_when_it_deletes_too() -> None:
    assert _loses(_changes({"cleanup.policy": "compact"}, {"cleanup.policy": "compact,delete"}))
    assert not _loses(_changes({"cleanup.policy": "delete"}, {"cleanup.policy": "compact"}))


def test_replicas_are_as_many_as_the_cluster_must_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_day(*arguments: str) -> int:
        answer = CliRunner().invoke(app, ["topics", "plan", "--json", *arguments])
        return int(json.loads(answer.output)["firstDay"])

    assert first_day() == 3 * first_day("--replication", "1")
    monkeypatch.setenv("BUS_KAFKA__REPLICATION", "1")
    assert first_day() == first_day("--replication", "1")
