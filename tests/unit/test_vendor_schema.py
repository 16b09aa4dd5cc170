"""A vendor's schemas have only shared fields, survive changes, and belong to one vendor."""

from __future__ import annotations

import json
import re
from datetime import date
from functools import partial
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.contract import a_record
from bus.contract.example_records import records
from bus.errors import Stop
from bus.registry.batch_codec import FEWEST, BatchCodec
from bus.registry.codec import Decoder, Encoder
from bus.settings import Settings
from bus.standard import KINDS
from bus.standard.evolution import breaks
from bus.vendors.agreement import parse
from bus.vendors.scope import Scope, compile_scope
from bus.vendors.vendor_schema import (
    lookup,
    namespace,
    register,
    vendor_schema,
    vendor_subject,
)
from tests.fakes.registry import FakeRegistry

SHARED_KINDS = [kind for kind in KINDS if kind != "optOut"]
FIELDS = [
    f"{kind}.{field}"
    for kind in SHARED_KINDS
    for field in KINDS[kind].fields
    if field not in ("sourcedId", "status")
]
CONFIG = Settings.model_construct(topic_prefix="schoolbus")


def scope_of(*fields: str, name: str = "math-app", **more: Any) -> Scope:
    """Return the scope of an agreement that shares these fields."""
    table: dict[str, Any] = {
        "vendor": "Math Inc.",
        "purpose": "instruction",
        "basis": "school-official",
        "from": date(2026, 8, 1),
        "until": date(2027, 7, 31),
        "document": {"title": "NDPA", "sha256": "0" * 64},
        "contacts": {"vendor": "a@vendor.example", "district": "b@district.example"},
        "share": {"fields": list(fields)},
        "roles": ["teacher", "guardian"],
    }
    return compile_scope(parse(name, table | more, "the test"))


scopes = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=25, unique=True).map(
    lambda fields: scope_of(*fields)
)


@settings(deadline=None)
@given(st.lists(scopes, min_size=2, max_size=4))
def test_fields_may_be_taken_out_and_added_again(versions: list[Scope]) -> None:
    for kind in SHARED_KINDS:
        found = [vendor_schema(one, kind, "math-app") for one in versions if kind in one.kinds]
        wrong = [broken for old in found for new in found for broken in breaks(old, new)]
        assert wrong == []


@settings(deadline=None)
@given(scopes)
def test_a_schema_has_the_shared_fields_and_names_no_other(scope: Scope) -> None:
    for kind, narrowed in scope.kinds.items():
        schema = vendor_schema(scope, kind, "math-app")
        assert tuple(field["name"] for field in schema["fields"]) == narrowed.fields
        text = json.dumps(schema, ensure_ascii=False)
        words = {word for f in schema["fields"] for word in re.findall(r"\w+", f["doc"])}
        for field in KINDS[kind].schema["fields"]:
            if field["name"] not in narrowed.fields:
                assert field["doc"] not in text
                assert field["name"].islower() or field["name"] not in words


def test_the_description_of_the_whole_kind_is_left_out() -> None:
    schema = vendor_schema(scope_of("demographics.birthDate"), "demographics", "math-app")
    assert set(schema) == {"type", "name", "namespace", "doc", "fields"}
    assert "ethnicity" not in json.dumps(schema)


def test_a_sentence_that_names_a_cut_field_is_left_out() -> None:
    schema = vendor_schema(scope_of("student.primaryOrgSourcedId", "org.name"), "student", "x")
    assert schema["fields"][-1]["doc"] == "the home school."
    both = scope_of("student.primaryOrgSourcedId", "student.orgSourcedIds", "org.name")
    assert vendor_schema(both, "student", "x")["fields"][-1]["doc"].startswith("The one of")


def test_references_name_only_shared_kinds() -> None:
    scope = scope_of("enrollment.userSourcedId", "student.grades")
    (field,) = [
        f for f in vendor_schema(scope, "enrollment", "x")["fields"] if f["name"] == "userSourcedId"
    ]
    assert field["references"] == ["student"]


def test_the_key_is_required_and_the_rest_may_be_null() -> None:
    schema = vendor_schema(scope_of("student.givenName", "student.userIds"), "student", "x")
    about = {f["name"]: f for f in schema["fields"]}
    assert about["sourcedId"]["type"] == "string"
    assert about["status"]["type"]["default"] == "active"
    assert about["givenName"]["type"] == ["null", "string"]
    assert about["userIds"]["type"] == ["null", {"type": "array", "items": "string"}]
    assert about["userIds"]["default"] is None


WORDS = st.sampled_from(["a", "1", "ab", "b"])
NAMES = st.tuples(
    WORDS, st.lists(st.sampled_from("-_").flatmap(lambda s: WORDS.map(s.__add__)), max_size=3)
).map(lambda parts: parts[0] + "".join(parts[1]))


@given(NAMES, NAMES)
def test_two_agreements_never_share_a_namespace(one: str, other: str) -> None:
    assert (namespace(one) == namespace(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "found"),
    [("math-app", "math_app"), ("math_app", "math__app"), ("2026-math", "_2026_math")],
)
def test_a_namespace_is_valid_in_avro(name: str, found: str) -> None:
    assert namespace(name) == f"org.schoolbus.vendor.{found}"
    schema = vendor_schema(scope_of("student.grades", name=name), "student", name)
    Encoder("student", 1, schema).encode({"sourcedId": "p", "status": "active", "grades": None})


# The codec with a vendor's schema


def _same(schema: dict[str, Any], _: int) -> dict[str, Any]:
    return schema


@settings(deadline=None)
@given(scopes, st.data())
def test_records_come_back_in_whole_batches_too(scope: Scope, data: st.DataObject) -> None:
    for kind, narrowed in scope.kinds.items():
        schema = vendor_schema(scope, kind, "math-app")
        written = [
            {field: record[field] for field in narrowed.fields}
            for record in data.draw(st.lists(records(kind), min_size=1, max_size=3))
        ]
        encoder = Encoder(kind, 7, schema)
        values = [encoder.encode(record) for record in written] * FEWEST
        decoder = Decoder(kind, partial(_same, schema), schema)
        assert decoder.columns(values) is not None  # the fast path
        assert decoder.decode_all(values) == (written * FEWEST, [])
        (batch,) = [decoder.columns(values)]
        assert isinstance(batch, pyarrow.RecordBatch)
        assert BatchCodec(kind, schema).write(batch) is not None
        assert encoder.encode_all(batch) == values


def test_a_reader_of_another_version_gets_null_for_what_is_missing() -> None:
    narrow = vendor_schema(scope_of("student.grades"), "student", "x")
    wide = vendor_schema(scope_of("student.grades", "student.givenName"), "student", "x")
    record = {"sourcedId": "p", "status": "active", "grades": ["07"]}
    value = Encoder("student", 1, narrow).encode(record)
    assert Decoder("student", lambda _: narrow, wide).decode(value) == record | {"givenName": None}
    as_written = Decoder("student", lambda _: narrow, as_written=True)
    assert as_written.decode(value) == record
    assert as_written.decode_all([value] * FEWEST) == ([record] * FEWEST, [])


def test_the_standard_is_what_a_codec_uses_without_a_schema() -> None:
    record = a_record("student")
    value = Encoder("student", 1).encode(record)
    assert Decoder("student", lambda _: KINDS["student"].schema).decode(value) == record


# The registry


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    found = FakeRegistry()
    monkeypatch.setattr("bus.registry.subjects.client", found.client)
    return found


def test_a_scope_is_registered_and_looked_up(registry: FakeRegistry) -> None:
    scope = scope_of("student.grades", "enrollment.role")
    ids = register(CONFIG, "math-app", scope)
    assert set(ids) == {"student", "enrollment"}
    assert set(registry.subjects) == {
        "schoolbus.vendor.math-app.student-value",
        "schoolbus.vendor.math-app.enrollment-value",
    }
    assert set(registry.levels.values()) == {"FULL_TRANSITIVE"}
    assert set(registry.levels) == set(registry.subjects)
    assert lookup(CONFIG, "math-app", scope) == ids
    assert register(CONFIG, "math-app", scope) == ids


def test_a_field_is_removed_and_added_again(registry: FakeRegistry) -> None:
    wide, narrow = scope_of("student.grades", "student.email"), scope_of("student.grades")
    first = register(CONFIG, "math-app", wide)
    second = register(CONFIG, "math-app", narrow)
    assert register(CONFIG, "math-app", wide) == first != second
    assert len(registry.subjects[vendor_subject(CONFIG, "math-app", "student")]) == 2


def test_two_agreements_with_the_same_scope_share_no_id(registry: FakeRegistry) -> None:
    one = register(CONFIG, "math-app", scope_of("student.grades"))
    other = register(CONFIG, "library", scope_of("student.grades", name="library"))
    assert set(one.values()).isdisjoint(other.values())


def test_a_missing_schema_stops_the_lookup_and_is_not_registered(registry: FakeRegistry) -> None:
    with pytest.raises(Stop, match=r"math-app.student-value .*run `bus vendors apply`"):
        lookup(CONFIG, "math-app", scope_of("student.grades"))
    assert registry.subjects == {}


def test_a_schema_that_breaks_an_earlier_version_is_refused(registry: FakeRegistry) -> None:
    name = vendor_subject(CONFIG, "math-app", "student")
    old = vendor_schema(scope_of("student.grades"), "student", "math-app")
    old["fields"][-1]["type"] = ["null", "double"]
    registry.add(name, old)
    with pytest.raises(Stop, match="field grades"):
        register(CONFIG, "math-app", scope_of("student.grades"))
