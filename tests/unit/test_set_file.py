"""The bytes of a set's files equal those of the model, for any state."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.contract.fake_messages import Sent
from bus.delivery import Batch, Part, Position, Table
from consumers.delivery.full_set import FullSet
from consumers.delivery.set_file import Reference, Unique
from tests.set_model import Kept, files

UNITS = Table("units.csv", ("id", "parent", "name"), {}, ("id",))
PEOPLE = Table("people.csv", ("id", "login", "mail"), {}, ("id",))
PLACES = Table("places.csv", ("person", "units"), {}, ("person", "units"))
SEATS = Table("seats.csv", ("person", "unit", "role"), {}, ("unit", "person"))
CONTACTS = Table("contacts.csv", ("student", "contact"), {}, ("student", "contact"))
REMARKS = Table("remarks.csv", ("note",), {}, ("note",))
TABLES = (UNITS, PEOPLE, PLACES, SEATS, CONTACTS, REMARKS)
REFERENCES = {
    "units.csv": [Reference("parent", "units.csv", required=False)],
    "places.csv": [
        Reference("person", "people.csv"),
        Reference("units", "units.csv", many=True),
    ],
    "seats.csv": [Reference("person", "people.csv"), Reference("unit", "units.csv")],
    "contacts.csv": [
        Reference("student", "people.csv", kind="student"),
        Reference("contact", "people.csv", kind="guardian"),
    ],
}
NAMED_BY = {"people.csv": (PLACES, CONTACTS)}
UNIQUE = {
    "people.csv": (
        Unique("login", instead="id"),
        Unique("mail", instead="login", kinds=("student", "staff")),
    )
}
KINDS = {
    "units.csv": ["org"],
    "people.csv": ["student", "staff", "guardian"],
    "places.csv": ["student", "staff"],
    "seats.csv": ["enrollment"],
    "contacts.csv": ["student", "guardian"],
    "remarks.csv": ["org"],
}
P0 = Position("schoolbus.student", 0)
TODAY = date(2026, 11, 24)
IDS = ["a", "B", "b", "é", "a b", "a,b", 'q"', "ab", "z\\", "𝔘", "-", ""]
TEXTS = [
    *IDS,
    "ÄRA",
    "ära",
    "İ",
    "i̇",
    "ΑΣ",
    "ας",
    "ασ",
    '"',
    ",",
    "B,b,é",
    "-,x,a",
    "two\nlines",
    " ",
]


@st.composite
def batches(draw: st.DrawFn) -> list[list[tuple[Any, ...]]]:
    """Records, some of them repeated with changes: (table, kind, id, owner, rows, last day)."""

    def record() -> tuple[Any, ...]:
        table = draw(st.sampled_from(TABLES))
        kind = draw(st.sampled_from(KINDS[table.name]))
        owner = draw(st.sampled_from("pq")) if kind == "enrollment" else ""
        row = st.tuples(
            *(st.sampled_from(TEXTS if draw(st.booleans()) else IDS) for _ in table.columns)
        )
        last_day = (
            draw(st.sampled_from([None, date(2026, 11, 23), TODAY])) if table is SEATS else None
        )
        rows = draw(st.lists(row, max_size=3))
        return table, kind, draw(st.sampled_from("rstuvw")), owner, rows, last_day

    return [
        [record() for _ in range(draw(st.integers(0, 25)))] for _ in range(draw(st.integers(1, 3)))
    ]


def delivered(records: list[tuple[Any, ...]]) -> Batch:
    parts = [
        Part(
            table,
            kind,
            [[dict(zip(table.columns, row, strict=True)) for row in rows]],  # type: ignore[list-item]
            [{"sourcedId": id_, "userSourcedId": owner, "endDate": last_day}],
            [Sent("student", id_, at, partition_=0)],  # type: ignore[list-item]
        )
        for at, (table, kind, id_, owner, rows, last_day) in enumerate(records)
    ]
    return Batch(parts, {P0: 1})


def kept(held: dict[tuple[str, ...], tuple[Any, Any]]) -> dict[str, list[Kept]]:
    rows: dict[str, list[Kept]] = {table.name: [] for table in TABLES}
    for (name, kind, id_, owner), (made, last_day) in held.items():
        day = last_day.isoformat() if last_day else None
        for at, cells in enumerate(made):
            clean = tuple(cell.replace("\n", " ") for cell in cells)
            rows[name].append(Kept(kind, id_, owner, at, clean, day))
    return rows


@settings(
    max_examples=max(6, settings().max_examples // 4),  # each example writes a set
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(batches(), st.booleans())
def test_the_files_are_those_of_the_model(
    drawn: list[list[tuple[Any, ...]]], lenient: bool
) -> None:
    references = {
        name: [replace(one, lenient=lenient) for one in some] for name, some in REFERENCES.items()
    }
    held: dict[tuple[str, ...], tuple[Any, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        delivery = FullSet(
            out,
            TABLES,
            references,
            {"seats.csv": "endDate"},
            lambda: TODAY,
            named_by=NAMED_BY,
            unique=UNIQUE,
        )
        delivery.resume("cluster", [P0])
        for records in drawn:
            delivery.deliver(delivered(records))
            for table, kind, id_, owner, rows, last_day in records:
                held[table.name, kind, id_, owner] = rows, last_day
            delivery.settle()
            expected = files(TABLES, references, NAMED_BY, UNIQUE, kept(held), TODAY.isoformat())
            found = {name: (out / name).read_bytes() for name in expected}
            assert found == expected
            account = json.loads((out / ".schoolbus" / "set.json").read_bytes())["files"]
            for name, data in expected.items():
                assert account[name]["sha256"] == sha256(data).hexdigest()
                assert account[name]["rows"] == data.count(b"\r\n") - 1
        delivery.close()


def written(out: Path, *records: tuple[Any, ...], **how: Any) -> dict[str, bytes]:
    delivery = FullSet(out, TABLES, {}, {}, lambda: TODAY, **how)
    delivery.resume("cluster", [P0])
    delivery.deliver(delivered(list(records)))
    delivery.settle()
    delivery.close()
    return {table.name: (out / table.name).read_bytes() for table in TABLES}


@pytest.mark.parametrize("first", ["ΑΣ", "ας"])
def test_small_letters_are_those_of_whole_texts(tmp_path: Path, first: str) -> None:
    """A capital sigma has another lower-case form at the end of a word than within it."""
    second = {"ΑΣ": "ας", "ας": "ΑΣ"}[first]
    people = [
        (PEOPLE, "staff", id_, "", [(id_, login, "")], None)
        for id_, login in [("a", first), ("b", second), ("c", "ασ")]
    ]
    made = written(tmp_path, *people, unique=UNIQUE)
    expected = f"id,login,mail\r\na,{first},\r\nb,b,\r\nc,ασ,\r\n"
    assert made["people.csv"].decode() == expected


def test_a_file_of_many_batches_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.delivery.set_file.LINES", 2048)
    monkeypatch.setattr("consumers.delivery.set_mirror.BLOCK", 1000)
    notes = [(f"{at:05} é",) for at in range(10_000)]
    made = written(tmp_path, (REMARKS, "org", "n", "", notes[::-1], None))
    assert made["remarks.csv"].decode() == "note\r\n" + "".join(f"{note}\r\n" for (note,) in notes)


def test_rows_with_the_same_key_are_written_once_also_in_two_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.delivery.set_file.LINES", 2048)
    notes = [(f"{at:05}",) for at in range(5_000)]
    people = [(f"{at:05}", "") for at in range(5_000)]
    made = written(
        tmp_path,
        *((REMARKS, "org", one, "", notes, None) for one in "nop"),
        *((PEOPLE, "staff", one, "", [(*a, one) for a in people], None) for one in "nop"),
    )
    assert made["remarks.csv"].decode() == "note\r\n" + "".join(f"{one}\r\n" for (one,) in notes)
    lines = "".join(f"{id_},,n\r\n" for id_, _ in people)
    assert made["people.csv"].decode() == f"id,login,mail\r\n{lines}"
