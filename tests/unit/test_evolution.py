"""The changes to a schema that break something, in examples and against fastavro."""

from __future__ import annotations

import copy
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bus.standard import KINDS
from bus.standard.evolution import breaks

DATE = {"type": "int", "logicalType": "date"}
MOMENT = {"type": "long", "logicalType": "timestamp-millis"}
STRINGS = {"type": "array", "items": "string"}
OLD, NEW = "old readers", "new readers"


def record(*fields: dict[str, Any], name: str = "Thing") -> dict[str, Any]:
    return {"type": "record", "name": name, "namespace": "org.schoolbus", "fields": list(fields)}


def field(name: str, avro: Any, **rest: Any) -> dict[str, Any]:
    """Return a field: `field("grade", "string", default="")`."""
    return {"name": name, "type": avro, **rest}


def enum(*symbols: str, name: str = "Color", **rest: Any) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols), **rest}


ID = field("sourcedId", "string")


def changed(before: Any, after: Any) -> list[tuple[str, str]]:
    """Return (reason, whom) of each break when the type of the field `x` changes.

    The field `x` has no default in both versions.
    """
    found = breaks(record(ID, field("x", before)), record(ID, field("x", after)))
    assert {one.field for one in found} <= {"x"}
    return [(one.reason, one.whom) for one in found]


# Fields are added and removed.


@pytest.mark.parametrize(
    "added",
    [
        field("grade", "string", default=""),
        field("grade", ["null", "string"], default=None),
        field("grades", STRINGS, default=[]),
        field("since", ["null", DATE], default=None),
        field("color", enum("red", "other", default="other"), default="other"),
    ],
)
def test_a_field_with_a_default_comes_and_goes(added: dict[str, Any]) -> None:
    assert breaks(record(ID), record(ID, added)) == []
    assert breaks(record(ID, added), record(ID)) == []


def test_a_field_added_without_a_default_breaks_readers_of_the_new_version() -> None:
    assert breaks(record(ID), record(ID, field("grade", "string"))) == [
        ("grade", "it is added, and there is no default to use instead", NEW)
    ]


def test_null_is_no_default_unless_it_is_said_to_be() -> None:
    added = field("grade", ["null", "string"])
    assert [one.whom for one in breaks(record(ID), record(ID, added))] == [NEW]


def test_a_field_removed_without_a_default_breaks_readers_of_the_old_version() -> None:
    assert breaks(record(ID, field("grade", "string")), record(ID)) == [
        ("grade", "it is removed, and there is no default to use instead", OLD)
    ]


def test_a_renamed_field_is_one_removed_and_one_added() -> None:
    found = breaks(record(ID, field("grade", "string")), record(ID, field("level", "string")))
    assert [(one.field, one.whom) for one in found] == [("grade", OLD), ("level", NEW)]


def test_an_alias_helps_only_new_readers() -> None:
    renamed = field("level", "string", aliases=["grade"])
    found = breaks(record(ID, field("grade", "string")), record(ID, renamed))
    assert [(one.field, one.whom) for one in found] == [("grade", OLD)]


def test_the_order_of_fields_and_what_is_not_avro_s_mean_nothing() -> None:
    grade = field("grade", "string", doc="old words", sensitivity="personal")
    reworded = grade | {"doc": "new words", "sensitivity": "directory", "ceds": "Grade Level"}
    assert breaks(record(ID, grade), record(reworded, ID)) == []


def test_a_renamed_record_is_another_record() -> None:
    (found,) = breaks(record(ID), record(ID, name="Item"))
    assert "record Thing becomes record Item" in found.reason


# Types change.


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ("int", "long"),
        ("int", "float"),
        ("int", "double"),
        ("long", "float"),
        ("long", "double"),
        ("float", "double"),
    ],
)
def test_widening_a_number_breaks_old_readers_and_narrowing_breaks_new_ones(
    narrow: str, wide: str
) -> None:
    assert changed(narrow, wide) == [(f"{wide} is written but read as {narrow}", OLD)]
    assert changed(wide, narrow) == [(f"{wide} is written but read as {narrow}", NEW)]


def test_text_and_bytes_read_each_other() -> None:
    assert changed("string", "bytes") == []
    assert changed("bytes", "string") == []


@pytest.mark.parametrize(
    ("before", "after", "named_before", "named_after"),
    [
        ("string", "int", "string", "int"),
        ("string", "boolean", "string", "boolean"),
        ("string", STRINGS, "string", "array"),
        ("string", enum("red"), "string", "enum Color"),
        (enum("red"), enum("red", name="Colour"), "enum Color", "enum Colour"),
        (DATE, MOMENT, "date", "timestamp-millis"),
    ],
)
def test_another_type_breaks_both(
    before: Any, after: Any, named_before: str, named_after: str
) -> None:
    assert changed(before, after) == [
        (f"{named_after} is written but read as {named_before}", OLD),
        (f"{named_before} is written but read as {named_after}", NEW),
    ]


@pytest.mark.parametrize(("plain", "logical"), [("int", DATE), ("long", MOMENT), ("int", MOMENT)])
def test_a_number_does_not_become_a_date_although_avro_would_read_it(
    plain: str, logical: Any
) -> None:
    assert {whom for _, whom in changed(plain, logical)} == {OLD, NEW}


def test_items_of_a_list_and_values_of_a_map_are_types_too() -> None:
    assert changed(STRINGS, {"type": "array", "items": "int"}) == [
        ("int is written but read as string", OLD),
        ("string is written but read as int", NEW),
    ]
    assert changed({"type": "map", "values": "int"}, {"type": "map", "values": "long"}) == [
        ("long is written but read as int", OLD)
    ]


def test_fixed_of_another_length() -> None:
    def fixed(size: int) -> dict[str, Any]:
        return {"type": "fixed", "name": "Hash", "size": size}

    assert changed(fixed(16), fixed(16)) == []
    assert changed(fixed(16), fixed(32)) == [
        ("32 bytes are read as 16", OLD),
        ("16 bytes are read as 32", NEW),
    ]


# Null.


def test_a_field_that_may_be_null_from_now_on_breaks_old_readers() -> None:
    assert changed("string", ["null", "string"]) == [("it may be null but is read as string", OLD)]


def test_a_field_that_may_no_longer_be_null_breaks_new_readers() -> None:
    assert changed(["null", "string"], "string") == [("it may be null but is read as string", NEW)]


def test_another_branch_of_a_union_is_another_type() -> None:
    assert changed(["null", "string"], ["string", "null"]) == []
    assert changed(["null", "int"], ["null", "long"]) == [
        ("long is written but read as null or int", OLD)
    ]
    assert changed(["null", "string"], ["null", "string", "int"]) == [
        ("int is written but read as null or string", OLD)
    ]


# Enumerations.


def test_a_symbol_added_is_what_the_default_is_for() -> None:
    before = enum("red", "other", default="other")
    assert changed(before, enum("red", "blue", "other", default="other")) == []
    assert changed(["null", before], ["null", enum("red", "blue", "other", default="other")]) == []


def test_a_symbol_added_without_a_default_breaks_old_readers() -> None:
    assert changed(enum("red"), enum("red", "blue")) == [
        ("the reader's enum Color has no blue and no default", OLD)
    ]


def test_a_default_that_comes_with_the_symbol_is_too_late_for_old_readers() -> None:
    assert changed(enum("red"), enum("red", "blue", default="red")) == [
        ("the reader's enum Color has no blue and no default", OLD)
    ]


def test_a_symbol_removed_breaks_new_readers_also_where_avro_would_read_the_default() -> None:
    assert changed(enum("red", "blue"), enum("red")) == [
        ("the reader's enum Color has no blue and no default", NEW)
    ]
    before = enum("active", "tobedeleted", default="active")
    assert changed(before, enum("active", default="active")) == [
        ("tobedeleted is removed and would be read as active", NEW)
    ]


def test_a_symbol_renamed_is_one_removed_and_one_added() -> None:
    before = enum("gray", "other", default="other")
    found = changed(before, enum("grey", "other", default="other"))
    assert found == [("gray is removed and would be read as other", NEW)]


# Nested records.


def test_a_field_inside_is_named_by_its_path() -> None:
    def address(*fields: dict[str, Any]) -> dict[str, Any]:
        return field("address", record(*fields, name="Address"))

    city, zip_code = field("city", "string"), field("zip", "string")
    assert breaks(record(ID, address(city)), record(ID, address(city, zip_code))) == [
        ("address.zip", "it is added, and there is no default to use instead", NEW)
    ]
    assert breaks(record(address(city)), record(address(field("city", "int")))) == [
        ("address.city", "int is written but read as string", OLD),
        ("address.city", "string is written but read as int", NEW),
    ]


def test_a_type_that_is_named_once_and_used_twice() -> None:
    color = enum("red", "other", default="other")
    before = record(field("hair", color), field("eyes", "org.schoolbus.Color"))
    after = copy.deepcopy(before)
    after["fields"][0]["type"]["symbols"].append("blue")
    assert breaks(before, after) == []
    assert [one.field for one in breaks(after, before)] == ["hair", "eyes"]


def test_all_that_breaks_is_reported_at_once() -> None:
    before = record(ID, field("a", "string"), field("b", "int"))
    after = record(ID, field("b", "string"), field("c", "string"))
    found = {(one.field, one.whom) for one in breaks(before, after)}
    assert found == {("a", OLD), ("b", OLD), ("b", NEW), ("c", NEW)}


# The standard's own schemas, and the statements of schemas/README.md about changes.


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_with_a_default_may_be_added_to_every_kind(kind: str) -> None:
    after = copy.deepcopy(KINDS[kind].schema)
    after["fields"].append(field("nickname", ["null", "string"], default=None))
    assert breaks(KINDS[kind].schema, after) == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_may_lose_its_id(kind: str) -> None:
    after = copy.deepcopy(KINDS[kind].schema)
    after["fields"] = after["fields"][1:]
    assert {(one.field, one.whom) for one in breaks(KINDS[kind].schema, after)} == {
        ("sourcedId", OLD)
    }


# Against Avro itself: data is readable in both directions after a harmless change.

SYMBOLS = ("red", "green", "blue")
PLAIN: st.SearchStrategy[Any] = st.sampled_from(
    ["int", "long", "float", "double", "string", "bytes", "boolean", DATE, MOMENT]
)
ENUMS: st.SearchStrategy[Any] = st.lists(st.sampled_from(SYMBOLS), min_size=1, unique=True).flatmap(
    lambda symbols: st.sampled_from([enum(*symbols), enum(*symbols, default=symbols[0])])
)


def _compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    branch = inner.filter(lambda avro: not isinstance(avro, list))
    return st.one_of(
        branch.map(lambda avro: {"type": "array", "items": avro}),
        branch.map(lambda avro: {"type": "map", "values": avro}),
        branch.map(lambda avro: ["null", avro]),
        st.lists(PLAIN, min_size=1, max_size=3, unique_by=_family).map(
            lambda some: ["null", *some]
        ),
    )


def _branch(avro: Any) -> str:
    """Return the name by which a union distinguishes this branch (Avro 1.12, "Unions")."""
    return str(avro["type"] if isinstance(avro, dict) else avro)


def _family(avro: Any) -> str:
    """Return one name for types that can be written or read as each other.

    A value goes to the first branch that can hold it (Avro 1.12, "Schema Resolution"). So of two such
    branches it may come back as the other type.
    """
    scalar = ("bytes", "string", "int", "long", "float", "double")
    return "scalar" if _branch(avro) in scalar else _branch(avro)


TYPES: st.SearchStrategy[Any] = PLAIN | ENUMS | _compound(PLAIN | ENUMS)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two versions of a schema in which fields stay, come, go, or change their type or symbols."""
    old: list[dict[str, Any]] = []
    new: list[dict[str, Any]] = []
    for name in "abc":
        before = draw(TYPES)
        after = draw(st.sampled_from([before, before, before, None])) or draw(TYPES)
        if _branch(before) == "enum" and draw(st.booleans()):
            after = before | {"symbols": list(SYMBOLS)}
        for fields, avro in ((old, before), (new, after)):
            if draw(st.integers(0, 3)):
                default = {} if draw(st.integers(0, 2)) == 0 else {"default": _zero(avro)}
                fields.append(field(name, _named(avro, name), **default))
    return record(*old), record(*new)


def _named(avro: Any, name: str) -> Any:
    """Return the type with its enumeration named after its field, because names must be unique."""
    if isinstance(avro, list):
        return [_named(branch, name) for branch in avro]
    if not isinstance(avro, dict):
        return avro
    own = {"name": f"Color{name}"} if avro["type"] == "enum" else {}
    return {
        key: _named(part, name) if key in ("items", "values") else part
        for key, part in avro.items()
    } | own


def _zero(avro: Any) -> Any:
    """Return a default for a type, in the JSON form of a schema."""
    if isinstance(avro, list):
        return None
    base = avro["type"] if isinstance(avro, dict) else avro
    if base == "enum":
        return avro["symbols"][0]
    empty: dict[str, Any] = {"array": [], "map": {}, "string": "", "bytes": "", "boolean": False}
    return empty.get(base, 0.0 if base in ("float", "double") else 0)


def values(avro: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a type."""
    if isinstance(avro, list):
        return st.one_of([values(branch) for branch in avro])
    if isinstance(avro, dict) and "logicalType" in avro:
        return st.dates() if avro == DATE else st.integers(0, 2**40)
    if isinstance(avro, dict) and avro["type"] == "enum":
        return st.sampled_from(avro["symbols"])
    if isinstance(avro, dict) and avro["type"] == "array":
        return st.lists(values(avro["items"]), max_size=3)
    if isinstance(avro, dict) and avro["type"] == "map":
        return st.dictionaries(st.text(max_size=3), values(avro["values"]), max_size=3)
    plain: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**63), 2**63 - 1),
        "float": st.floats(width=32, allow_nan=False),
        "double": st.floats(allow_nan=False),
        "string": st.text(max_size=5),
        "bytes": st.text(max_size=5).map(str.encode),
        "boolean": st.booleans(),
    }
    return plain[avro]


def read(writer: dict[str, Any], reader: dict[str, Any], value: Any) -> Any:
    """Return what a reader reads from a writer's value; raises what fastavro raises."""
    out = BytesIO()
    schemaless_writer(out, parse_schema(copy.deepcopy(writer)), value)
    out.seek(0)
    ours: Any = parse_schema(copy.deepcopy(reader))
    return schemaless_reader(out, parse_schema(copy.deepcopy(writer)), ours)


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(pairs(), st.data())
def test_what_breaks_nothing_can_be_read_both_ways(
    pair: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject
) -> None:
    assume(not breaks(*pair))
    for writer, reader in (pair, pair[::-1]):
        types = {one["name"]: one["type"] for one in writer["fields"]}
        written = data.draw(st.fixed_dictionaries({name: values(t) for name, t in types.items()}))
        as_written = read(writer, writer, written)
        got = read(writer, reader, written)
        assert got.keys() == {one["name"] for one in reader["fields"]}
        for one in reader["fields"]:
            if types.get(one["name"]) == one["type"]:
                assert got[one["name"]] == as_written[one["name"]]


@pytest.mark.parametrize(
    ("writer", "reader", "value"),
    [
        (record(ID), record(ID, field("x", "int")), {"sourcedId": "1"}),
        (record(field("x", "long")), record(field("x", "int")), {"x": 1}),
        (record(field("x", ["null", "string"])), record(field("x", "string")), {"x": None}),
        (record(field("x", enum("red", "blue"))), record(field("x", enum("red"))), {"x": "blue"}),
        (record(field("x", STRINGS)), record(field("x", "string")), {"x": ["a"]}),
    ],
)
def test_what_breaks_cannot_be_read(writer: Any, reader: Any, value: Any) -> None:
    """`breaks` reports each of these changes, and fastavro cannot read the value."""
    assert NEW in {one.whom for one in breaks(writer, reader)}
    assert OLD in {one.whom for one in breaks(reader, writer)}
    with pytest.raises(Exception, match=r"."):
        read(writer, reader, value)
