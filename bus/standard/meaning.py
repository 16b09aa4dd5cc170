"""Reduces a schema to what affects the bytes of a record and how a reader decodes them.

Source: Avro 1.12, "Schema Declaration" (other attributes are metadata and do not affect the format
of serialized data), "Names", "Complex Types", "Logical Types".
"""

from __future__ import annotations

from typing import Any

READ = frozenset(
    {
        *("type", "name", "namespace", "aliases", "fields", "default", "order"),
        *("symbols", "items", "values", "size"),
        *("logicalType", "precision", "scale"),
    }
)
"""Avro's own attributes, except `doc`."""


def meaning(schema: Any) -> Any:
    """Return a schema without documentation and without attributes that Avro does not define.

    Defaults stay, as a reader uses them for fields that the writer does not have.
    """
    if isinstance(schema, dict):
        return {
            key: part if key == "default" else meaning(part)
            for key, part in schema.items()
            if key in READ
        }
    if isinstance(schema, list):
        return [meaning(part) for part in schema]
    return schema
