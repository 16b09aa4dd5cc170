"""Unchanged rows are not checked again, and have the same outcome as if they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from bus.ingest import diff, row_hashes
from bus.ingest.columns import columns, definition, fingerprint, quoted
from bus.ingest.integrity import validate
from bus.ingest.workspace import Workspace
from bus.source import Staging

Rows = dict[str, list[dict[str, str]]]

SCHOOL = {"sourcedId": "s1", "status": "active", "name": "Oak", "type": "school"}
KINDS = ("org", "student", "demographics")


def org(id_: str) -> dict[str, str]:
    return SCHOOL | {"sourcedId": id_}


def student(id_: str, schools: str = "s1", **said: str) -> dict[str, str]:
    name = {"givenName": "Zoë", "familyName": "O'Brien"}
    return {"sourcedId": id_, "status": "active", "orgSourcedIds": schools} | name | said


class District:
    """The cache of a source, and its extracts one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.published = folder / "published.duckdb"
        con = duckdb.connect(str(self.published))
        for kind in KINDS:
            con.execute(
                f"CREATE TABLE {quoted(kind)} "
                f"({definition(kind)}, _fingerprint UBIGINT, _raw UBIGINT)"
            )
        con.close()

    def take(self, rows: Rows) -> tuple[dict[str, list[str]], dict[str, diff.Changes], list[Any]]:
        """Take an extract, and return the checked ids of each kind, the changes and the faults."""
        con = duckdb.connect()
        staging = Staging(con, self.folder)
        workspace = Workspace(staging)
        workspace.attach(self.published)
        for kind, found in rows.items():
            names = list(dict.fromkeys(name for row in found for name in row))
            listed = ", ".join(f"{quoted(name)} VARCHAR" for name in names)
            con.execute(f"CREATE TABLE {quoted(f'file_{kind}')} ({listed})")
            for row in found:
                marks = ", ".join("?" for _ in names)
                values = [row.get(name) for name in names]
                con.execute(f"INSERT INTO {quoted(f'file_{kind}')} VALUES ({marks})", values)
            read = f"FROM {quoted(f'file_{kind}')}"
            table, file = f"raw_{kind}", f"{kind}.csv"
            rows_ = row_hashes.load(staging, table, read, names, file=file, kinds=[kind])
            assert rows_ == len(found)
            staging.coverage[kind] = "bulk"
        row_hashes.set_apart(workspace)
        for kind in rows:
            con.execute(
                f"CREATE VIEW {workspace.known(kind)} AS SELECT b.sourcedId "
                f"FROM {workspace.published(kind)} b "
                f"ANTI JOIN {workspace.gone(kind)} g ON b.sourcedId = g.sourcedId"
            )
        validate(workspace)
        checked = {
            kind: [
                row[0]
                for row in workspace.sql(f"SELECT sourcedId FROM {workspace.raw(kind)} ORDER BY 1")
            ]
            for kind in rows
        }
        changes = {kind: diff.compare(workspace, kind, "bulk") for kind in rows}
        for kind in rows:
            self._remember(workspace, kind)
        con.close()
        return checked, changes, staging.faults

    @staticmethod
    def _remember(workspace: Workspace, kind: str) -> None:
        """Store the records as `bus.ingest.snapshot.remember` does."""
        fields = ", ".join(quoted(name) for name in columns(kind))
        table, change = workspace.published(kind), workspace.change(kind)
        workspace.sql(f"DELETE FROM {table} WHERE sourcedId IN (SELECT sourcedId FROM {change})")
        workspace.sql(
            f"INSERT INTO {table} SELECT {fields}, {fingerprint(kind, 'c')}, _raw FROM {change} c"
        )
        workspace.sql(
            f"UPDATE {table} b SET _raw = r._raw FROM {workspace.record(kind)} r "
            "WHERE r.sourcedId = b.sourcedId"
        )


@pytest.fixture
def district(tmp_path: Path) -> District:
    return District(tmp_path)


def test_the_same_rows_again_are_not_checked_and_count_as_unchanged(district: District) -> None:
    rows = {"org": [org("s1")], "student": [student("p1"), student("p2")]}
    checked, changes, _ = district.take(rows)
    assert checked["student"] == ["p1", "p2"]
    assert changes["student"].created == 2
    checked, changes, faults = district.take(rows)
    assert checked["student"] == []
    assert (changes["student"].unchanged, changes["student"].withdrawn, faults) == (2, 0, [])


def test_only_what_is_new_or_changed_is_checked(district: District) -> None:
    schools = [org("s1")]
    district.take({"org": schools, "student": [student("p1"), student("p2"), student("p3")]})
    now = [student("p1"), student("p2", givenName="Zoe"), student("p4")]
    checked, changes, _ = district.take({"org": schools, "student": now})
    assert checked["student"] == ["p2", "p4"]
    found = changes["student"]
    assert (found.created, found.updated, found.withdrawn, found.unchanged) == (1, 1, 1, 1)


def test_a_new_stamp_alone_is_no_change(district: District) -> None:
    for day in ("24", "25"):
        row = student("p1", "", dateLastModified=f"2026-11-{day}T06:00:00Z")
        checked, _, _ = district.take({"student": [row]})
    assert checked == {"student": []}


def test_what_forms_a_tree_is_checked_whole(district: District) -> None:
    """A new record may close a cycle with unchanged ones."""
    for _ in range(2):
        checked, changes, _ = district.take({"org": [org("s1"), org("s2")]})
        assert checked == {"org": ["s1", "s2"]}
    assert changes["org"].unchanged == 2


def test_who_refers_to_what_has_changed_is_not_checked(district: District) -> None:
    district.take({"org": [org("s1")], "student": [student("p1")]})
    changed = org("s1") | {"name": "Elm"}
    checked, changes, _ = district.take({"org": [changed], "student": [student("p1")]})
    assert checked["student"] == []
    assert (changes["org"].updated, changes["student"].unchanged) == (1, 1)


def test_a_reference_to_a_withdrawn_record_is_reported(district: District) -> None:
    people = [student("p1", "s1,s2"), student("p2", "s1")]
    district.take({"org": [org("s1"), org("s2")], "student": people})
    checked, changes, faults = district.take({"org": [org("s1")], "student": people})
    assert checked["student"] == ["p1"]
    assert [(fault.file, fault.line, fault.column) for fault in faults] == [
        ("student.csv", 2, "orgSourcedIds")
    ]
    assert (changes["student"].updated, changes["student"].unchanged) == (1, 1)


def test_who_refers_to_what_cannot_be_read_any_more_stays(district: District) -> None:
    """A published record is active until it is withdrawn, so other records may refer to it."""
    said = {"sourcedId": "p1", "status": "active", "sex": "female"}
    district.take({"student": [student("p1", "")], "demographics": [said]})
    spoilt = student("p1", "", familyName="")
    checked, changes, faults = district.take({"student": [spoilt], "demographics": [said]})
    assert [(fault.file, fault.fatal) for fault in faults] == [("student.csv", True)]
    assert checked["demographics"] == []
    assert changes["demographics"].unchanged == 1


def test_a_row_with_a_fault_is_reported_each_time(district: District) -> None:
    rows = {"student": [student("p1", "", enabledUser="perhaps")]}
    first = [fault.column for fault in district.take(rows)[2]]
    assert first
    assert [fault.column for fault in district.take(rows)[2]] == first


@pytest.mark.parametrize("other", [{}, {"givenName": "Zoe"}])
def test_an_id_that_is_there_twice_is_reported_each_time(
    district: District, other: dict[str, str]
) -> None:
    district.take({"student": [student("p1", ""), student("p2", "")]})
    rows = [student("p1", ""), student("p2", ""), student("p1", "", **other)]
    for _ in range(2):
        checked, _, faults = district.take({"student": rows})
        assert checked == {"student": ["p1", "p1"]}
        assert [fault.column for fault in faults] == ["sourcedId"]


def test_other_columns_make_other_rows(district: District) -> None:
    """The same values under other column names have another meaning."""
    row = student("p1", "")
    district.take({"student": [row | {"identifier": "x"}]})
    checked, _, _ = district.take({"student": [row | {"username": "x"}]})
    assert checked == {"student": ["p1"]}
