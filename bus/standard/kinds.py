"""The kinds of record of the standard, read from the .avsc files, in dependency order.

Besides what Avro requires, a schema has these attributes (Avro 1.12, "Schema Declaration": other
attributes are metadata):

* `owner`, on the record: the field whose value selects the record's partition. All records of a
  student are placed by the student's id, so a consumer gets them in order.
* `school`, on the record: the fields that name its school, or a record that belongs to the school
  (`references` says which). The first field that is not empty counts. An empty list: records of
  this kind belong to no school.
* `student`, on the record: `field` names the student that the record is about. `when` holds the
  values that other fields must have: an enrollment is about a student if its role is student.
* `retention`, on the record: history (the topic is compacted and keeps the latest state of each
  record forever) or time (a record describes one day, and the topic keeps it for some days).
* `bytesOnDisk`, on the record: the bytes that a record takes on a broker's disk.
* `references`, on a field: the kinds that its value, an id or a list of ids, may name.
* `when`, on a field that may be null: the values that other fields, enumerations, must have. The
  field then must have a value, and otherwise must have none.
* `sensitivity`, on a field: public, directory, personal, sensitive or operational (see
  `bus.standard.dictionary`).
* `oneroster`, `ceds` and `edfi`, on a field: its names in those standards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHOOL = "org"
"""The kind of the records that describe schools."""

Record = dict[str, Any]
"""A decoded record whose kind is not known in advance; `bus.standard.records` has a type for each
kind."""


@dataclass(frozen=True, slots=True)
class SchoolField:
    """A field that leads to a record's school.

    name:    the field.
    through: the kind of the record that the field names, whose school counts. None: the value is
             the id of a school, or a list of ids.
    """

    name: str
    through: str | None


@dataclass(frozen=True, slots=True)
class StudentField:
    """The field that names the student a record is about.

    name: the field.
    when: values that other fields of the record must have.
    """

    name: str
    when: Mapping[str, str]

    def of(self, record: Mapping[str, Any]) -> str | None:
        """Return the id of the student that a record is about, or None."""
        for field, value in self.when.items():
            if record[field] != value:
                return None
        student: str = record[self.name]
        return student


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record.

    name:          the name of its schema file, such as "student" or "academicSession".
    schema:        the parsed .avsc.
    fields:        the names of its fields, in the schema's order.
    owner:         the field whose value selects a record's partition.
    references:    for each field that names other records, the kinds that it may name.
    when:          for each field that has a value only with certain values of other fields: those.
    required:      the fields of `references` that must not be null or an empty list.
    level:         0 if the kind refers to nothing, else one more than the highest level it refers
                   to. A record is delivered after all records of lower levels.
    school:        the fields that lead to its school; the first that is not empty counts.
    student:       the field that names the student it is about; None if it is not about one
                   student.
    retention:     "history": every change for some time, then the latest state forever. "time":
                   only for some time, as a record describes one day.
    bytes_on_disk: the bytes that a record takes on a broker's disk.
    """

    name: str
    schema: dict[str, Any]
    fields: tuple[str, ...]
    owner: str
    references: Mapping[str, tuple[str, ...]]
    when: Mapping[str, Mapping[str, str]]
    required: tuple[str, ...]
    level: int
    school: tuple[SchoolField, ...]
    student: StudentField | None
    retention: Literal["history", "time"]
    bytes_on_disk: int


def schema_directory() -> Path:
    """Return the folder of the .avsc files, in the package or at the top of a checkout."""
    installed = Path(__file__).parent.parent / "schemas"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "schemas"


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
            when={f["name"]: f["when"] for f in schema["fields"] if "when" in f},
            required=tuple(field for field in references[name] if field not in optional),
            level=levels[name],
            school=tuple(
                SchoolField(field, _through(references[name].get(field, (SCHOOL,))))
                for field in schema["school"]
            ),
            student=_student(schema.get("student")),
            retention=schema["retention"],
            bytes_on_disk=schema["bytesOnDisk"],
        )
    return kinds


def _through(named: tuple[str, ...]) -> str | None:
    """Return the kind whose school counts, for a field that names records of these kinds."""
    return None if named == (SCHOOL,) else named[0]


def _student(attribute: dict[str, Any] | None) -> StudentField | None:
    if attribute is None:
        return None
    return StudentField(attribute["field"], attribute.get("when", {}))


KINDS: Mapping[str, Kind] = _kinds()
