"""Map the fields of a kind to DuckDB columns, and back to what the encoder takes."""

from __future__ import annotations

from typing import Any

from bus.standard import KINDS

PRIMITIVE = {
    "string": "VARCHAR",
    "int": "INTEGER",
    "long": "BIGINT",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
}
LOGICAL = {"date": "DATE", "timestamp-millis": "TIMESTAMP"}

# Fields that are not compared to find changes. A source may put a new date on all records every
# night, although nothing else has changed.
NOT_COMPARED = frozenset({"dateLastModified"})


def column_type(avro: Any) -> str:
    """Return the DuckDB type for the Avro type of a field: `["null", "string"]` → VARCHAR."""
    if isinstance(avro, list):
        return column_type(next(part for part in avro if part != "null"))
    if isinstance(avro, str):
        return PRIMITIVE[avro]
    if avro["type"] == "array":
        return column_type(avro["items"]) + "[]"
    if avro["type"] == "enum":
        return "VARCHAR"
    return LOGICAL[avro["logicalType"]]


def columns(kind: str) -> dict[str, str]:
    """Return each field of a kind with its DuckDB type, in the schema's order."""
    return {field["name"]: column_type(field["type"]) for field in KINDS[kind].schema["fields"]}


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def definition(kind: str) -> str:
    """Return the columns of a kind, as CREATE TABLE takes them."""
    return ", ".join(f"{quoted(name)} {type_}" for name, type_ in columns(kind).items())


def encodable(kind: str, table: str) -> str:
    """Return a select list of a kind's fields, as `bus.registry.batch_codec` takes them.

    Timestamps are in milliseconds.
    """
    return ", ".join(
        f"{table}.{quoted(name)}::{type_}_MS AS {quoted(name)}"
        if type_ == "TIMESTAMP"
        else f"{table}.{quoted(name)}"
        for name, type_ in columns(kind).items()
    )


def fingerprint(kind: str, table: str) -> str:
    """Return an SQL expression for a hash of all fields of a record that are compared."""
    compared = [f"{table}.{quoted(name)}" for name in columns(kind) if name not in NOT_COMPARED]
    return f"hash(row({', '.join(compared)}))"
