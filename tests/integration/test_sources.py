"""Polled and streamed sources on a real bus: the position is published with the events."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bus.contract import a_record
from bus.errors import Stop
from bus.ingest import pipeline, position
from bus.ingest.streaming import stream
from bus.kafka import topics
from bus.kafka.reader import scan
from bus.settings import Settings
from bus.source import ChangeBatch, Staging
from bus.standard.json import to_json
from tests.integration.commands import Commands


class System:
    """A SIS with a log of changes; a position is the number of changes that were read."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []

    def poll(self, staging: Staging) -> None:
        """Stage the changes since the position: the latest state of each org."""
        changed = dict(self.log[int(staging.position or 0) :])
        staging.con.execute(
            "CREATE TABLE raw_org (_file VARCHAR, _line BIGINT, sourcedId VARCHAR, name VARCHAR, "
            "type VARCHAR)"
        )
        for line, (id_, name) in enumerate(changed.items(), 1):
            staging.con.execute(
                "INSERT INTO raw_org VALUES ('orgs', ?, ?, ?, 'school')", [line, id_, name]
            )
        staging.coverage["org"] = "delta"
        staging.position = str(len(self.log))

    def follow(self, begin: str, stopped: Callable[[], bool]) -> Iterator[ChangeBatch]:
        """Yield each change by itself, as JSON."""
        for at, (id_, name) in enumerate(self.log[int(begin or 0) :], int(begin or 0) + 1):
            document = to_json("org", a_record("org") | {"sourcedId": id_, "parentSourcedId": None})
            yield ChangeBatch({"org": [document | {"name": name}]}, str(at))


def events(settings: Settings) -> Counter[str]:
    """Return how often each org was published."""
    found = scan(settings, topics.topic(settings, "org"))
    return Counter((message.key() or b"").decode() for message in found)


def test_a_poll_goes_on_where_the_last_one_ended(commands: Commands) -> None:
    system, settings = System(), commands.settings
    system.log += [("o1", "North"), ("o2", "South")]
    first = pipeline.produce(settings, "oursis", system.poll, polled=True)
    assert first.records["org"]["created"] == 2
    system.log.append(("o2", "South High"))
    second = pipeline.produce(settings, "oursis", system.poll, polled=True)
    assert second.records["org"] == {
        "created": 0,
        "updated": 1,
        "withdrawn": 0,
        "unchanged": 0,
        "quarantined": 0,
    }
    assert position.read(settings, "/oursis") == "3"
    assert events(settings) == {"o1": 1, "o2": 2}


def test_a_poll_killed_before_its_commit_is_asked_for_again(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its events nor its position were committed, so the same changes come once more."""
    system, settings = System(), commands.settings
    system.log.append(("o1", "North"))
    publish = position.publish

    def killed(*arguments: Any) -> None:
        publish(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(position, "publish", killed)
        pipeline.produce(settings, "oursis", system.poll, polled=True)
    assert position.read(settings, "/oursis") == ""
    pipeline.produce(settings, "oursis", system.poll, polled=True)
    assert position.read(settings, "/oursis") == "1"
    assert events(settings) == {"o1": 1}


def test_a_refused_poll_keeps_its_position(commands: Commands) -> None:
    """The guard stops a mass withdrawal; the next poll starts at the same position."""
    settings = commands.settings

    def everything(*ids: str) -> Callable[[Staging], None]:
        def read(staging: Staging) -> None:
            staging.con.execute(
                "CREATE TABLE raw_org AS SELECT 'orgs' AS _file, 1::BIGINT AS _line, "
                "unnest(?::VARCHAR[]) AS sourcedId, 'A' AS name, 'school' AS type",
                [list(ids)],
            )
            staging.coverage["org"] = "bulk"
            staging.position = str(len(ids))

        return read

    pipeline.produce(settings, "oursis", everything("o1", "o2", "o3", "o4"), polled=True)
    with pytest.raises(Stop, match="would withdraw"):
        pipeline.produce(settings, "oursis", everything(), polled=True)
    assert position.read(settings, "/oursis") == "4"


def test_a_stream_goes_on_after_the_last_transaction(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that is killed in its second transaction publishes each change once."""
    system, settings = System(), commands.settings
    system.log += [("o1", "North"), ("o2", "South"), ("o3", "East")]
    publish, count = position.publish, iter(range(10))

    def killed(*arguments: Any) -> None:
        publish(*arguments)
        if next(count) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(position, "publish", killed)
        stream(settings, "oursis", system.follow, threading.Event())
    assert position.read(settings, "/oursis") == "1"
    report = stream(settings, "oursis", system.follow, threading.Event())
    assert report.records == {"org": 2}
    assert position.read(settings, "/oursis") == "3"
    assert events(settings) == {"o1": 1, "o2": 1, "o3": 1}


def test_a_streamed_record_that_is_not_of_the_standard_is_quarantined(commands: Commands) -> None:
    """The other records are published, and no report contains a value."""
    system, settings = System(), commands.settings
    system.log += [("o1", ""), ("o2", "South")]
    report = stream(settings, "oursis", system.follow, threading.Event())
    assert (report.records, report.quarantined) == ({"org": 1}, 1)
    (fault,) = commands.run("quarantine", "list")["faults"]
    assert fault["source"] == "/oursis" and fault["kind"] == "org"
    assert "South" not in json.dumps(fault)
