"""Faults in groups: one cause takes a few lines, however many rows it affects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

import bus.ingest.quarantine
from bus.cli import app
from bus.ingest import ownership
from bus.ingest.fault_group import grouped
from bus.source import Fault

REASON = "is required and empty; the row was left out"
EMPTY = [
    Fault("users.csv", line, "givenName", "empty", REASON, True, kind, "missing-value")
    for line, kind in [(9, "staff"), (2, "student"), (3, "student")]
]
MORE = Fault(
    "users.csv", 0, "givenName", "", f"29,997 more rows with the same fault: {REASON}", True,
    "student", "missing-value", 29_997,
)  # fmt: skip
NOTED = Fault("users.csv", 1, "", "", "is not separated by commas", False, code="other-delimiter")
STREAMED = Fault("student s1", 0, "grades", "", "is none", kind="student", code="invalid-record")


def test_one_cause_is_one_group() -> None:
    (group,) = grouped(("west", fault) for fault in [*EMPTY, MORE])
    assert group.as_json() == {
        "source": "west",
        "file": "users.csv",
        "column": "givenName",
        "code": "missing-value",
        "fatal": True,
        "reason": REASON,
        "count": 30_000,
        "lines": [2, 3, 9],
        "ids": [],
        "classes": ["empty"],
    }


def test_what_left_out_rows_comes_first_and_sources_stay_apart() -> None:
    found = grouped([("west", NOTED), ("west", EMPTY[0]), ("east", NOTED), ("west", MORE)])
    assert [(group.source, group.count) for group in found] == [
        ("east", 1),
        ("west", 29_998),
        ("west", 1),
    ]


def test_values_that_are_reported_once_each_are_one_group_with_all_their_rows() -> None:
    text = "is none of KG, 01; it was kept"
    about = {"fatal": False, "kind": "student", "code": "not-in-list"}
    found = [
        Fault("users.csv", 5, "grades", "a", f"{text}; 3 rows have it", count=3, **about),  # type: ignore[arg-type]
        Fault("users.csv", 6, "grades", "b", f"{text}; 1 row has it", **about),  # type: ignore[arg-type]
        Fault("users.csv", 0, "grades", "", f"2 more texts like those told: {text}", count=9, **about),  # type: ignore[arg-type]
    ]  # fmt: skip
    (group,) = grouped(("west", fault) for fault in found)
    assert (group.reason, group.count, group.lines, group.classes) == (text, 13, [5, 6], ["a", "b"])


def test_the_ids_of_another_source_are_reported_as_far_as_there_are_few() -> None:
    rows = [(f"s{line}", "users.csv", line) for line in range(2, 32)]
    found = ownership.faults("student", rows, 10)
    assert [fault.line for fault in found] == [*range(2, 12), 0]
    (group,) = grouped(("east", fault) for fault in found)
    assert (group.count, group.code, group.lines[0]) == (30, "foreign-id", 2)


def test_records_that_come_one_by_one_are_grouped_by_kind() -> None:
    other = Fault("student s2", 0, "grades", "", "is none", kind="student", code="invalid-record")
    (group,) = grouped([("sis", STREAMED), ("sis", other)])
    assert (group.file, group.count, group.ids, group.lines) == ("student", 2, ["s1", "s2"], [])


# The output of `bus quarantine list`


def entry(source: str, fault: Fault) -> dict[str, Any]:
    names = Fault.__dataclass_fields__
    return {"source": source, "time": "T", **{name: getattr(fault, name) for name in names}}


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return how the quarantine was read; it has 30,000 rows with the same fault."""
    asked: list[bool] = []

    def read(_: object, *, everything: bool) -> list[dict[str, Any]]:
        asked.append(everything)
        west = [entry("/west", fault) for fault in [*EMPTY, MORE, NOTED]]
        return [*west, entry("/sis", STREAMED)]

    monkeypatch.setattr("bus.cli.quarantine.settings_of_reached", lambda: None)
    monkeypatch.setattr(bus.ingest.quarantine, "read", read)
    return asked


def printed(*options: str) -> str:
    result = CliRunner().invoke(app, ["quarantine", "list", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_cause_prints_a_few_lines(listed: list[bool]) -> None:
    assert printed().splitlines() == [
        "sis",
        "✗ student grades: 1 × invalid-record",
        "    is none",
        "    records s1",
        "west",
        "✗ users.csv givenName: 30,000 × missing-value (empty)",
        f"    {REASON}",
        "    lines 2, 3, 9, …",
        "· users.csv: 1 × other-delimiter",
        "    is not separated by commas",
        "    lines 1",
        "in quarantine: 30,001 left out, 1 noted",
    ]
    assert listed == [False]


def test_all_and_each_and_of_one_source(listed: list[bool]) -> None:
    assert "users.csv:9 givenName  missing-value, empty, /west" in printed("--each", "--all")
    assert listed == [True]
    assert "west" not in printed("--source", "sis")
    found = json.loads(printed("--json", "--source", "west"))
    assert [group["count"] for group in found["groups"]] == [30_000, 1]
    assert len(found["faults"]) == 5
