"""The Python types that are generated from the schemas."""

from __future__ import annotations

import copy
import subprocess
import sys
from datetime import date, datetime
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from bus import standard
from bus.standard import KINDS, generate, records

PRIMITIVES = {"string": str, "int": int, "double": float, "boolean": bool, "null": NoneType}
LOGICAL = {"date": date, "timestamp-millis": datetime}


def test_records_are_up_to_date() -> None:
    written = generate.TARGET.read_text("utf-8")
    assert written == generate.render(), "run python -m bus.standard.generate"


def test_ruff_would_change_nothing() -> None:
    command = [
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--stdin-filename",
        str(generate.TARGET),
        "-",
    ]
    done = subprocess.run(
        command, input=generate.render(), capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == generate.render()


def shape(avro: Any) -> Any:
    """Return the Python form of an Avro type, so that forms can be compared."""
    if isinstance(avro, list):
        return frozenset(shape(branch) for branch in avro)
    if isinstance(avro, str):
        return PRIMITIVES[avro]
    if avro["type"] == "array":
        return (list, shape(avro["items"]))
    if avro["type"] == "enum":
        return tuple(avro["symbols"])
    return LOGICAL[avro["logicalType"]]


def shape_of_hint(hint: Any) -> Any:
    """Return the same form for a type hint."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) is list:
        return (list, shape_of_hint(get_args(hint)[0]))
    if get_args(hint):
        return frozenset(shape_of_hint(one) for one in get_args(hint))
    return hint


@pytest.mark.parametrize("kind", KINDS)
def test_a_type_has_the_fields_of_its_schema_in_order_and_kind(kind: str) -> None:
    schema = KINDS[kind].schema
    typed = getattr(records, schema["name"])
    hints = get_type_hints(typed)
    assert list(hints) == [field["name"] for field in schema["fields"]]
    for field in schema["fields"]:
        assert shape_of_hint(hints[field["name"]]) == shape(field["type"]), field["name"]
    assert typed.__required_keys__ == set(hints), "a decoded record has every field"
    assert " ".join(typed.__doc__.split()) == schema["doc"]


def test_every_type_is_one_of_the_public_names() -> None:
    assert {kind.schema["name"] for kind in KINDS.values()} <= set(standard.__all__)


def test_two_enumerations_of_one_name_must_be_the_same() -> None:
    enums: dict[str, str] = {}
    generate._record(KINDS["org"].schema, enums)
    other = copy.deepcopy(KINDS["course"].schema)
    other["fields"][1]["type"]["symbols"].append("archived")
    with pytest.raises(ValueError, match="two schemas define the enumeration Status"):
        generate._record(other, enums)


def test_check_says_when_it_is_not_up_to_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    target = tmp_path / "records.py"
    monkeypatch.setattr(generate, "TARGET", target)
    monkeypatch.setattr(sys, "argv", ["generate"])
    generate.main()
    monkeypatch.setattr(sys, "argv", ["generate", "--check"])
    generate.main()
    target.write_text(generate.render() + "x = 1\n", "utf-8")
    with pytest.raises(SystemExit, match=r"run python -m bus\.standard\.generate"):
        generate.main()
