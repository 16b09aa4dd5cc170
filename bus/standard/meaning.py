"""What of a schema has a bearing on the bytes of a record and on how a reader reads them.

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
"""Avro's own attributes but `doc`."""


def meaning(schema: Any) -> Any:
    """A schema without documentation and without attributes that are not Avro's.

    Defaults stay: a reader takes them for fields that the writer does not have.
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
