"""The kinds of record of the standard, read from the .avsc, in dependency order.

Beside what Avro asks for, a schema says in attributes of its own (Avro 1.12, "Schema Declaration":
other attributes are metadata):

* on the record, `owner`: the field whose value places the record in a partition. All that
  concerns a student is placed by the student's id, so a consumer has one student's story in order;
* on a field, `references`: the kinds of record that its value, an id or a list of ids, may name;
* on a field, `sensitivity`: public, directory, personal, sensitive or operational (see
  `bus.standard.dictionary`), and its names in `oneroster`, `ceds` and `edfi`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Record = dict[str, Any]
"""A decoded record, of a kind not known before; `bus.standard.records` has a type for each."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record.

    name:       as the schema file is named: "student", "academicSession".
    schema:     the parsed .avsc.
    fields:     names of its fields in the schema's order.
    owner:      the field whose value places a record in a partition.
    references: for each field that names other records: the kinds it may name.
    required:   those fields of `references` that may not be null or empty lists.
    level:      0 for what refers to nothing, else one more than the highest it refers to; a record
                is delivered after all that have a lower level.
    """

    name: str
    schema: dict[str, Any]
    fields: tuple[str, ...]
    owner: str
    references: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]
    level: int


def schema_directory() -> Path:
    """Where the .avsc are: inside an installed package, or at the top of a checkout."""
    installed = Path(__file__).parent.parent / "schemas"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "schemas"


SUBSTANCE = frozenset(
    {
        *("type", "name", "fields", "symbols", "items", "values", "default", "logicalType"),
        *("owner", "references"),
    }
)
"""The attributes of a schema that say what a record holds, what it names and where it belongs."""


def substance(schema: Any) -> Any:
    """A schema without what is for people alone, such as `doc`; two that differ in nothing else
    have the same records."""
    if isinstance(schema, dict):
        return {key: substance(part) for key, part in schema.items() if key in SUBSTANCE}
    if isinstance(schema, list):
        return [substance(part) for part in schema]
    return schema


@cache
def _kinds() -> dict[str, Kind]:
    schemas = {
        path.stem: json.loads(path.read_text("utf-8"))
        for path in sorted(schema_directory().glob("*.avsc"))
    }
    references = {
        name: {f["name"]: tuple(f["references"]) for f in schema["fields"] if "references" in f}
        for name, schema in schemas.items()
    }
    above = {
        name: {kind for kinds in fields.values() for kind in kinds} - {name}
        for name, fields in references.items()
    }
    levels: dict[str, int] = {}
    for name in TopologicalSorter({k: sorted(v) for k, v in sorted(above.items())}).static_order():
        levels[name] = 1 + max((levels[kind] for kind in above[name]), default=-1)
    kinds = {}
    for name in sorted(schemas, key=lambda name: (levels[name], name)):
        schema = schemas[name]
        optional = {f["name"] for f in schema["fields"] if "default" in f}
        kinds[name] = Kind(
            name=name,
            schema=schema,
            fields=tuple(f["name"] for f in schema["fields"]),
            owner=schema["owner"],
            references=references[name],
            required=tuple(field for field in references[name] if field not in optional),
            level=levels[name],
        )
    return kinds


KINDS: Mapping[str, Kind] = _kinds()
