"""The data dictionary of the standard, as Markdown: the meaning and sensitivity of each field.

It is generated from the .avsc files only (`bus schemas docs`), so the two cannot differ.

The classes follow the Family Educational Rights and Privacy Act (FERPA). "Directory information",
"education records" and "personally identifiable information" are the terms of 34 CFR 99.3. The
conditions of disclosure are those of 34 CFR 99.30, 99.31 and 99.37. The text is a guide to the
schemas and not legal advice. What a district designates in its annual notice takes precedence.
"""

from __future__ import annotations

from typing import Any, Final

from bus.standard.kinds import KINDS, Kind

SENSITIVITY: Final = {
    "public": (
        "Describes the institution and no person: the name of a school, the title of a course, "
        "the dates of a term.",
        "Anyone.",
    ),
    "directory": (
        "About a person, but not generally considered harmful if disclosed (34 CFR 99.3, "
        "“directory information”): name, grade level, school, email address. For staff: what a "
        "school's own web site says about them.",
        "Recipients that the district chooses, if its annual notice designates the field as "
        "directory information and the parents, or the student from the age of 18, have not opted "
        "out (34 CFR 99.37). Otherwise as for personal.",
    ),
    "personal": (
        "Identifies or describes a person (34 CFR 99.3, “personally identifiable information”): "
        "ids, sign-in names, telephone numbers, the classes of a person, the days of an absence. "
        "Student ids are in this class because 99.3 excludes them from directory information, "
        "except for ids that give no access by themselves.",
        "School officials with a legitimate educational interest, and vendors that do a school "
        "official's work under the district's direct control (34 CFR 99.31(a)(1)). Anyone else "
        "needs written consent (34 CFR 99.30) or another exception of 99.31.",
    ),
    "sensitive": (
        "Personal, and likely to harm the person if it becomes known: birth, sex, race and "
        "ethnicity, scores, the reason of an absence, a teacher's comments, that a student is "
        "protected. 99.3 allows a district "
        "to treat date and place of birth as directory information; this standard does not.",
        "As for personal, but only those whose work needs this field. A webhook receives it only "
        "if the district allows it, and otherwise receives the record without it.",
    ),
    "operational": (
        "Needed to run the exchange: ids of things, whether a record is active, when it changed. "
        "Says nothing about a person by itself.",
        "Anyone who may read the record that holds it.",
    ),
}
"""For each class of sensitivity: what it covers, and who may read it."""

PREFIX = "schoolbus"
KEPT: Final = {"history": "history", "time": "by time"}
COLUMNS = ("field", "type", "required", "sensitivity", "OneRoster", "CEDS", "Ed-Fi", "meaning")
TYPES = {
    "string": "text",
    "int": "whole number",
    "double": "number",
    "timestamp-millis": "moment",
}

HEAD = f"""\
<!-- Generated from schemas/*.avsc by `bus schemas docs`; do not edit. -->

# Data dictionary

The records of the shared standard, in dependency order. The source is the Avro schemas in
`schemas/`; `schemas/README.md` says how they may change.

A message's key is the record's `sourcedId` (UTF-8). Its value is the whole record in its new state,
as Avro in the Confluent frame. CloudEvents attributes are in the headers. A null value (a
tombstone) is an erasure. In topic names, `{PREFIX}` is the default of the setting `topic_prefix`.

## How to read the tables

* **type**: a *date* is a day without a time (`YYYY-MM-DD` in JSON). A *moment* is a point in time,
  in UTC, to the millisecond. *Text* is Unicode. A field that may be null says so.
* **required**: a field without a default. A producer may leave out any other field; readers then
  get its default.
* **school**: the field that names a record's school, or a record that belongs to the school. If the
  field is empty, the next one counts.
* **student**: the field that names the student that a record is about.
* **kept**: *history* keeps every change for `history_days` and the latest state of each record
  forever. *By time* keeps every record for `attendance_days`. Both settings are in `[retention]` in
  `bus.toml`.
* **OneRoster**, **CEDS**, **Ed-Fi**: the name of the field in OneRoster 1.2 (CSV binding), in the
  Common Education Data Standards (element name) and in the Ed-Fi Data Standard (REST property).
  A dash means that the standard has no such field.

## Sensitivity

Every field has one of five classes. They say how carefully the field must be treated at least; a
district may be stricter.
"""


def render() -> str:
    """Return the whole dictionary; the same schemas always give the same text."""
    classes = _table(
        ("class", "what it is", "who may read it"),
        [(f"**{name}**", what, who) for name, (what, who) in SENSITIVITY.items()],
    )
    contents = _table(
        ("kind", "what it is", "topic"),
        [
            (f"[{name}](#{name.lower()})", _first_sentence(kind), f"`{PREFIX}.{name}`")
            for name, kind in KINDS.items()
        ],
    )
    sections = "\n".join(_section(kind) for kind in KINDS.values())
    return f"{HEAD}\n{classes}\n## Kinds of record\n\n{contents}\n{sections}"


def _section(kind: Kind) -> str:
    facts = [
        f"* topic: `{PREFIX}.{kind.name}`",
        "* key: `sourcedId`",
        f"* partition: by `{kind.owner}`",
        f"* refers to: {_references(kind)}",
        f"* school: {_school(kind)}",
        f"* student: {_student(kind)}",
        f"* kept: {KEPT[kind.retention]}",
    ]
    rows = [_row(field) for field in kind.schema["fields"]]
    lines = [f"## {kind.name}", "", kind.schema["doc"], "", *facts, "", _table(COLUMNS, rows)]
    return "\n".join(lines)


def _references(kind: Kind) -> str:
    """Return each field that names other records, with links to their kinds."""
    named = [
        f"{' or '.join(f'[{one}](#{one.lower()})' for one in kinds)} (`{field}`)"
        for field, kinds in kind.references.items()
    ]
    return ", ".join(named) or "nothing"


def _school(kind: Kind) -> str:
    fields = [
        f"the school of the {one.through} (`{one.name}`)" if one.through else f"`{one.name}`"
        for one in kind.school
    ]
    return ", else ".join(fields) or "none"


def _student(kind: Kind) -> str:
    if kind.student is None:
        return "none"
    when = [f"`{field}` is `{value}`" for field, value in kind.student.when.items()]
    return f"`{kind.student.name}`" + (f", if {' and '.join(when)}" if when else "")


def _row(field: dict[str, Any]) -> tuple[str, ...]:
    names = (field.get(standard, "—") for standard in ("oneroster", "ceds", "edfi"))
    required = "no" if "default" in field else "yes"
    meaning = " ".join([field["doc"], *_choices(field["type"])])
    lead = (f"`{field['name']}`", _type(field["type"]), required, field["sensitivity"])
    return (*lead, *names, meaning)


def _type(avro: Any) -> str:
    """Return an Avro type in plain words."""
    if isinstance(avro, list):
        return " or ".join(_type(branch) for branch in sorted(avro, key=lambda t: t == "null"))
    if isinstance(avro, str):
        return TYPES.get(avro, avro)
    if avro["type"] == "array":
        return f"list of {_type(avro['items'])}"
    if avro["type"] == "enum":
        return str(avro["name"])
    return TYPES.get(avro["logicalType"], str(avro["logicalType"]))


def _choices(avro: Any) -> list[str]:
    """Return for an enumeration the sentence that lists its symbols."""
    branches = avro if isinstance(avro, list) else [avro]
    return [
        f"One of {', '.join(f'`{symbol}`' for symbol in branch['symbols'])}."
        for branch in branches
        if isinstance(branch, dict) and branch["type"] == "enum"
    ]


def _first_sentence(kind: Kind) -> str:
    return str(kind.schema["doc"]).split(". ")[0].rstrip(".") + "."


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Return text as a cell of a table (GitHub Flavored Markdown, "Tables (extension)")."""
    return text.replace("|", "\\|").replace("\n", " ")
