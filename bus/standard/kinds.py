"""The kinds of record of the standard, read from the .avsc, in dependency order.

Beside what Avro asks for, a schema says in attributes of its own (Avro 1.12, "Schema Declaration":
other attributes are metadata):

* on the record, `owner`: the field whose value places the record in a partition. All that
  concerns a student is placed by the student's id, so a consumer has one student's story in order;
* on the record, `school`: the fields that name its school, or a record whose school it is (what
  they name, `references` says). The first field that is not empty counts. An empty list: records
  of this kind belong to no school;
* on the record, `student`: the `field` that names the student it is about. `when` has the values
  that other fields then have: an enrollment is about a student when its role is student;
* on the record, `retention`: history (the topic is compacted and keeps the latest state of each
  record for ever) or time (a record tells of one day, and the topic keeps it for some days);
* on the record, `bytesOnDisk`: the bytes that a record takes on a broker's disk;
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
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHOOL = "org"
"""The kind of which a school is a record."""

Record = dict[str, Any]
"""A decoded record, of a kind not known before; `bus.standard.records` has a type for each."""


@dataclass(frozen=True, slots=True)
class SchoolField:
    """A field that tells of a record's school.

    name:    the field.
    through: the kind of the record that it names, whose school it is; None: the value is the id of
             a school, or a list of them.
    """

    name: str
    through: str | None


@dataclass(frozen=True, slots=True)
class StudentField:
    """The field that names the student a record is about.

    name: the field.
    when: values that other fields of the record have then.
    """

    name: str
    when: Mapping[str, str]

    def of(self, record: Mapping[str, Any]) -> str | None:
        """The id of the student that a record is about; None: it is about somebody else."""
        if any(record[field] != value for field, value in self.when.items()):
            return None
        student: str = record[self.name]
        return student


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record.

    name:          as the schema file is named: "student", "academicSession".
    schema:        the parsed .avsc.
    fields:        names of its fields in the schema's order.
    owner:         the field whose value places a record in a partition.
    references:    for each field that names other records: the kinds it may name.
    required:      those fields of `references` that may not be null or empty lists.
    level:         0 for what refers to nothing, else one more than the highest it refers to; a
                   record is delivered after all that have a lower level.
    school:        the fields that tell of its school; the first that is not empty counts.
    student:       the field that names the student it is about; None: it is about no one student.
    retention:     "history": every change for some time, then the latest state for ever; "time":
                   for some time only, as a record tells of one day.
    bytes_on_disk: the bytes that a record takes on a broker's disk.
    """

    name: str
    schema: dict[str, Any]
    fields: tuple[str, ...]
    owner: str
    references: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]
    level: int
    school: tuple[SchoolField, ...]
    student: StudentField | None
    retention: Literal["history", "time"]
    bytes_on_disk: int


def schema_directory() -> Path:
    """Where the .avsc are: inside an installed package, or at the top of a checkout."""
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
    """The kind whose school counts, for a field that names records of these kinds."""
    return None if named == (SCHOOL,) else named[0]


def _student(attribute: dict[str, Any] | None) -> StudentField | None:
    if attribute is None:
        return None
    return StudentField(attribute["field"], attribute.get("when", {}))


KINDS: Mapping[str, Kind] = _kinds()
