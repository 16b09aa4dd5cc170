"""A product's functions over whole batches."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from pydantic import BaseModel

from bus.consume.dependency_order import KindRecords
from bus.consume.translation import translate
from bus.contract import Sent, a_record
from bus.delivery import Table
from bus.errors import Never
from bus.product import Product


def user(student: dict[str, Any]) -> dict[str, str] | None:
    if student["sourcedId"] == "unwanted":
        return None
    if student["sourcedId"] == "nameless":
        raise Never("student nameless has no name; give it one in the SIS")
    return {"user_id": student["sourcedId"], "grade": student["grades"][0]}


PRODUCT = Product(
    "lunch",
    (
        Table("badges.csv", ("badge",), {"student": lambda s: {"badge": s["sourcedId"]}}),
        Table("users.csv", ("user_id", "grade"), {"student": user}),
    ),
    BaseModel,
    lambda _: None,  # type: ignore[arg-type, return-value]
)


def students(*ids: str, grades: tuple[str, ...] = ("07",)) -> dict[str, KindRecords]:
    records = [a_record("student", sourcedId=id_, grades=list(grades)) for id_ in ids]
    return {"student": KindRecords(records, [Sent("student", "", i) for i in range(len(ids))])}  # type: ignore[misc]


def test_rows_in_the_products_order_beside_their_messages() -> None:
    parts, delivered, failures = translate(PRODUCT, students("a", "b"))
    assert [(p.table.name, p.rows) for p in parts] == [
        ("badges.csv", [{"badge": "a"}, {"badge": "b"}]),
        ("users.csv", [{"user_id": "a", "grade": "07"}, {"user_id": "b", "grade": "07"}]),
    ]
    assert delivered == {"student": 2}
    assert failures == []


def test_none_is_not_reported() -> None:
    parts, _, failures = translate(PRODUCT, students("a", "unwanted"))
    assert [r["user_id"] for r in parts[1].rows] == ["a"]
    assert [m.offset() for m in parts[1].messages] == [0]
    assert failures == []


def test_never_goes_to_the_dead_letters_and_to_no_table() -> None:
    parts, delivered, failures = translate(PRODUCT, students("nameless", "b"))
    assert [p.rows for p in parts] == [[{"badge": "b"}], [{"user_id": "b", "grade": "07"}]]
    assert delivered == {"student": 1}
    assert [(m.offset(), reason) for m, reason in failures] == [
        (0, "student nameless has no name; give it one in the SIS")
    ]


def test_any_other_error_too_and_its_text_is_not_reported() -> None:
    _, delivered, [(_, reason)] = translate(PRODUCT, students("a", grades=()))
    assert delivered == {"student": 0}
    line = user.__code__.co_firstlineno + 5
    assert reason == (
        f"the translation failed (IndexError at unit/test_translation.py:{line}); "
        "fix it, then retry this record"
    )


def seat(student: dict[str, Any]) -> dict[str, str]:
    return {"homeroom": student["homeRoom"]}


def bus_number(student: dict[str, Any]) -> dict[str, str]:
    return {"bus": {"07": "3"}[student["familyName"]]}


def aged(student: dict[str, Any]) -> dict[str, int]:
    return {"year": datetime.strptime(student["familyName"], "%Y").year}


@pytest.mark.parametrize(
    ("function", "description"),
    [
        (seat, "KeyError 'homeRoom' at unit/test_translation.py:"),
        (bus_number, "KeyError at unit/test_translation.py:"),
        (aged, "ValueError at unit/test_translation.py:"),
        (int, "TypeError)"),
    ],
)
def test_a_key_is_reported_when_the_code_spells_it_and_never_when_it_is_a_value(
    function: Any, description: str
) -> None:
    lunch = Product("lunch", (Table("a", (), {"student": function}),), BaseModel, lambda _: None)  # type: ignore[arg-type, return-value]
    records = students("a")
    records["student"].records[0]["familyName"] = "Lovelace"
    _, _, [(_, reason)] = translate(lunch, records)
    assert f"the translation failed ({description}" in reason
    assert "Lovelace" not in reason
