"""The Avro schema of one vendor's topic: the shared fields of one kind, and nothing of the others.

Every field but `sourcedId` and `status` may be null and has null as its default. So a field can be
added to an agreement or taken out of it, and every version can still read every other
(FULL_TRANSITIVE). The namespace is the vendor's own, so that no two vendors share a schema id.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from bus.standard.kinds import KINDS
from bus.vendors.scope import Scope

ATTRIBUTES = ("name", "type", "doc", "default")
"""What a vendor sees of a field."""


def vendor_schema(scope: Scope, kind: str, ids_name: str) -> dict[str, Any]:
    """Return the schema of the records of a kind that a vendor receives.

    ids_name: the agreement's name in topics (`bus.vendors.applied.Applied.ids_name`).
    """
    standard = KINDS[kind].schema
    shared = scope.kinds[kind].fields
    return {
        "type": "record",
        "name": standard["name"],
        "namespace": f"org.schoolbus.vendor.{ids_name.replace('-', '_')}",
        "doc": standard["doc"],
        "fields": [_field(field) for field in standard["fields"] if field["name"] in shared],
    }


def _field(field: dict[str, Any]) -> dict[str, Any]:
    found = {name: deepcopy(field[name]) for name in ATTRIBUTES if name in field}
    if field["name"] == "sourcedId":
        return found
    if field["name"] == "status":
        return found | {"default": "active"}
    types = found["type"] if isinstance(found["type"], list) else [found["type"]]
    return found | {"type": ["null", *(one for one in types if one != "null")], "default": None}
