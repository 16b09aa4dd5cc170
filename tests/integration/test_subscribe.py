"""A vendor's five lines receive records decoded, typed, and at least once."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from bus import Stop, subscribe
from bus.demo.sample import District
from bus.kafka import overview, topics
from bus.kafka.client import client_settings, group_settings
from bus.local import reach
from bus.settings import Settings
from bus.vendors.vendor_schema import vendor_topic
from tests import light_install
from tests.integration.commands import Commands
from tests.integration.conftest import PARTITIONS

DISTRICT = District(students=100)


@pytest.fixture
def published(commands: Commands) -> Commands:
    """The first day of a small district, published."""
    path = DISTRICT.write(commands.cwd / "day-1.zip")
    commands.run("produce", "oneroster-csv", str(path))
    return commands


def test_all_events_come_decoded_and_in_the_schema(published: Commands) -> None:
    events = list(
        subscribe("student", group="lunch", settings=published.settings, until_caught_up=True)
    )
    assert {event.record["sourcedId"] for event in events} == {
        f"student-{n:07d}" for n in range(100)
    }
    assert {event.type for event in events} == {"org.schoolbus.student.created"}
    assert {event.source for event in events} == {"/oneroster-csv"}
    assert len({event.id for event in events}) == 100
    assert all(event.time.tzinfo is not None for event in events)


def test_what_was_handled_does_not_come_again_and_the_rest_does(published: Commands) -> None:
    def some(number: int | None) -> list[str]:
        found = subscribe("student", group="bus", settings=published.settings, until_caught_up=True)
        return [event.id for event in islice(found, number)]

    first, rest, nothing = some(40), some(None), some(None)
    # The fortieth record was not acknowledged when its reader closed, so it comes again.
    assert set(first) & set(rest) <= {first[-1]}
    assert len(set(first) | set(rest)) == 100
    assert nothing == []


def test_two_groups_have_all_each(published: Commands) -> None:
    for group in ("one", "two"):
        found = subscribe("org", group=group, settings=published.settings, until_caught_up=True)
        assert len(list(found)) == DISTRICT.schools + 1


def test_a_kind_that_is_not_there_is_a_mistake(published: Commands) -> None:
    with pytest.raises(ValueError, match="unknown kind: pupil"):
        next(subscribe("pupil", group="x", settings=published.settings))


def test_a_vendor_that_was_away_for_too_long_must_start_anew(commands: Commands) -> None:
    settings = commands.settings
    topic = vendor_topic(settings, "math-app", "student")
    topics.ensure(settings, [topic])
    producer = Producer(client_settings(settings))
    now = int(time.time() * 1000)

    def delete(days: int, *keys: str) -> None:
        """Write deletions, which need no schema, as if some days ago."""
        for key in keys:
            for partition in range(PARTITIONS):
                producer.produce(
                    topic, None, f"{key}-{partition}", partition, timestamp=now - days * topics.DAY
                )
        assert producer.flush(30) == 0

    def read(group: str, number: int | None = None, *, anew: bool = False) -> list[str]:
        """Read some events, or all; all but the last of some count as handled."""
        events = subscribe(
            "student",
            agreement="math-app",
            group=group,
            settings=settings,
            until_caught_up=True,
            anew=anew,
        )
        found = [event.key for event in islice(events, number)]
        events.close()
        return sorted(found)

    def late() -> set[str]:
        groups = overview.reading_groups(settings)
        return {name.rpartition(".")[2] for name, found in groups.items() if topic in found}

    plain = [TopicPartition(topic, partition, 2) for partition in range(PARTITIONS)]
    delete(90, "a", "b")
    commit(settings, "plain", plain)
    some = read("first", 3)
    assert late() == set()
    assert {*some, *read("first")} == every("ab")  # a first read may be interrupted
    delete(40, "c")
    delete(10, "d")
    assert late() == {"plain"}
    with pytest.raises(Stop, match=r"math-app unread for more than 30 days.*anew=True"):
        read("plain")
    assert late() == {"plain"}
    some = read("plain", 3, anew=True)
    assert late() == set()
    assert {*some, *read("plain")} == every("abcd")
    delete(0, "e")
    assert set(read("plain")) == every("e")
    assert read("plain") == []
    assert set(read("plain", anew=True)) == every("abcde")


def every(keys: str) -> set[str]:
    return {f"{key}-{partition}" for key in keys for partition in range(PARTITIONS)}


def commit(settings: Settings, group: str, offsets: list[TopicPartition]) -> None:
    """Commit as a program with another Kafka client does."""
    client = Consumer(group_settings(settings, f"vendor.math-app.{group}"))
    client.commit(offsets=offsets, asynchronous=False)
    client.close()


VENDOR = """
from bus import subscribe

for event in subscribe("student", group="vendor", until_caught_up=True):
    print(event.kind, event.record["sourcedId"])
"""


def test_a_vendor_needs_a_plain_installation_only(published: Commands, tmp_path: Path) -> None:
    """Python has only what `pip install schoolbus` installs (tests/light_install.py)."""
    light_install.link(tmp_path / "packages")
    ends = reach(published.settings.home) if published.settings.embedded else None
    env = published.env | {"PYTHONPATH": str(tmp_path / "packages")}
    if ends:  # as a vendor names the district's cluster
        env |= {"BUS_KAFKA__BOOTSTRAP": ends.bootstrap, "BUS_REGISTRY__URL": ends.registry}
    done = subprocess.run(
        [sys.executable, "-S", "-c", VENDOR],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {f"student student-{n:07d}" for n in range(100)}
