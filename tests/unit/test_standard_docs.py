"""The data dictionary and the AsyncAPI document match the schemas and are up to date."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fastavro import parse_schema
from typer.testing import CliRunner

from bus.cli import schemas
from bus.kafka import asyncapi, cloudevents, topics
from bus.settings import Settings
from bus.standard import KINDS, dictionary

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "standard"
HOW_TO_UPDATE = "run `bus schemas docs`"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Return the document as a reader of the YAML sees it."""
    loaded: dict[str, Any] = yaml.safe_load(asyncapi.render("west"))
    return loaded


def test_the_dictionary_is_up_to_date() -> None:
    assert (DOCS / "data-dictionary.md").read_text("utf-8") == dictionary.render(), HOW_TO_UPDATE


def test_the_asyncapi_document_is_up_to_date() -> None:
    assert (DOCS / "asyncapi.yaml").read_text("utf-8") == asyncapi.render("schoolbus"), (
        HOW_TO_UPDATE
    )


def test_the_command_writes_both_with_the_districts_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUS_TOPIC_PREFIX", "west")
    done = CliRunner().invoke(schemas.app, ["docs", "--out", str(tmp_path / "new"), "--json"])
    assert done.exit_code == 0
    written = {
        name: Path(path).read_text("utf-8") for name, path in json.loads(done.stdout).items()
    }
    assert written == {"dictionary": dictionary.render(), "asyncapi": asyncapi.render("west")}


# The dictionary.


def rows(text: str) -> dict[str, list[list[str]]]:
    """Return the table rows as cells for each `## section` of Markdown."""
    return {
        section.splitlines()[0]: [
            re.split(r"(?<!\\) \| ", line.strip("| "))
            for line in section.splitlines()
            if line.startswith("| ")
        ][2:]
        for section in re.split(r"^## ", text, flags=re.M)[1:]
    }


def test_the_dictionary_has_every_field_of_every_kind_in_order() -> None:
    sections = rows(dictionary.render())
    for kind, about in KINDS.items():
        assert [row[0] for row in sections[kind]] == [f"`{field}`" for field in about.fields]


def test_the_dictionary_defines_every_class_of_sensitivity_that_a_field_has() -> None:
    said = {f["sensitivity"] for kind in KINDS.values() for f in kind.schema["fields"]}
    defined = {row[0].strip("*") for row in rows(dictionary.render())["Sensitivity"]}
    assert defined == said == set(dictionary.SENSITIVITY)


def test_a_row_says_all_that_the_schema_does() -> None:
    by_name = {row[0]: row for row in rows(dictionary.render())["demographics"]}
    assert by_name["`sex`"] == [
        "`sex`",
        "Sex or null",
        "no",
        "sensitive",
        "sex",
        "Sex",
        "sexDescriptor",
        "Sex as the district records it. One of `male`, `female`, `other`, `unspecified`.",
    ]
    assert by_name["`sourcedId`"][1:4] == ["text", "yes", "personal"]


def test_a_bar_in_a_text_does_not_end_its_cell() -> None:
    assert dictionary._table(("a",), [("x|y",)]).splitlines()[-1] == r"| x\|y |"


def test_links_in_the_dictionary_lead_somewhere() -> None:
    text = dictionary.render()
    there = {title.lower() for title in re.findall(r"^## (\w+)$", text, re.M)}
    assert set(re.findall(r"\]\(#(\w+)\)", text)) == {kind.lower() for kind in KINDS} <= there


# The AsyncAPI document. When this was written, the document was checked against the JSON Schema of
# AsyncAPI 3.0.0 (asyncapi/spec-json-schemas). The tests below check what that schema and the
# bindings say in words.


def resolve(document: dict[str, Any], pointer: str) -> Any:
    """Return the part of the document that a JSON pointer names (RFC 6901)."""
    found: Any = document
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(part: Any) -> list[str]:
    """Return every `$ref` in a part of the document."""
    if isinstance(part, dict):
        own = [part["$ref"]] if "$ref" in part else []
        return own + [ref for value in part.values() for ref in references(value)]
    return [ref for item in part for ref in references(item)] if isinstance(part, list) else []


def test_it_has_the_objects_of_asyncapi_3(document: dict[str, Any]) -> None:
    """AsyncAPI 3.0.0, "AsyncAPI Object": only these fields; asyncapi and info are required."""
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    assert document.keys() <= {
        "asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components",
    }  # fmt: skip


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = references(document)
    assert len(found) > 5 * len(KINDS)
    for pointer in found:
        assert resolve(document, pointer)


def test_channels_are_the_topics(document: dict[str, Any]) -> None:
    settings = Settings(topic_prefix="west")
    addresses = {name: channel["address"] for name, channel in document["channels"].items()}
    assert addresses == {kind: topics.topic(settings, kind) for kind in KINDS}


def test_an_operation_receives_messages_of_its_own_channel(document: dict[str, Any]) -> None:
    """AsyncAPI 3.0.0, "Operation Object": its messages are a subset of its channel's messages."""
    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"]
        assert operation["action"] == "receive"
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{channel}/messages/")
    assert len(document["operations"]) == len(KINDS)


def test_names_of_channels_operations_and_components_are_allowed(document: dict[str, Any]) -> None:
    """AsyncAPI 3.0.0, "Components Object": keys match this expression."""
    components = document["components"]
    keys = [*document["channels"], *document["operations"], *components["messages"], *components["schemas"]]  # fmt: skip
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", key) for key in keys)


def test_a_payload_is_the_very_schema_and_avro(document: dict[str, Any]) -> None:
    """AsyncAPI 3.0.0, "Multi Format Schema Object"."""
    for kind, about in KINDS.items():
        payload = document["components"]["messages"][kind]["payload"]
        assert payload["schemaFormat"] == "application/vnd.apache.avro;version=1.9.0"
        assert payload["schema"] == about.schema
        parse_schema(payload["schema"])


def test_kafka_bindings(document: dict[str, Any]) -> None:
    """Kafka bindings 0.5.0: the schema id appears only with a registry, and settings keep their types."""
    server = document["servers"]["district"]["bindings"]["kafka"]
    assert server["schemaRegistryUrl"] and server["schemaRegistryVendor"] == "confluent"
    for kind in KINDS:
        message = document["components"]["messages"][kind]["bindings"]["kafka"]
        assert message["key"]["type"] == "string"
        assert (message["schemaIdLocation"], message["schemaIdPayloadEncoding"]) == ("payload", "confluent")  # fmt: skip
        config = document["channels"][kind]["bindings"]["kafka"]["topicConfiguration"]
        assert set(config.pop("cleanup.policy")) <= {"compact", "delete"}
        assert all(type(value) is int for value in config.values())


def test_variables_of_the_server_are_those_in_its_host(document: dict[str, Any]) -> None:
    server = document["servers"]["district"]
    assert set(re.findall(r"\{(\w+)\}", server["host"])) == server["variables"].keys()


def headers_schema(document: dict[str, Any], kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = document["components"]["messages"][kind]["headers"]
    return schema | {"components": document["components"]}


@pytest.mark.parametrize("traceparent", [None, f"00-{'a' * 32}-{'b' * 16}-01"])
def test_the_headers_that_the_bus_writes_are_as_described(
    document: dict[str, Any], traceparent: str | None
) -> None:
    written = cloudevents.envelope(
        "student", "updated", source="/http/pacs", time=cloudevents.now(), traceparent=traceparent
    )
    headers = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in [*written, ("ce_id", b"run-1")]
    }
    schema = headers_schema(document, "student")
    jsonschema.validate(headers, schema)
    assert headers.keys() <= document["components"]["schemas"]["cloudEvent"]["properties"].keys()
    for wrong in ({"ce_type": "org.schoolbus.staff.updated"}, {"content-type": "application/json"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(headers | wrong, schema)


def test_the_version_is_the_newest_of_the_changelog() -> None:
    changelog = (ROOT / "schemas" / "CHANGELOG.md").read_text("utf-8")
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.M)
    assert newest and newest[1] == asyncapi.VERSION
