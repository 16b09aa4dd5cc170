"""A vendor reads its topic with `subscribe`, and finds its schemas by the gate before the registry."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import httpx2
import pytest
from confluent_kafka import Producer
from pydantic import SecretStr

from bus import Stop, subscribe
from bus.kafka.client import client_settings
from bus.registry.codec import Encoder
from bus.registry.registry_client import client
from bus.settings import RegistrySettings
from bus.vendors.agreement import load
from bus.vendors.registry_tokens import new_token, remove_tokens
from bus.vendors.scope import compile_scope
from bus.vendors.vendor_schema import lookup, vendor_schema, vendor_subject, vendor_topic
from tests.integration.commands import Commands

EXAMPLES = Path(__file__).parents[2] / "deploy" / "agreements"
NAME = "library"


def test_a_vendor_reads_its_topic_with_the_schemas_of_the_gate(commands: Commands) -> None:
    settings = commands.settings
    folder = commands.cwd / "agreements"
    shutil.copytree(EXAMPLES, folder)
    commands.run("vendors", "apply")
    scope = compile_scope(load(folder / f"{NAME}.toml"))
    ids = lookup(settings, NAME, scope)
    schema = vendor_schema(scope, "student", NAME)
    record = dict.fromkeys(field["name"] for field in schema["fields"]) | {
        "sourcedId": "s1",
        "status": "active",
        "givenName": "Zoë",
    }
    producer = Producer(client_settings(settings))
    topic = vendor_topic(settings, NAME, "student")
    value = Encoder("student", ids["student"], schema).encode(record)
    producer.produce(topic, value, b"s1", partition=0)
    producer.produce(topic, None, b"s2", partition=0)
    assert producer.flush(30) == 0

    token = new_token(settings, NAME, f"vendor-{NAME}-a")
    with commands.running("vendors", "gate") as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        of_vendor = settings.model_copy(
            update={
                "registry": RegistrySettings(
                    url=url, username=f"vendor-{NAME}-a", password=SecretStr(token)
                )
            }
        )
        events = list(
            subscribe(
                "student", agreement=NAME, group="a", settings=of_vendor, until_caught_up=True
            )
        )
        assert [(event.key, event.record) for event in events] == [("s1", record), ("s2", None)]
        assert events[1].type == "org.schoolbus.student.deleted"

        own = {vendor_subject(settings, NAME, kind) for kind in scope.kinds}
        with client(of_vendor) as registry, client(settings) as everything:
            assert set(registry.subjects()) == own
            assert registry.version(next(iter(own))).version == 1
            every = set(everything.subjects()) - own
            others = {everything.version(name).id for name in every} - set(ids.values())
        assert any(".vendor.math-app." in name for name in every)
        with httpx2.Client(auth=(f"vendor-{NAME}-a", token)) as http:
            answers = {http.get(f"{url}/schemas/ids/{id_}").content for id_ in [*others, 10**6]}
            assert answers == {b'{"error_code": 40403, "message": "Schema not found"}'}

        remove_tokens(settings, NAME)
        began = time.monotonic()
        with pytest.raises(Stop, match="rejects these credentials"):
            next(subscribe("student", agreement=NAME, group="b", settings=of_vendor))
        assert time.monotonic() - began < 30
