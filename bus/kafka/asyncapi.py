"""The shared standard as an AsyncAPI document, for programs that read the records.

`bus schemas docs` generates the document from the .avsc files. It describes the topics of the
record kinds as their readers see them. It leaves out the bus's internal topics, such as quarantine
and dead letters, because no other program reads them. `vendor_document` describes the topics of one
vendor in the same way.

Sources: AsyncAPI 3.0.0 (operations say what the described application does: `receive`; "Multi
Format Schema Object" for the Avro payload); AsyncAPI Kafka bindings 0.5.0 (key, topic settings,
where the schema's id is); CloudEvents 1.0.2, "Kafka Protocol Binding", section 3.2 (headers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import yaml

from bus.kafka import cloudevents, topics
from bus.settings import RetentionSettings, Settings
from bus.standard.kinds import KINDS, Kind

VERSION = "1.1.0"
"""The version of the standard, as in schemas/CHANGELOG.md. A new kind or field raises the second
number."""

AVRO = "application/vnd.apache.avro;version=1.9.0"
"""From AsyncAPI 3.0.0, "Schema formats table", which lists no newer version of Avro."""

BINDING = "0.5.0"

VENDOR_CHANGES = ("updated", "withdrawn")
"""The changes that the types of a vendor's events name; see `bus.vendors.outbox`."""

DESCRIPTION = """\
The records that a school district shares with its edtech products. Each kind of record has one
topic. A message describes one record: its key is the record's sourcedId, and its value is the
current state of the whole record (Avro in the Confluent frame: a zero byte, the schema's id as four
bytes, the record). Records that concern a student are partitioned by the student's id, so they have
the same partition number in every topic.

Read with your own schema, and let Avro resolve values that were written with another version: every
version is compatible with every other (FULL_TRANSITIVE). The same event may arrive twice, and then
it has the same `ce_id`. The district decides which topics and fields you may read.
"""


def render(topic_prefix: str) -> str:
    """Return the document as YAML.

    The same schemas always give the same text.

    topic_prefix: the first part of topic names, such as "schoolbus".
    """
    text = as_yaml(document(topic_prefix))
    return f"# Generated from schemas/*.avsc by `bus schemas docs`. Do not edit.\n{text}"


def as_yaml(document: dict[str, Any]) -> str:
    """Return a document as YAML, with its keys in their order."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def document(topic_prefix: str) -> dict[str, Any]:
    """Return the document as a dictionary, with its keys in the order of the YAML."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Schoolbus: the shared standard",
            "version": VERSION,
            "description": DESCRIPTION,
            "license": {
                "name": "Apache-2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            },
        },
        "defaultContentType": cloudevents.CONTENT_TYPE,
        "servers": {"district": _server()},
        "channels": {kind.name: _channel(kind, topic_prefix) for kind in KINDS.values()},
        "operations": {f"receive{_capital(name)}": _operation(name) for name in KINDS},
        "components": {
            "messages": {
                **{kind.name: _message(kind.name, kind.schema) for kind in KINDS.values()},
                "erasure": _erasure(),
            },
            "schemas": {"cloudEvent": _attributes()},
        },
    }


def vendor_document(
    title: str,
    description: str,
    server: dict[str, Any],
    topics_of_kinds: Mapping[str, tuple[str, dict[str, Any]]],
) -> dict[str, Any]:
    """Return the document of a vendor's own topics.

    server:          the Server Object.
    topics_of_kinds: the topic and the Avro schema of each kind.
    """
    kinds = topics_of_kinds.items()
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": VERSION, "description": description},
        "defaultContentType": cloudevents.CONTENT_TYPE,
        "servers": {"district": server},
        "channels": {
            kind: {
                "address": topic,
                "title": schema["name"],
                "description": schema["doc"],
                "messages": _messages(kind),
            }
            for kind, (topic, schema) in kinds
        },
        "operations": {f"receive{_capital(kind)}": _operation(kind) for kind, _ in kinds},
        "components": {
            "messages": {
                **{kind: _message(kind, schema, VENDOR_CHANGES) for kind, (_, schema) in kinds},
                "erasure": _erasure(),
            },
            "schemas": {"cloudEvent": _vendor_attributes()},
        },
    }


def _server() -> dict[str, Any]:
    """Return a placeholder server. Each district fills in its own addresses."""
    return {
        "host": "{host}:{port}",
        "protocol": "kafka-secure",
        "description": "The district's cluster. The district supplies addresses and credentials.",
        "variables": {
            "host": {"default": "kafka.district.example", "description": "A bootstrap server."},
            "port": {"default": "9093", "description": "The server's port for clients."},
        },
        "bindings": {
            "kafka": {
                "schemaRegistryUrl": "https://registry.district.example",
                "schemaRegistryVendor": "confluent",
                "bindingVersion": BINDING,
            }
        },
    }


def _channel(kind: Kind, topic_prefix: str) -> dict[str, Any]:
    return {
        "address": f"{topic_prefix}.{kind.name}",
        "title": kind.schema["name"],
        "description": f"{kind.schema['doc']} Partitioned by {kind.owner}.",
        "messages": _messages(kind.name),
        "bindings": {
            "kafka": {"topicConfiguration": _configuration(kind.name), "bindingVersion": BINDING}
        },
    }


def _messages(kind: str) -> dict[str, Any]:
    return {
        kind: {"$ref": f"#/components/messages/{kind}"},
        "erasure": {"$ref": "#/components/messages/erasure"},
    }


DEFAULTS = Settings.model_construct(topic_prefix="schoolbus", retention=RetentionSettings())
"""Settings with default values only."""


def _configuration(kind: str) -> dict[str, Any]:
    """Return a topic's retention settings, in the types that the Kafka binding requires."""
    config = topics.config(DEFAULTS, topics.topic(DEFAULTS, kind))
    return {
        name: value.split(",") if name == "cleanup.policy" else int(value)
        for name, value in config.items()
    }


def _operation(kind: str) -> dict[str, Any]:
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{kind}"},
        "summary": f"Receive every change to {KINDS[kind].schema['name']} records.",
        "messages": [
            {"$ref": f"#/channels/{kind}/messages/{kind}"},
            {"$ref": f"#/channels/{kind}/messages/erasure"},
        ],
    }


def _message(
    kind: str,
    schema: dict[str, Any],
    changes: tuple[str, ...] = get_args(cloudevents.Change),
) -> dict[str, Any]:
    types = [f"{cloudevents.TYPE_PREFIX}{kind}.{change}" for change in changes]
    return {
        "name": kind,
        "title": schema["name"],
        "summary": schema["doc"],
        "contentType": cloudevents.CONTENT_TYPE,
        "headers": {
            "type": "object",
            "allOf": [{"$ref": "#/components/schemas/cloudEvent"}],
            "properties": {
                "ce_type": {
                    "type": "string",
                    "enum": types,
                    "description": "What changed, and how.",
                }
            },
        },
        "payload": {"schemaFormat": AVRO, "schema": schema},
        "bindings": {
            "kafka": {
                "key": _key(),
                "schemaIdLocation": "payload",
                "schemaIdPayloadEncoding": "confluent",
                "schemaLookupStrategy": "TopicNameStrategy",
                "bindingVersion": BINDING,
            }
        },
    }


def _erasure() -> dict[str, Any]:
    return {
        "name": "erasure",
        "title": "Erasure",
        "summary": "Erase the record with this key (a tombstone: the value is null).",
        "payload": {"type": "null"},
        "bindings": {"kafka": {"key": _key(), "bindingVersion": BINDING}},
    }


def _key() -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "description": "The record's sourcedId in UTF-8."}


def _attributes() -> dict[str, Any]:
    """Return the schema of the headers that every record has.

    See `bus.kafka.cloudevents`. On the wire, all values are UTF-8 text.
    """
    properties: dict[str, dict[str, Any]] = {
        "ce_specversion": {"const": "1.0", "description": "The version of CloudEvents."},
        "ce_id": {
            "minLength": 1,
            "description": "With ce_source, identifies the event. A repeated event keeps it.",
        },
        "ce_source": {
            "format": "uri-reference",
            "description": "The publisher: /oneroster-csv/LABEL, /http/CLIENT.",
        },
        "ce_type": {"description": "org.schoolbus.KIND.CHANGE."},
        "ce_time": {
            "format": "date-time",
            "description": "When the bus learned of the change from the SIS; UTC.",
        },
        "content-type": {
            "const": cloudevents.CONTENT_TYPE,
            "description": "The encoding of the value.",
        },
        "traceparent": {
            "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
            "description": "The W3C trace context, if the publisher has one.",
        },
        cloudevents.UNCHECKED: {
            "pattern": "^[A-Za-z]+(,[A-Za-z]+)*$",
            "description": "Fields that refer to records of kinds that the source does not carry.",
        },
    }
    return {
        "type": "object",
        "description": "CloudEvents 1.0 attributes as Kafka headers (binary content mode).",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "content-type"],
        "properties": {name: {"type": "string", **rest} for name, rest in properties.items()},
    }


def _vendor_attributes() -> dict[str, Any]:
    """Return the schema of a vendor's headers: without what could be compared between vendors."""
    found = _attributes()
    for name in ("traceparent", cloudevents.UNCHECKED):
        del found["properties"][name]
    found["properties"]["ce_source"]["description"] = "The same in all events of the agreement."
    found["properties"]["ce_time"]["description"] = (
        "When the event was made, to the second or the day; UTC."
    )
    return found


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


class _Dumper(yaml.SafeDumper):
    """Writes multi-line text as a literal block, and repeats shared values without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    )


_Dumper.add_representer(str, _text)
