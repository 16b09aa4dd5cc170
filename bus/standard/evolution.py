"""Finds what a changed schema breaks, and for which readers.

Source: Avro 1.12, "Schema Resolution", which says which writer's schema works with which reader's
schema. FULL_TRANSITIVE requires both directions against every version (Confluent, "Schema Evolution
and Compatibility"). So a change may break

* readers with the earlier version, which receive what new producers write;
* readers with the new version, which receive what is already in the topics and what producers with
  the earlier version still write.

The check is stricter than Avro in two cases that decode, but to wrong values. A number must not
become another type of number through its logical type. An enumeration must not lose a symbol, even
if it has a default: a stored `tobedeleted` would be read as `active`. The default is there for new
symbols.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from fastavro.schema import expand_schema

Whom = Literal["old readers", "new readers"]

PROMOTIONS = {
    ("int", "long"),
    ("int", "float"),
    ("int", "double"),
    ("long", "float"),
    ("long", "double"),
    ("float", "double"),
    ("string", "bytes"),
    ("bytes", "string"),
}
"""Pairs of writer and reader: types that Avro can read as a wider type."""


class Break(NamedTuple):
    """A field of a record that cannot be read, with the reason and the readers.

    field:  the path of the field, such as "grades" or "address.city".
    reason: why it cannot be read.
    whom:   "old readers" have the earlier version, "new readers" the new one.
    """

    field: str
    reason: str
    whom: Whom


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[Break]:
    """Return what would break if the record schema `new` replaced `old`.

    Raises what fastavro raises for an invalid schema.
    """
    before: Any = expand_schema(old)
    after: Any = expand_schema(new)
    if _name(before) != _name(after):
        reason = f"{_name(before)} becomes {_name(after)}, which is another type to Avro"
        return [Break("(the record)", reason, "old readers")]
    return [
        *(Break(*one, "old readers") for one in _record(after, before, "old readers")),
        *(Break(*one, "new readers") for one in _record(before, after, "new readers")),
    ]


def _record(writer: dict[str, Any], reader: dict[str, Any], whom: Whom) -> list[tuple[str, str]]:
    """Return (field, reason) for each field that the reader cannot read."""
    missing = "it is removed" if whom == "old readers" else "it is added"
    written = {field["name"]: field for field in writer["fields"]}
    found = []
    for field in reader["fields"]:
        names = (field["name"], *field.get("aliases", ()))
        source = next((written[name] for name in names if name in written), None)
        if source is not None:
            found += [
                (f"{field['name']}{path}", why)
                for path, why in _type(source["type"], field["type"], whom)
            ]
        elif "default" not in field:
            found.append((field["name"], f"{missing}, and there is no default to use instead"))
    return found


def _type(writer: Any, reader: Any, whom: Whom) -> list[tuple[str, str]]:
    """Return (path below the field, reason) where the reader's type cannot hold all values."""
    if isinstance(writer, list):
        return [one for branch in writer for one in _type(branch, reader, whom)][:1]
    if isinstance(reader, list):
        if any(not _type(writer, branch, whom) for branch in reader):
            return []
        alike = [branch for branch in reader if _name(branch) == _name(writer)]
        return _type(writer, alike[0], whom) if alike else [("", _becomes(writer, reader))]
    if _name(writer) != _name(reader):
        plain = not (_logical(writer) or _logical(reader))
        promoted = plain and (_base(writer), _base(reader)) in PROMOTIONS
        return [] if promoted else [("", _becomes(writer, reader))]
    if _base(writer) == "enum":
        lost = ", ".join(s for s in writer["symbols"] if s not in reader["symbols"])
        default = reader.get("default")
        if lost and default not in reader["symbols"]:
            return [("", f"the reader's {_name(reader)} has no {lost} and no default")]
        if lost and whom == "new readers":
            return [("", f"{lost} is removed and would be read as {default}")]
    if _base(writer) == "array":
        return _type(writer["items"], reader["items"], whom)
    if _base(writer) == "map":
        return _type(writer["values"], reader["values"], whom)
    if _base(writer) == "fixed" and writer["size"] != reader["size"]:
        return [("", f"{writer['size']} bytes are read as {reader['size']}")]
    if _base(writer) == "record":
        return [(f".{path}", why) for path, why in _record(writer, reader, whom)]
    return []


def _becomes(writer: Any, reader: Any) -> str:
    if _name(writer) == "null":
        return f"it may be null but is read as {_name(reader)}"
    return f"{_name(writer)} is written but read as {_name(reader)}"


def _base(avro: Any) -> str:
    return str(avro["type"]) if isinstance(avro, dict) else str(avro)


def _logical(avro: Any) -> str:
    return str(avro.get("logicalType", "")) if isinstance(avro, dict) else ""


def _name(avro: Any) -> str:
    """Return the name of a type for a message."""
    if isinstance(avro, list):
        return " or ".join(_name(branch) for branch in avro)
    if isinstance(avro, dict) and "name" in avro:
        return f"{avro['type']} {str(avro['name']).rpartition('.')[2]}"
    return _logical(avro) or _base(avro)
