"""What a run changes in the quarantine: new, withdrawn and unchanged entries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bus.ingest import quarantine, snapshot
from bus.ingest.quarantine import AGAIN, FaultChanges, fault_id
from bus.ingest.workspace import Workspace
from bus.settings import Settings
from bus.source import Coverage, Fault

SETTINGS = Settings()
SOURCE = "/west"
WHOLE: dict[str, Coverage] = {"student": "bulk", "class": "bulk"}
CHANGES: dict[str, Coverage] = {"student": "delta", "class": "delta"}
FAULT = Fault("users.csv", 7, "birthDate", "a number", "is no date", True, "student", "not-a-date")
OTHER = replace(FAULT, line=9)
HEADER = Fault("users.csv", 1, "", "", "has no header", kind="student", code="no-header")
Topic = list[tuple[str, dict[str, Any] | None]]


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    """Return the messages that the quarantine topic has: key and value, with the current time."""
    messages: Topic = []

    def scan(*_: object) -> Iterator[SimpleNamespace]:
        at = int(datetime.now(UTC).timestamp() * 1000)
        for key, value in messages:
            raw = None if value is None else json.dumps(value).encode()
            yield SimpleNamespace(
                key=key.encode, value=lambda raw=raw: raw, timestamp=lambda: (1, at)
            )

    monkeypatch.setattr(quarantine, "scan", scan)
    return messages


@pytest.fixture
def workspace(tmp_path: Path, topic: Topic) -> Iterator[Workspace]:
    with Workspace.open(tmp_path) as one:
        snapshot._open(one, tmp_path / "west.duckdb", "mark")
        yield one


def run(
    workspace: Workspace, *faults: Fault, coverage: dict[str, Coverage] = WHOLE
) -> FaultChanges:
    """Return what a run with these faults changes, and remember it."""
    changes = quarantine.compare(workspace, SETTINGS, SOURCE, faults, coverage)
    quarantine.remember(workspace, changes)
    return changes


def test_a_fault_that_is_reworded_is_known(workspace: Workspace) -> None:
    assert run(workspace, FAULT).new == {fault_id(SOURCE, FAULT): FAULT}
    again = replace(FAULT, reason="This is no date; write YYYY-MM-DD.", value_class="a word")
    assert not run(workspace, again)


@pytest.mark.parametrize(
    "other",
    [
        replace(FAULT, file="orgs.csv"),
        replace(FAULT, line=8),
        replace(FAULT, column="startDate"),
        replace(FAULT, kind="staff"),
        replace(FAULT, code="missing-value"),
    ],
)
def test_another_place_or_another_code_is_another_fault(workspace: Workspace, other: Fault) -> None:
    run(workspace, FAULT)
    assert run(workspace, FAULT, other).new == {fault_id(SOURCE, other): other}


def test_the_text_counts_where_there_is_no_code(workspace: Workspace) -> None:
    plain = Fault("menu.csv", 3, "", "", "has no card")
    assert plain.code == "other"
    run(workspace, plain)
    assert not run(workspace, plain)
    assert run(workspace, plain, replace(plain, reason="has no price")).new


def test_faults_of_rows_that_an_extract_no_longer_has_are_removed(workspace: Workspace) -> None:
    run(workspace, FAULT, OTHER)
    changes = run(workspace, OTHER)
    assert changes.resolved == [fault_id(SOURCE, FAULT)] and not changes.new
    assert not run(workspace, OTHER)
    assert run(workspace, FAULT, OTHER).new, "it has come back"


def test_an_extract_of_changes_says_nothing_of_other_rows(workspace: Workspace) -> None:
    run(workspace, FAULT, HEADER)
    changes = run(workspace, coverage=CHANGES)
    assert changes.resolved == [fault_id(SOURCE, HEADER)], "the file was read this time"
    assert not run(workspace, coverage={"class": "bulk"}), "no students in it"
    assert run(workspace).resolved == [fault_id(SOURCE, FAULT)]


def test_a_row_of_no_known_kind_is_looked_at_by_an_extract_that_is_whole(
    workspace: Workspace,
) -> None:
    nobody = Fault("users.csv", 4, "", "", "the role is none", code="unknown-role")
    run(workspace, nobody)
    assert not run(workspace, coverage={"student": "bulk", "class": "delta"})
    assert run(workspace, coverage={"student": "bulk", "attendance": "delta"}).resolved


def test_several_values_of_one_field_are_several_faults(workspace: Workspace, topic: Topic) -> None:
    """Two grades of one row are not in the list, so the place and the code are the same."""
    one = replace(FAULT, column="grades", code="not-in-list", value_class="a", count=3)
    two = replace(one, value_class="b", count=1)
    new = run(workspace, one, two).new
    assert list(new.values()) == [one, two]
    assert not run(workspace, one, two)
    topic += [(key, {"source": SOURCE, "time": "T", **asdict(new[key])}) for key in reversed(new)]
    assert quarantine._in_the_topic(SETTINGS, SOURCE).keys() == new.keys()
    assert run(workspace, one).resolved == [fault_id(SOURCE, two, 1)]


def test_another_number_of_rows_is_reported(workspace: Workspace) -> None:
    more = replace(FAULT, line=0, count=29_000)
    run(workspace, more)
    assert not run(workspace, more)
    fewer = replace(more, count=12)
    assert run(workspace, fewer).new == {fault_id(SOURCE, fewer): fewer}


def test_what_stays_for_long_is_published_before_kafka_forgets_it(workspace: Workspace) -> None:
    run(workspace, FAULT)
    workspace.sql(
        f"UPDATE {workspace.quarantined} SET told = ?",
        [datetime.now(UTC).replace(tzinfo=None) - AGAIN - timedelta(hours=1)],
    )
    assert run(workspace, FAULT).new
    assert not run(workspace, FAULT)


def test_a_new_cache_goes_by_the_topic(workspace: Workspace, topic: Topic) -> None:
    """Entries of another source and withdrawn entries do not count."""
    value = {
        "source": SOURCE,
        "time": "2026-11-24T01:00:00Z",
        **{name: getattr(FAULT, name) for name in Fault.__dataclass_fields__},
    }
    topic += [
        (fault_id(SOURCE, FAULT), value),
        (fault_id("/east", OTHER), {**value, "source": "/east", "line": 9}),
        ("gone", {**value, "line": 11}),
        ("gone", None),
    ]
    changes = run(workspace, FAULT, OTHER)
    assert changes.new == {fault_id(SOURCE, OTHER): OTHER}
    assert changes.resolved == []


def test_what_version_0_1_0_left_is_known_and_goes_by_its_own_key(
    workspace: Workspace, topic: Topic
) -> None:
    """Its entries have no code and no count, and their keys came from the text."""
    column = "column 5 is none of OneRoster's; it was not read"
    for key, more in {
        "old-1": {"reason": "is no date of the years 1900 to 2200; it was left out"},
        "old-2": {"line": 0, "reason": "29,000 more rows like those told: is no date of the years"},
        "old-3": {"line": 1, "column": "", "reason": column},
    }.items():
        place = {"file": "users.csv", "line": 7, "column": "birthDate", "value_class": "a number"}
        entry = {"source": SOURCE, "time": "T", **place, "fatal": True, "kind": "student"}
        topic.append((key, entry | more))
    unknown = Fault(
        "users.csv", 1, "column 5", "", "other words", kind="student", code="unknown-column"
    )
    faults = FAULT, replace(FAULT, line=0, count=29_000), unknown
    assert not run(workspace, *faults)
    assert not run(workspace, *faults), "and from then on by the cache"
    assert sorted(run(workspace).resolved) == ["old-1", "old-2", "old-3"]


def test_what_is_active_is_read_and_on_demand_all_that_is_there(topic: Topic) -> None:
    entry = {"source": SOURCE, "time": "T", "line": 1, "code": "no-header", "reason": "has none"}
    topic += [("a", entry), ("b", {**entry, "line": 2}), ("a", None)]
    assert [one["line"] for one in quarantine.read(SETTINGS)] == [2]
    assert [one["line"] for one in quarantine.read(SETTINGS, everything=True)] == [1, 2]
