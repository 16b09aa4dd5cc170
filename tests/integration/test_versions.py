"""A replay reads history that was written with three versions of the standard.

The versions were registered one after the other. The translations know only the last one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from confluent_kafka import Producer

from bus import plugins
from bus.bench.replay_benchmark import replay
from bus.contract.example_records import a_record
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import envelope, now
from bus.registry import subjects
from bus.replay.replay_log import ReplayState
from bus.settings import Settings
from bus.standard import KINDS
from tests.integration.conftest import Bus
from tests.three_versions import knowing, versions, written

VERSIONS = {kind: versions(kind) for kind in KINDS}
LATEST = {kind: said[2] for kind, said in VERSIONS.items()}


def registered(settings: Settings, folder: Path, version: int) -> dict[str, int]:
    """Register a version of all entities; return the ids in the registry."""
    folder.mkdir()
    for kind, said in VERSIONS.items():
        (folder / f"{kind}.avsc").write_text(json.dumps(said[version]), "utf-8")
    return {one.kind: one.id for one in subjects.apply(settings, folder)}


@pytest.fixture(scope="module")
def settings(bus: Bus, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A bus whose topics hold each kind of record in three versions."""
    folder = tmp_path_factory.mktemp("versions")
    settings = bus.settings.model_copy(update={"topic_prefix": "versions"})
    topics.ensure(settings, [topics.topic(settings, kind) for kind in KINDS])
    producer = Producer(client_settings(settings))
    for version in range(3):
        ids = registered(settings, folder / f"v{version}", version)
        for kind, said in VERSIONS.items():
            new_field = {"note": "by the door"} if version == 1 else {"districtNote": "by the door"}
            # Each enrollment has another student; for one student they would be equivalent to
            # Canvas.
            own = {"userSourcedId": f"student-{version}"} if kind == "enrollment" else {}
            one = a_record(kind, sourcedId=f"{kind}-{version}", **own) | (
                new_field if version else {}
            )
            headers = envelope(kind, "created", source="/versions", time=now(), traceparent=None)
            producer.produce(
                topics.topic(settings, kind),
                written(said[version], one, ids[kind]),
                one["sourcedId"].encode(),
                headers=[*headers, ("ce_id", f"{kind}-{version}".encode())],
            )
    assert producer.flush(30) == 0
    return settings


def replayed(settings: Settings, name: str, into: Path) -> ReplayState:
    """Run `bus replay NAME --into INTO` in this process, whose standard is the last version."""
    with knowing(LATEST):
        return replay(settings, name, str(into))()


@pytest.mark.parametrize("name", ["canvas", "microsoft-sds", "webhook"])
def test_history_of_three_versions_is_replayed(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    state = replayed(settings, name, tmp_path / "out")
    assert state.left_out == 0
    assert state.delivered == dict.fromkeys(plugins.product(name).kinds, 3)


def test_a_vendor_receives_the_same_from_each_version(settings: Settings, tmp_path: Path) -> None:
    replayed(settings, "webhook", tmp_path / "out")
    reported = defaultdict(list)
    for line in (tmp_path / "out" / "events.ndjson").read_text("utf-8").splitlines():
        said = json.loads(line)
        whose = said["row"].keys() & {"sourcedId", "userSourcedId"}
        reported[said["kind"]].append(said["row"] | dict.fromkeys(whose, ""))
    assert set(reported) == set(plugins.product("webhook").kinds)
    for first, second, third in reported.values():
        assert first == second == third
