"""Agreements are applied to a real bus, again and again with the same result, and revoked."""

from __future__ import annotations

import shutil
from pathlib import Path

from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from bus.demo.sample import District
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.registry.registry_client import client
from tests.integration.commands import Commands

EXAMPLES = Path(__file__).parents[2] / "deploy" / "agreements"
DISTRICT = District(students=100)


def test_agreements_are_applied_twice_and_revoked(commands: Commands) -> None:
    folder = commands.cwd / "agreements"
    shutil.copytree(EXAMPLES, folder)
    prefix = commands.settings.topic_prefix
    commands.run("produce", "oneroster-csv", str(DISTRICT.write(commands.cwd / "day-1.zip")))

    planned = {one["name"]: one for one in commands.run("vendors", "plan")["changes"]}
    assert planned["library"]["action"] == "new"
    assert planned["library"]["students"]["enter"] == 100
    assert 0 < planned["math-app"]["students"]["enter"] < 100

    first = commands.run("vendors", "apply")
    state = _state(commands)
    assert first["vendors"].keys() == {"library", "math-app", "reading-study"}
    library = first["vendors"]["library"]
    assert library["topics"]["student"] == f"{prefix}.vendor.library.student"
    assert library["group"] == f"{prefix}.vendor.library."
    assert library["username"] is library["credentials"] is library["ca"] is None
    assert commands.run("vendors", "apply") == first
    assert _state(commands) == state
    assert {one["action"] for one in commands.run("vendors", "plan")["changes"]} == {"unchanged"}

    (folder / "library.toml").unlink()
    assert commands.run("vendors", "apply") == first

    revoked = commands.run("vendors", "revoke", "library", "--why", "a breach", "--yes")
    assert revoked["state"] == "revoked"
    again = commands.run("vendors", "revoke", "library", "--why", "another reason", "--yes")
    assert again["endedAt"] == revoked["endedAt"] and again["why"] == "a breach"
    shutil.copy(EXAMPLES / "library.toml", folder)
    assert commands.run("vendors", "apply")["vendors"].keys() == {"math-app", "reading-study"}
    states = {o["name"]: o["state"] for o in commands.run("vendors", "list")["agreements"]}
    assert states == {"library": "revoked", "math-app": "active", "reading-study": "active"}
    assert commands.run("vendors", "allow", "math-app")["confirmed"] == 1
    assert commands.run("vendors", "show", "library")["applied"]


def _state(commands: Commands) -> dict[str, object]:
    """Return the topics of vendors with their settings, their schemas, and the master key."""
    settings = commands.settings
    admin = AdminClient(client_settings(settings))
    with client(settings) as registry:
        subjects = [
            name for name in registry.subjects() if name.startswith(settings.topic("vendor."))
        ]
        schemas = {name: registry.versions(name) for name in subjects}
    names = {
        name: len(about.partitions)
        for name, about in admin.list_topics(timeout=10).topics.items()
        if topics.is_vendor_topic(settings, name)
    }
    wide = len(admin.list_topics(timeout=10).topics[settings.topic("student")].partitions)
    assert set(names.values()) == {wide} and len(names) == len(schemas) > 10
    resource = ConfigResource(ResourceType.TOPIC, next(iter(names)))
    found = admin.describe_configs([resource])[resource].result()
    assert {found[key].value for key in topics.VENDOR} == set(topics.VENDOR.values())
    key = (settings.home / "vendors" / "master.key").read_text()
    return {"topics": names, "schemas": schemas, "key": key}
