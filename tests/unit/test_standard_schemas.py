"""What every schema of the standard must have, for anyone who adds a field or a kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema

from bus.standard import KINDS
from bus.standard.evolution import breaks

SCHEMAS = Path(__file__).parents[2] / "schemas"
CLASSES = {"public", "directory", "personal", "sensitive", "operational"}
STANDARDS = ("oneroster", "ceds", "edfi")
OF_A_KIND = {"owner", "school", "student", "retention", "bytesOnDisk"}
ATTRIBUTES = {"name", "type", "doc", "default", "sensitivity", "references", "when", *STANDARDS}

FIELDS = [
    pytest.param(kind.name, field, id=f"{kind.name}.{field['name']}")
    for kind in KINDS.values()
    for field in kind.schema["fields"]
]


def enums(part: Any) -> Iterator[dict[str, Any]]:
    """Return every enumeration in a part of a schema."""
    if isinstance(part, dict):
        if part.get("type") == "enum":
            yield part
        for value in part.values():
            yield from enums(value)
    elif isinstance(part, list):
        for item in part:
            yield from enums(item)


def test_there_are_thirteen_kinds() -> None:
    assert sorted(KINDS) == sorted(path.stem for path in SCHEMAS.glob("*.avsc"))
    assert len(KINDS) == 13


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_field_says_what_it_means_and_who_may_read_it(kind: str, field: dict[str, Any]) -> None:
    assert re.fullmatch(r"\S.*[.)]", field["doc"])
    assert field["sensitivity"] in CLASSES
    assert field.keys() <= ATTRIBUTES


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_field_has_a_name_in_another_standard_or_says_why_not(
    kind: str, field: dict[str, Any]
) -> None:
    named = [field[standard] for standard in STANDARDS if standard in field]
    assert all(named), "a standard without such a field is left out, not empty"
    assert named or "None of the three standards" in field["doc"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_avro_named_as_its_file_with_the_fields_that_all_have(kind: str) -> None:
    schema = KINDS[kind].schema
    parse_schema(schema)
    assert schema["name"] == kind[0].upper() + kind[1:]
    assert schema["namespace"] == "org.schoolbus"
    assert schema["doc"].endswith(".")
    assert KINDS[kind].fields[:3] == ("sourcedId", "status", "dateLastModified")
    assert schema["owner"] in KINDS[kind].fields


@pytest.mark.parametrize("kind", KINDS)
def test_what_places_a_record_is_a_required_id(kind: str) -> None:
    by_name = {field["name"]: field for field in KINDS[kind].schema["fields"]}
    assert by_name[KINDS[kind].owner]["type"] == "string"
    assert "default" not in by_name[KINDS[kind].owner]


def test_all_that_concerns_a_student_is_placed_by_the_student() -> None:
    owners = {kind: about.owner for kind, about in KINDS.items() if about.owner != "sourcedId"}
    assert owners == {
        "attendance": "studentSourcedId",
        "enrollment": "userSourcedId",
        "optOut": "studentSourcedId",
        "result": "studentSourcedId",
    }
    assert KINDS["demographics"].references["sourcedId"] == ("student",)


@pytest.mark.parametrize("kind", KINDS)
def test_references_are_to_kinds_and_of_ids(kind: str) -> None:
    types = {field["name"]: field["type"] for field in KINDS[kind].schema["fields"]}
    for field, named in KINDS[kind].references.items():
        assert set(named) <= KINDS.keys()
        assert types[field] in ("string", ["null", "string"], {"type": "array", "items": "string"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_of_a_field_names_symbols_of_other_fields(kind: str) -> None:
    by_name = {field["name"]: field for field in KINDS[kind].schema["fields"]}
    for name, when in KINDS[kind].when.items():
        assert by_name[name]["type"] == ["null", "string"]
        for other, symbol in when.items():
            assert other != name
            assert symbol in by_name[other]["type"]["symbols"]
            assert symbol != by_name[other]["type"]["default"], "an unknown symbol requires nothing"


def test_an_unknown_scope_of_an_opt_out_is_the_widest() -> None:
    scope = next(e for e in enums(KINDS["optOut"].schema) if e["name"] == "OptOutScope")
    assert scope["default"] == "protected"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_all_attributes_and_no_others(kind: str) -> None:
    schema = KINDS[kind].schema
    assert OF_A_KIND - {"student"} <= schema.keys()
    assert schema.keys() <= {"type", "name", "namespace", "doc", "fields", *OF_A_KIND}
    assert schema["retention"] in ("history", "time")
    assert isinstance(schema["bytesOnDisk"], int)
    assert schema["bytesOnDisk"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_a_school_refer_to_one_or_to_a_record_that_has_one(kind: str) -> None:
    for one in KINDS[kind].school:
        named = KINDS[kind].references.get(one.name)
        if named is None:
            assert (kind, one.name) == ("org", "sourcedId"), "only a school names itself"
        else:
            assert len(named) == 1
        if one.through is not None:
            assert KINDS[one.through].school
            assert KINDS[one.through].level < KINDS[kind].level, "they are read in order"


def test_only_terms_belong_to_no_school() -> None:
    assert [kind for kind, about in KINDS.items() if not about.school] == ["academicSession"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_placed_by_a_student_is_about_that_student(kind: str) -> None:
    about = KINDS[kind]
    named = {field for field, kinds in about.references.items() if "student" in kinds}
    if about.student is None:
        assert not named
        return
    assert about.student.name == about.owner
    assert named == {about.owner} or kind == "student"
    symbols = {
        f["name"]: f["type"]["symbols"] for f in about.schema["fields"] if "symbols" in f["type"]
    }
    for field, value in about.student.when.items():
        assert value in symbols[field]


def test_an_enrollment_is_about_a_student_when_its_role_is_student() -> None:
    student = KINDS["enrollment"].student
    assert student is not None
    assert student.of({"userSourcedId": "s1", "role": "student"}) == "s1"
    assert student.of({"userSourcedId": "t1", "role": "teacher"}) is None


def test_only_attendance_is_kept_by_time() -> None:
    by_time = [kind for kind, about in KINDS.items() if about.retention == "time"]
    assert by_time == ["attendance"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_enumeration_has_a_default_for_what_comes_later(kind: str) -> None:
    for enum in enums(KINDS[kind].schema):
        assert enum["default"] in enum["symbols"]
        assert enum["doc"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_be_left_out_and_be_null_is_null_then(kind: str) -> None:
    """Avro 1.12, "Complex Types", "Unions": a default belongs to the union's first branch."""
    for field in KINDS[kind].schema["fields"]:
        if isinstance(field["type"], list):
            assert field["type"][0] == "null"
            assert field["default"] is None


def test_one_enumeration_is_the_same_in_all_schemas() -> None:
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS.values():
        for enum in enums(kind.schema):
            assert found.setdefault(enum["name"], enum) == enum


def test_attendance_has_the_categories_of_ed_fi() -> None:
    """Ed-Fi Data Standard, Descriptors/AttendanceEventCategoryDescriptor.xml, and `other`."""
    category = next(e for e in enums(KINDS["attendance"].schema) if e["name"] != "Status")
    descriptor = [
        "In Attendance", "Excused Absence", "Unexcused Absence", "Tardy", "Early departure", "Partial",
    ]  # fmt: skip
    words = [value.split() for value in descriptor]
    camel = [word[0].lower() + "".join(w.capitalize() for w in word[1:]) for word in words]
    assert category["symbols"] == [*camel, "other"]


def test_the_fields_of_demographics_are_sensitive() -> None:
    """This is why demographics have a separate topic."""
    classes = {f["name"]: f["sensitivity"] for f in KINDS["demographics"].schema["fields"]}
    reported = classes.keys() - {"sourcedId", "status", "dateLastModified"}
    assert {classes[name] for name in reported} == {"sensitive"}


def test_a_schema_breaks_nothing_of_itself() -> None:
    for kind in KINDS.values():
        assert breaks(kind.schema, kind.schema) == []


def test_files_are_written_alike() -> None:
    """A diff then shows only the real change."""
    for path in SCHEMAS.glob("*.avsc"):
        text = path.read_text("utf-8")
        assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


def test_the_readme_names_every_attribute() -> None:
    readme = (SCHEMAS / "README.md").read_text("utf-8")
    for attribute in {*OF_A_KIND, *ATTRIBUTES} - {"name", "type"}:
        assert f"`{attribute}`" in readme
    for name in CLASSES:
        assert f"`{name}`" in readme
