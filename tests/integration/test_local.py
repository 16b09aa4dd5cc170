"""The embedded bus for real: its commands start, kill, damage and repair it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from bus import local
from bus.kafka.client import client_settings
from bus.kafka.overview import TopicState, overview
from bus.settings import Settings
from bus.standard import KINDS
from tests.integration.commands import Commands, until
from tests.integration.conftest import Bus

SHARED = ("BUS_CACHE_DIR", "BUS_MAVEN_REPOSITORY")
"""The folder of the downloaded programs is the same for every home."""


@pytest.fixture
def own(bus: Bus, tmp_path: Path) -> Iterator[Commands]:
    """An empty home beside the running one; its path has unusual characters."""
    home = tmp_path / ("a home = $x [b] ü % " + "long" * 30)
    shared = {name: os.environ[name] for name in SHARED if name in os.environ}
    yield Commands(bus.settings.model_copy(update={"home": home}), tmp_path, shared)
    local.down(home)


def pids(commands: Commands) -> dict[str, int]:
    return {name: one["pid"] for name, one in commands.run("status")["running"].items()}


def kill(*ids: int) -> None:
    for one in ids:
        psutil.Process(one).kill()
    until(lambda: not [one for one in ids if _runs(one)], "the killed processes have ended")


def _runs(one: int) -> bool:
    return psutil.pid_exists(one) and psutil.Process(one).status() != psutil.STATUS_ZOMBIE


@pytest.mark.longest
@pytest.mark.embedded
def test_a_life_of_starts_kills_and_damage(bus: Bus, own: Commands) -> None:
    home = own.settings.home

    # A second start takes over from a killed one; of two starts at once, one waits.
    up = own.start("up")
    until((home / "run" / "registry.json").exists, "the first of the two is started")
    up.kill()
    up.communicate()
    both = [own.start("up"), own.start("up")]
    first, second = (process.communicate(timeout=60)[0] for process in both)
    assert first == second
    state = own.run("status")
    assert state["running"].keys() == {"kafka", "registry"}
    assert state["bootstrap"] != local.endpoints(bus.home).bootstrap
    assert own.run("doctor")["ok"]

    own.run("schemas", "apply")
    listed, topics = own.run("schemas", "list"), own.run("status")["topics"]
    assert len(topics) == len(listed["subjects"]) == len(KINDS)

    # Kill it and damage files that can be rebuilt: the next start restores everything.
    kill(*pids(own).values())
    assert own.run("status", status=1)["dead"] == ["kafka", "registry"]
    (home / "kafka/meta.properties").write_text("")
    quorum = home / "kafka/__cluster_metadata-0/quorum-state"
    quorum.write_text(quorum.read_text()[:20])
    wrong = [check["name"] for check in own.run("doctor", status=1)["checks"] if not check["ok"]]
    assert wrong == ["data", "Kafka", "registry"]
    own.run("up", process=True)
    assert (own.run("schemas", "list"), own.run("status")["topics"]) == (listed, topics)

    # A part that is killed alone is restarted alone.
    before = pids(own)
    kill(before["kafka"])
    own.run("up", process=True)
    after = pids(own)
    assert after["registry"] == before["registry"]
    assert after["kafka"] != before["kafka"]

    assert own.run("down")["stopped"] == ["kafka", "registry"]
    assert own.run("down")["stopped"] == []
    assert not java_in(home)

    # Damage that loses data stops the start, and no process is left.
    (home / "registry/registry.mv.db").unlink()
    assert "registry/registry.mv.db" in own.run("up", status=1)["error"]
    assert not java_in(home)


def java_in(home: Path) -> list[int]:
    """Return the Java processes that work in this home."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            if one.name() == "java" and Path(one.cwd()).is_relative_to(home):
                found.append(one.pid)
    return found


def test_the_lag_of_a_group_counts_records_alone(bus: Bus) -> None:
    settings = bus.settings.model_copy(update={"topic_prefix": "lag"})
    name = "lag.student"
    admin = AdminClient(client_settings(settings))
    admin.create_topics([NewTopic(name, num_partitions=2)])[name].result(10)
    producer = Producer({**client_settings(settings), "transactional.id": "lag"})
    producer.init_transactions(10)
    for number, end in ((300, True), (7, False), (5, True)):
        producer.begin_transaction()
        for each in range(number):
            producer.produce(name, str(each), partition=each % 2)
        producer.flush()  # so that aborted messages have their offsets, too
        producer.commit_transaction() if end else producer.abort_transaction()

    group = {**client_settings(settings), "group.id": "lag-lunch", "enable.auto.commit": False}
    consumer = Consumer(group)
    counted = []
    for offsets in ((0, 0), (100, 148), (150, 150), (152, 150)):
        places = [TopicPartition(name, p, at) for p, at in enumerate(offsets)]
        consumer.commit(offsets=places, asynchronous=False)
        counted.append(overview(settings).lag["lag-lunch"])
    end = [consumer.get_watermark_offsets(TopicPartition(name, p))[1] for p in (0, 1)]
    consumer.commit(
        offsets=[TopicPartition(name, p, at) for p, at in enumerate(end)], asynchronous=False
    )
    counted.append(overview(settings).lag["lag-lunch"])
    consumer.close()

    assert counted == [305, 57, 5, 5, 0]
    assert all(later <= earlier for earlier, later in pairwise(counted))
    assert overview(settings).topics == {name: TopicState(2, 305, exact=True)}
    long = overview(settings, counted=300).topics
    assert long == {name: TopicState(2, sum(end), exact=False)}


@pytest.mark.embedded
def test_a_cluster_that_is_named_has_a_status_as_well(bus: Bus, commands: Commands) -> None:
    found = local.endpoints(bus.home)
    named = Commands(
        Settings(home=commands.cwd / "none", topic_prefix=commands.settings.topic_prefix),
        commands.cwd,
        {"BUS_KAFKA__BOOTSTRAP": found.bootstrap, "BUS_REGISTRY__URL": found.registry},
    )
    assert named.run("status")["topics"] == commands.run("status")["topics"]
    checks = named.run("doctor")["checks"]
    assert [check["says"] for check in checks[1:]] == [
        f"1 broker(s) at {found.bootstrap}",
        f"answers at {found.registry}",
    ]
