"""Three versions of every entity, with realistic changes.

1   without one of today's optional fields
2   with that field, and with one more field, named `note`
3   with the new field renamed (an alias), another field deprecated, and one more status
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer

from bus.registry import batch_codec, codec
from bus.registry.codec import FRAME, MAGIC
from bus.standard import KINDS

Schema = dict[str, Any]
TEXT_OR_NOTHING = ["null", "string"]


def optional(kind: str) -> str:
    """Return one of today's fields that has a default and is not a reference."""
    names = [f["name"] for f in KINDS[kind].schema["fields"] if f.get("default", "") is None]
    return next(name for name in names if name not in KINDS[kind].references)


def versions(kind: str) -> tuple[Schema, Schema, Schema]:
    """Return the three versions of an entity."""
    today = KINDS[kind].schema
    first, second, third = (copy.deepcopy(today) for _ in range(3))
    first["fields"] = [f for f in first["fields"] if f["name"] != optional(kind)]
    second["fields"].append({"name": "note", "type": TEXT_OR_NOTHING, "default": None})
    renamed = {"name": "districtNote", "aliases": ["note"], "default": None}
    third["fields"].append({**renamed, "type": TEXT_OR_NOTHING})
    for field in third["fields"]:
        if field["name"] == "dateLastModified":
            field["doc"] = "Deprecated: products go by the event's own time."
        if field["name"] == "status":
            field["type"]["symbols"].append("archived")
    return first, second, third


def written(schema: Schema, record: dict[str, Any], version: int) -> bytes:
    """Return a message as a producer of that version wrote it."""
    names = {field["name"] for field in schema["fields"]}
    out = BytesIO()
    out.write(FRAME.pack(MAGIC, version))
    schemaless_writer(out, parse_schema(schema), {n: v for n, v in record.items() if n in names})
    return out.getvalue()


@contextmanager
def knowing(schemas: Mapping[str, Schema]) -> Iterator[None]:
    """Give the bus's standard these versions of these entities while the block runs."""
    known = dict(KINDS)
    for kind, schema in schemas.items():
        fields = tuple(field["name"] for field in schema["fields"])
        known[kind] = replace(KINDS[kind], schema=schema, fields=fields)
    with pytest.MonkeyPatch.context() as patch:
        for module in (codec, batch_codec):
            patch.setattr(module, "KINDS", known)
        yield
