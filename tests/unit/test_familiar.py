"""What an extract says again is not checked again, and comes out as if it had been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from bus import diff, familiar
from bus.columns import SCHEMA, columns, definition, fingerprint, quoted
from bus.staging import Staging
from bus.validate import validate

Rows = dict[str, list[dict[str, str]]]

SCHOOL = {"sourcedId": "s1", "status": "active", "name": "Oak", "type": "school"}
TERM = {
    "sourcedId": "t1",
    "status": "active",
    "title": "Fall",
    "type": "term",
    "startDate": "2026-08-17",
    "endDate": "2026-12-18",
    "schoolYear": "2027",
}


def org(id_: str, parent: str = "", **said: str) -> dict[str, str]:
    return SCHOOL | {"sourcedId": id_, "parentSourcedId": parent} | said


class District:
    """The cache of a source, and its extracts one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.published = str(folder / "published.duckdb")
        con = duckdb.connect(self.published)
        for kind in ("org", "student"):
            con.execute(
                f"CREATE TABLE {quoted(kind)} "
                f"({definition(kind)}, _fingerprint UBIGINT, _raw UBIGINT)"
            )
        con.close()

    def take(self, rows: Rows) -> tuple[dict[str, list[str]], dict[str, diff.Changes], list[Any]]:
        """An extract: for each kind the ids that were checked; the changes; the faults."""
        con = duckdb.connect()
        con.execute(f"ATTACH '{self.published}' AS {SCHEMA}")
        staging = Staging(con, self.folder)
        for kind, found in rows.items():
            names = list(dict.fromkeys(name for row in found for name in row))
            listed = ", ".join(f"{quoted(name)} VARCHAR" for name in names)
            con.execute(
                f"CREATE TABLE {quoted(f'raw_{kind}')} (_file VARCHAR, _line BIGINT, {listed})"
            )
            for line, row in enumerate(found, 2):
                marks = ", ".join("?" for _ in range(len(names) + 2))
                values = [f"{kind}.csv", line, *(row.get(name) for name in names)]
                con.execute(f"INSERT INTO {quoted(f'raw_{kind}')} VALUES ({marks})", values)
            staging.coverage[kind] = "bulk"
        familiar.set_apart(staging)
        checked = {
            kind: [
                row[0]
                for row in con.execute(
                    f"SELECT sourcedId FROM {quoted(f'raw_{kind}')} ORDER BY 1"
                ).fetchall()
            ]
            for kind in rows
        }
        for kind in rows:
            con.execute(
                f"CREATE VIEW {quoted(f'known_{kind}')} AS SELECT b.sourcedId "
                f"FROM {SCHEMA}.{quoted(kind)} b WHERE EXISTS "
                f"(FROM {familiar.present(kind)} r WHERE r.sourcedId = b.sourcedId)"
            )
        validate(staging)
        changes = {kind: diff.compare(con, kind, "bulk") for kind in rows}
        for kind in rows:
            self._remember(con, kind)
        con.close()
        return checked, changes, staging.faults

    @staticmethod
    def _remember(con: duckdb.DuckDBPyConnection, kind: str) -> None:
        """As `bus.baseline.remember` does."""
        fields = ", ".join(quoted(name) for name in columns(kind))
        table, change = f"{SCHEMA}.{quoted(kind)}", quoted(f"change_{kind}")
        con.execute(f"DELETE FROM {table} WHERE sourcedId IN (SELECT sourcedId FROM {change})")
        con.execute(
            f"INSERT INTO {table} SELECT {fields}, {fingerprint(kind, 'c')}, _raw FROM {change} c"
        )
        con.execute(
            f"UPDATE {table} b SET _raw = r._raw FROM {quoted(f'record_{kind}')} r "
            "WHERE r.sourcedId = b.sourcedId"
        )


@pytest.fixture
def district(tmp_path: Path) -> District:
    return District(tmp_path)


def test_the_same_rows_again_are_not_checked_and_count_as_unchanged(district: District) -> None:
    rows = {"org": [org("s1"), org("s2", "s1")]}
    checked, changes, _ = district.take(rows)
    assert checked == {"org": ["s1", "s2"]}
    assert changes["org"].created == 2
    checked, changes, faults = district.take(rows)
    assert checked == {"org": []}
    assert (changes["org"].unchanged, changes["org"].withdrawn, faults) == (2, 0, [])


def test_only_what_is_new_or_changed_is_checked(district: District) -> None:
    district.take({"org": [org("s1"), org("s2"), org("s3")]})
    checked, changes, _ = district.take({"org": [org("s1"), org("s2", name="Elm"), org("s4")]})
    assert checked == {"org": ["s2", "s4"]}
    found = changes["org"]
    assert (found.created, found.updated, found.withdrawn, found.unchanged) == (1, 1, 1, 1)


def test_a_new_stamp_alone_is_no_change(district: District) -> None:
    district.take({"org": [org("s1", dateLastModified="2026-11-24T06:00:00Z")]})
    checked, _, _ = district.take({"org": [org("s1", dateLastModified="2026-11-25T06:00:00Z")]})
    assert checked == {"org": []}


def test_who_refers_to_what_changed_is_checked_again_up_to_the_last_referrer(
    district: District,
) -> None:
    chain = [org("s1"), org("s2", "s1"), org("s3", "s2"), org("s4")]
    district.take({"org": chain})
    checked, changes, _ = district.take({"org": [org("s1", name="Elm"), *chain[1:]]})
    assert checked == {"org": ["s1", "s2", "s3"]}
    assert (changes["org"].updated, changes["org"].unchanged) == (1, 3)


def test_who_refers_to_what_is_gone_is_told_so(district: District) -> None:
    student = {
        "sourcedId": "p1",
        "status": "active",
        "givenName": "Zoë",
        "familyName": "O'Brien",
        "orgSourcedIds": "s1,s2",
    }
    district.take({"org": [org("s1"), org("s2")], "student": [student]})
    checked, changes, faults = district.take({"org": [org("s1")], "student": [student]})
    assert checked["student"] == ["p1"]
    assert [fault.column for fault in faults] == ["orgSourcedIds"]
    assert changes["student"].updated == 1


def test_a_row_with_a_fault_is_told_each_time(district: District) -> None:
    rows = {"org": [org("s1", type="castle")]}
    assert [fault.column for fault in district.take(rows)[2]] == ["type"]
    assert [fault.column for fault in district.take(rows)[2]] == ["type"]


def test_an_id_that_is_there_twice_is_told_each_time(district: District) -> None:
    district.take({"org": [org("s1")]})
    for _ in range(2):
        checked, _, faults = district.take({"org": [org("s1"), org("s1", name="Elm")]})
        assert checked == {"org": ["s1", "s1"]}
        assert [fault.column for fault in faults] == ["sourcedId"]


def test_other_columns_make_other_rows(district: District) -> None:
    """The same texts under other names say something else."""
    row = {"sourcedId": "s1", "status": "active", "type": "school", "name": "x"}
    district.take({"org": [row | {"identifier": "x"}]})
    checked, _, _ = district.take({"org": [row | {"parentSourcedId": ""}]})
    assert checked == {"org": ["s1"]}
