"""Makes the data contracts of an agreement: what its topics hold, in formats for other tools.

For each topic there is one file of the Open Data Contract Standard, and for all of them one
AsyncAPI document. All name only what the vendor receives, so the district may give them to the
vendor. They describe the data, but they enforce nothing.

Sources: Open Data Contract Standard 3.1.0 (Bitol; `schema`, `servers`, `slaProperties`,
`classification`, the metric `invalidValues` of its quality library); AsyncAPI 3.0.0 (see
`bus.kafka.asyncapi`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import NAMESPACE_URL, uuid5

from bus.errors import Stop
from bus.kafka.asyncapi import VERSION, as_yaml, vendor_document
from bus.vendors.vendor_schema import vendor_schema, vendor_subject, vendor_topic

if TYPE_CHECKING:
    from bus.settings import Settings
    from bus.vendors.scope import Scope

ODCS = "v3.1.0"
PLACEHOLDER = "kafka.district.example:9093"
"""The server of a contract for which no address is known."""

Status = Literal["draft", "active", "retired"]
HEAD = "# Generated from the agreement by `bus vendors contracts`. Do not edit.\n"

LOGICAL_TYPES = {
    "string": "string",
    "boolean": "boolean",
    "int": "integer",
    "double": "number",
    "date": "date",
    "timestamp-millis": "timestamp",
    "enum": "string",
    "array": "array",
}
"""The logical type of the Open Data Contract Standard for each Avro type of the standard."""

DESCRIPTION = """\
What {vendor} receives under the agreement “{name}”: {title}. Purpose: {purpose}. Basis: {basis}.
From {from_} until {until}.

A message describes one record: its key is the record's sourcedId, and its value is the current
state of the whole record (Avro in the Confluent frame: a zero byte, the schema's id as four bytes,
the record). The ids are {ids}. The same event may arrive twice, and then it has the same `ce_id`.
A message without a value says that the record with this key must be deleted.
"""


def write(
    settings: Settings, ids_name: str, scope: Scope, out: Path, *, bootstrap: str = ""
) -> dict[str, Path]:
    """Write the contracts of an agreement into a folder, and return the files.

    The files are `TOPIC.odcs.yaml`, by kind, and `asyncapi.yaml`, as "asyncapi".

    bootstrap: the address of Kafka for the vendor, host:port.

    Raises `Stop` if the folder cannot be written.
    """
    texts = {
        kind: (
            f"{vendor_topic(settings, ids_name, kind)}.odcs.yaml",
            as_yaml(data_contract(settings, ids_name, scope, kind, bootstrap=bootstrap)),
        )
        for kind in scope.kinds
    }
    document = asyncapi_document(settings, ids_name, scope, bootstrap=bootstrap)
    texts["asyncapi"] = ("asyncapi.yaml", as_yaml(document))
    written = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for what, (name, text) in texts.items():
            written[what] = out / name
            written[what].write_text(HEAD + text, "utf-8")
    except OSError as error:
        raise Stop(f"{out} cannot be written ({error.strerror}); name another with --out") from None
    return written


def data_contract(
    settings: Settings,
    ids_name: str,
    scope: Scope,
    kind: str,
    *,
    bootstrap: str = "",
    status: Status = "active",
) -> dict[str, Any]:
    """Return the Open Data Contract Standard document of one topic.

    Equal agreements give equal documents.
    """
    agreement = scope.agreement
    topic = vendor_topic(settings, ids_name, kind)
    schema = vendor_schema(scope, kind, ids_name)
    return {
        "apiVersion": ODCS,
        "kind": "DataContract",
        "id": str(uuid5(NAMESPACE_URL, f"urn:schoolbus:{topic}")),
        "name": topic,
        "version": VERSION,
        "status": status,
        "domain": "education",
        "dataProduct": agreement.name,
        "description": {
            "purpose": f"{agreement.purpose} ({agreement.basis})",
            "usage": f"Only as the agreement says: {agreement.document.title}.",
            "limitations": "A message without a value says that the record with this key must be "
            "deleted. The same event may arrive twice.",
        },
        "servers": [
            {
                "server": "district",
                "type": "kafka",
                "host": bootstrap or PLACEHOLDER,
                "format": "avro",
            }
        ],
        "schema": [
            {
                "name": schema["name"],
                "physicalName": topic,
                "physicalType": "topic",
                "logicalType": "object",
                "description": schema["doc"],
                "properties": [_property(field) for field in schema["fields"]],
            }
        ],
        "support": [
            {
                "channel": "district",
                "url": f"mailto:{agreement.contacts.district}",
                "tool": "email",
            }
        ],
        "slaProperties": [
            {"property": "generalAvailability", "value": agreement.from_.isoformat()},
            {"property": "endOfSupport", "value": agreement.until.isoformat()},
            {
                "property": "retention",
                "value": agreement.deletion.days,
                "unit": "d",
                "driver": "regulatory",
                "description": "Days from the agreement's end until the topic is deleted.",
            },
        ],
        "customProperties": [
            {"property": name, "value": value}
            for name, value in {
                "agreementSha256": agreement.document.sha256,
                "identifiers": str(agreement.identifiers),
                "schemaSubject": vendor_subject(settings, ids_name, kind),
                "consumerGroupPrefix": settings.topic(f"vendor.{ids_name}."),
                "attestDeletionDays": agreement.deletion.attestation_days,
            }.items()
        ],
    }


def asyncapi_document(
    settings: Settings, ids_name: str, scope: Scope, *, bootstrap: str = ""
) -> dict[str, Any]:
    """Return the AsyncAPI document of all topics of an agreement."""
    agreement = scope.agreement
    description = DESCRIPTION.format(
        vendor=agreement.vendor,
        name=agreement.name,
        title=agreement.document.title,
        purpose=agreement.purpose,
        basis=agreement.basis,
        from_=agreement.from_,
        until=agreement.until,
        ids="pseudonyms of this agreement" if scope.pseudonymous else "the district's own",
    )
    server = {
        "host": bootstrap or PLACEHOLDER,
        "protocol": "kafka-secure",
        "description": "The district's cluster. Credentials come with the agreement.",
    }
    return vendor_document(
        f"Schoolbus: agreement {agreement.name}",
        description,
        server,
        {
            kind: (vendor_topic(settings, ids_name, kind), vendor_schema(scope, kind, ids_name))
            for kind in scope.kinds
        },
    )


def _property(field: dict[str, Any]) -> dict[str, Any]:
    """Return the property of a field of a vendor's schema."""
    avro = field["type"]
    optional = isinstance(avro, list)
    if optional:
        (avro,) = [branch for branch in avro if branch != "null"]
    found: dict[str, Any] = {"name": field["name"], **_typed(avro)}
    found["required"] = not optional
    if field["name"] == "sourcedId":
        # Not `unique`: the topic may hold several states of a record.
        found |= {"primaryKey": True, "primaryKeyPosition": 1}
    if field["doc"]:
        found["description"] = field["doc"]
    found["classification"] = field["sensitivity"]
    if isinstance(avro, dict) and avro["type"] == "enum":
        found["quality"] = [
            {
                "type": "library",
                "metric": "invalidValues",
                "arguments": {"validValues": list(avro["symbols"])},
                "mustBe": 0,
            }
        ]
    if references := field.get("references"):
        found["customProperties"] = [{"property": "references", "value": ", ".join(references)}]
    return found


def _typed(avro: Any) -> dict[str, Any]:
    """Return the types of a property, and the items of an array."""
    base = str(avro["type"] if isinstance(avro, dict) else avro)
    logical = str(avro.get("logicalType", base)) if isinstance(avro, dict) else base
    found: dict[str, Any] = {"logicalType": LOGICAL_TYPES[logical], "physicalType": base}
    if base == "array":
        found["items"] = _typed(avro["items"])
    return found
