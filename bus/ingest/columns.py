"""The fields of a kind of record as columns of DuckDB, and back to what the encoder takes."""

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

# What is not compared when changes are looked for: a source that stamps all of its records anew
# every night has not changed them.
NOT_COMPARED = frozenset({"dateLastModified"})


def column_type(avro: Any) -> str:
    """The DuckDB type of a field's Avro type: `["null", "string"]` → VARCHAR."""
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
    """Each field of a kind with its DuckDB type, in the schema's order."""
    return {field["name"]: column_type(field["type"]) for field in KINDS[kind].schema["fields"]}


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def definition(kind: str) -> str:
    """The columns of a kind, as CREATE TABLE takes them."""
    return ", ".join(f"{quoted(name)} {type_}" for name, type_ in columns(kind).items())


def encodable(kind: str, table: str) -> str:
    """A select list of the kind's fields as `bus.registry.batch_codec` takes them: moments in
    milliseconds.
    """
    return ", ".join(
        f"{table}.{quoted(name)}::{type_}_MS AS {quoted(name)}"
        if type_ == "TIMESTAMP"
        else f"{table}.{quoted(name)}"
        for name, type_ in columns(kind).items()
    )


def fingerprint(kind: str, table: str) -> str:
    """An SQL expression: a hash of all that is compared of a record."""
    compared = [f"{table}.{quoted(name)}" for name in columns(kind) if name not in NOT_COMPARED]
    return f"hash(row({', '.join(compared)}))"
