"""From what a source reads to records: each rule by example, then laws that hold for any text."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.ingest import integrity as module
from bus.ingest.columns import columns, quoted
from bus.ingest.integrity import validate
from bus.ingest.workspace import Workspace
from bus.source import Staging
from bus.standard import KINDS

Row = dict[str, str | None]

EXAMPLES = max(5, settings().max_examples // 3)
"""The number of extracts: fewer than of other examples, because each is checked as a whole."""


class Extract:
    """An extract made by hand: `put` adds the rows of a kind, from line 2 of KIND.csv on."""

    def __init__(self) -> None:
        # threads cost more than they save with a few rows
        self.con = duckdb.connect(config={"threads": 1})
        self.staging = Staging(self.con, Path())
        self.workspace = Workspace(self.staging)

    def put(self, kind: str, *rows: Row, fields: list[str] | None = None) -> Extract:
        names = fields or list(dict.fromkeys(name for row in rows for name in row))
        table = self.workspace.raw(kind)
        definition = "".join(f", {quoted(name)} VARCHAR" for name in names)
        self.con.execute(f"CREATE TABLE {table} (_file VARCHAR, _line BIGINT{definition})")
        values = [
            value
            for line, row in enumerate(rows, 2)
            for value in (f"{kind}.csv", line, *(row.get(name) for name in names))
        ]
        if rows:  # one statement, because DuckDB takes longer to plan than to insert
            marks = f"(?, ?{', ?' * len(names)})"
            self.con.execute(f"INSERT INTO {table} VALUES {', '.join([marks] * len(rows))}", values)
        self.staging.coverage[kind] = "bulk"
        return self

    def known(self, kind: str, *ids: str) -> Extract:
        """Add ids of records that this source published before."""
        view = self.workspace.known(kind)
        self.con.execute(f"CREATE TABLE {view} (sourcedId VARCHAR)")
        for id_ in ids:
            self.con.execute(f"INSERT INTO {view} VALUES (?)", [id_])
        return self

    def validate(self, known: module.Known | None = None) -> dict[str, int]:
        return validate(self.workspace, known)

    def records(self, kind: str) -> list[dict[str, Any]]:
        found = self.con.execute(f"FROM {self.workspace.record(kind)} ORDER BY _file, _line")
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def ids(self, kind: str) -> list[str]:
        return [record["sourcedId"] for record in self.records(kind)]

    def faults(self) -> list[tuple[int, str, str, bool]]:
        return [(f.line, f.column, f.value_class, f.fatal) for f in self.staging.faults]

    def reasons(self) -> list[str]:
        return [f.reason for f in self.staging.faults]


@pytest.fixture
def extract() -> Iterator[Extract]:
    one = Extract()
    yield one
    one.con.close()


def org(id_: str, **more: str | None) -> Row:
    return {"sourcedId": id_, "name": "Oak", "type": "school", **more}


def student(id_: str, **more: str | None) -> Row:
    return {"sourcedId": id_, "givenName": "Ada", "familyName": "Byron", **more}


def course(id_: str, **more: str | None) -> Row:
    return {"sourcedId": id_, "title": "Art", **more}


def class_(id_: str, **more: str | None) -> Row:
    return {
        "sourcedId": id_,
        "title": "Art 1",
        "classType": "scheduled",
        "courseSourcedId": "c1",
        "schoolSourcedId": "o1",
        **more,
    }


def enrollment(id_: str, **more: str | None) -> Row:
    return {
        "sourcedId": id_,
        "classSourcedId": "k1",
        "schoolSourcedId": "o1",
        "userSourcedId": "s1",
        "role": "student",
        **more,
    }


def one(kind: str, row: Row) -> tuple[dict[str, Any] | None, list[tuple[int, str, str, bool]]]:
    """Return the record that a row becomes, if any, and the faults."""
    extract = Extract().put(kind, row)
    try:
        extract.validate(lambda _, ids: set(ids))
        records = extract.records(kind)
        return (records[0] if records else None), extract.faults()
    finally:
        extract.con.close()


def value(kind: str, row: Row, field: str) -> Any:
    """Return the value that a field is read as, without faults."""
    record, faults = one(kind, row)
    assert faults == []
    assert record is not None
    return record[field]


# The shape of a record


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_has_the_fields_in_the_schemas_order_with_their_types(
    extract: Extract, kind: str
) -> None:
    extract.put(kind, fields=["sourcedId"]).validate()
    found = extract.workspace.sql(f"DESCRIBE {extract.workspace.record(kind)}")
    assert {row[0]: row[1] for row in found} == {
        **columns(kind),
        "_line": "BIGINT",
        "_file": "VARCHAR",
        "_raw": "UBIGINT",
    }
    assert [row[0] for row in found] == [*columns(kind), "_line", "_file", "_raw"]


def test_the_rows_remember_their_file_and_line(extract: Extract) -> None:
    extract.put("org", org("o1"), org("o2")).validate()
    found = [(r["sourcedId"], r["_file"], r["_line"]) for r in extract.records("org")]
    assert found == [("o1", "org.csv", 2), ("o2", "org.csv", 3)]


def test_what_the_source_read_stays_as_it_is(extract: Extract) -> None:
    extract.put("org", org(" o1 "), org("o2", name=None))
    before = extract.con.execute("FROM raw_org").fetchall()
    assert extract.validate() == {"org": 1}
    assert extract.con.execute("FROM raw_org").fetchall() == before


def test_no_table_but_the_records_is_left(extract: Extract) -> None:
    extract.put("org", org("o1"))
    extract.validate()
    tables = extract.con.execute(
        "SELECT table_name FROM duckdb_tables() WHERE NOT temporary ORDER BY 1"
    ).fetchall()
    assert tables == [("raw_org",), ("record_org",)]


# Empty and missing values


def test_defaults_replace_what_is_empty_or_missing() -> None:
    record, faults = one("student", student("s1", middleName="", enabledUser=" "))
    assert faults == []
    assert record is not None
    assert (record["status"], record["enabledUser"]) == ("active", True)
    assert (record["middleName"], record["grades"]) == (None, [])


@pytest.mark.parametrize("empty", [None, "", "  ", "\t\n"])
def test_a_required_field_that_is_empty_leaves_the_row_out(empty: str | None) -> None:
    record, faults = one("student", student("s1", familyName=empty))
    assert record is None
    assert faults == [(2, "familyName", "empty", True)]


def test_a_required_column_that_is_missing_leaves_every_row_out(extract: Extract) -> None:
    extract.put("org", {"name": "Oak", "type": "school"}, {"name": "Elm", "type": "school"})
    assert extract.validate() == {"org": 2}
    assert extract.records("org") == []
    assert extract.faults() == [
        (2, "sourcedId", "empty", True),
        (3, "sourcedId", "empty", True),
    ]


def test_a_row_with_two_fatal_faults_counts_once(extract: Extract) -> None:
    extract.put("student", {"sourcedId": "s1", "givenName": None, "familyName": None})
    assert extract.validate() == {"student": 1}
    assert extract.faults() == [(2, "givenName", "empty", True), (2, "familyName", "empty", True)]


# Ids and text


def test_ids_and_text_are_trimmed() -> None:
    record, faults = one("student", student("  s1 ", givenName="\tAda  "))
    assert faults == []
    assert record is not None
    assert (record["sourcedId"], record["givenName"]) == ("s1", "Ada")


def test_an_id_has_at_most_255_characters() -> None:
    assert value("org", org("x" * 255), "sourcedId") == "x" * 255
    assert one("org", org("x" * 256)) == (
        None,
        [(2, "sourcedId", "text of 256 characters", True)],
    )


@pytest.mark.parametrize("id_", ["a\x00b", "a\tb", "a\nb", "a\x85b", "a\u2028b", "\ta"])
def test_an_id_holds_no_control_characters(id_: str) -> None:
    record, faults = one("org", org(id_))
    assert record is None
    assert [(column, fatal) for _, column, _, fatal in faults] == [("sourcedId", True)]


def test_an_optional_id_that_is_none_is_left_out() -> None:
    record, faults = one("org", org("o1", parentSourcedId="a\tb"))
    assert record is not None
    assert record["parentSourcedId"] is None
    assert faults == [(2, "parentSourcedId", "text of 3 characters", False)]


def test_control_characters_are_taken_out_of_text_and_reported() -> None:
    record, faults = one("student", student("s1", givenName="A\x00d\x07a", familyName="B\tC\nD"))
    assert record is not None
    assert (record["givenName"], record["familyName"]) == ("Ada", "B\tC\nD")
    assert faults == [(2, "givenName", "text of 5 characters", False)]


def test_text_of_control_characters_alone_is_empty() -> None:
    record, faults = one("student", student("s1", givenName="\x00\x01", middleName="\x02"))
    assert record is None
    assert faults == [
        (2, "givenName", "text of 2 characters", True),
        (2, "middleName", "text of 1 character", False),
    ]


def test_a_text_that_swallowed_the_file_is_not_read() -> None:
    record, faults = one("student", student("s1", middleName="x" * 40_000, grades="9," * 40_000))
    assert record is not None
    assert (record["middleName"], record["grades"]) == (None, [])
    assert [(column, fatal) for _, column, _, fatal in faults] == [
        ("middleName", False),
        ("grades", False),
    ]


# Booleans and numbers


@pytest.mark.parametrize(
    ("text", "read"),
    [
        *((text, True) for text in ("true", "TRUE", "True", "1", "yes", "Y", "t")),
        *((text, False) for text in ("false", "False", "0", "no", "N", "F")),
    ],
)
def test_booleans(text: str, read: bool) -> None:
    assert value("student", student("s1", enabledUser=text), "enabledUser") is read


def test_what_is_no_boolean_takes_the_default() -> None:
    record, faults = one("student", student("s1", enabledUser="perhaps"))
    assert record is not None
    assert record["enabledUser"] is True
    assert faults == [(2, "enabledUser", "text of 7 characters", False)]


SESSION = {
    "sourcedId": "a1",
    "title": "Fall",
    "type": "term",
    "startDate": "2026-08-01",
    "endDate": "2026-12-31",
}


@pytest.mark.parametrize(("text", "read"), [("2027", 2027), ("+5", 5), ("2027.0", 2027)])
def test_whole_numbers(text: str, read: int) -> None:
    assert value("academicSession", {**SESSION, "schoolYear": text}, "schoolYear") == read


@pytest.mark.parametrize("text", ["1.5", "1e3", "0x1F", "1_000", "99999999999", "2026-27"])
def test_what_is_no_whole_number_of_32_bits_is_left_out(text: str) -> None:
    record, faults = one("academicSession", {**SESSION, "schoolYear": text})
    assert record is not None
    assert record["schoolYear"] is None
    assert [(column, fatal) for _, column, _, fatal in faults] == [("schoolYear", False)]


LINE_ITEM = {"sourcedId": "l1", "title": "Quiz", "classSourcedId": "k1"}


@pytest.mark.parametrize(
    ("text", "read"), [("7", 7.0), ("-.5", -0.5), ("1e2", 100.0), (" 3.25 ", 3.25)]
)
def test_numbers(text: str, read: float) -> None:
    assert value("lineItem", {**LINE_ITEM, "resultValueMax": text}, "resultValueMax") == read


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "1,5", "A+"])
def test_what_is_no_finite_number_is_left_out(text: str) -> None:
    record, faults = one("lineItem", {**LINE_ITEM, "resultValueMax": text})
    assert record is not None
    assert record["resultValueMax"] is None
    assert [(column, fatal) for _, column, _, fatal in faults] == [("resultValueMax", False)]


# Dates and times


@pytest.mark.parametrize(
    "text",
    [
        "2026-08-01",
        "20260801",
        "8/1/2026",
        "08/01/2026",
        " 2026-08-01\t",
        "2026-08-01T00:00:00Z",
        "2026-08-01T23:30:00-05:00",
        "2026-08-01 00:00:00.000",
    ],
)
def test_dates(text: str) -> None:
    read = value("academicSession", {**SESSION, "startDate": text}, "startDate")
    assert read == date(2026, 8, 1)


@pytest.mark.parametrize(
    "text",
    [
        *("2026-02-30", "20260230", "13/1/2026", "1/2/26", "1.8.2026", "2026"),
        *("1899-12-31", "2201-01-01", "0001-01-01", "2026-08-01 (BC)", "epoch", "infinity"),
        "2026-08-01 or so",
    ],
)
def test_what_is_no_plausible_date(text: str) -> None:
    record, faults = one("academicSession", {**SESSION, "startDate": text})
    assert record is None
    assert [(column, fatal) for _, column, _, fatal in faults] == [("startDate", True)]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2026-08-01T10:00:00Z", datetime(2026, 8, 1, 10)),
        ("2026-08-01t10:00:00z", datetime(2026, 8, 1, 10)),
        ("2026-08-01T10:00:00+02:00", datetime(2026, 8, 1, 8)),
        ("2026-08-01 10:00:00-0530", datetime(2026, 8, 1, 15, 30)),
        ("2026-08-01T10:00:00.1239Z", datetime(2026, 8, 1, 10, 0, 0, 123_000)),
        ("2026-08-01T10:00:00", datetime(2026, 8, 1, 10)),
        ("2026-08-01 10:00:00.5", datetime(2026, 8, 1, 10, 0, 0, 500_000)),
        ("2026-08-01T10:00", datetime(2026, 8, 1, 10)),
        ("2026-08-01", datetime(2026, 8, 1)),
    ],
)
def test_moments_are_utc_in_milliseconds(text: str, read: datetime) -> None:
    assert value("org", org("o1", dateLastModified=text), "dateLastModified") == read


def test_a_moment_does_not_depend_on_the_machines_time_zone(extract: Extract) -> None:
    extract.con.execute("SET TimeZone = 'America/New_York'")
    extract.put(
        "org",
        org("o1", dateLastModified="2026-08-01T10:00:00"),
        org("o2", dateLastModified="2026-08-01T12:00:00+02:00"),
    ).validate()
    found = [record["dateLastModified"] for record in extract.records("org")]
    assert found == [datetime(2026, 8, 1, 10)] * 2


@pytest.mark.parametrize(
    "text", ["yesterday", "2026-08-01T25:00:00Z", "2026-08-01T10:00:00+99:99", "1/8/2026"]
)
def test_what_is_no_moment_is_left_out(text: str) -> None:
    record, faults = one("org", org("o1", dateLastModified=text))
    assert record is not None
    assert record["dateLastModified"] is None
    assert [(column, fatal) for _, column, _, fatal in faults] == [("dateLastModified", False)]


# Enumerations and the status


@pytest.mark.parametrize(
    "text", ["gradingPeriod", "GRADINGPERIOD", "grading period", "grading_Period"]
)
def test_an_enumeration_is_read_however_it_is_written(text: str) -> None:
    assert value("academicSession", {**SESSION, "type": text}, "type") == "gradingPeriod"


@pytest.mark.parametrize(
    ("text", "class_of"), [("trimestre", "text of 9 characters"), ("", "empty")]
)
def test_an_enumeration_has_its_own_default(text: str, class_of: str) -> None:
    record, faults = one("academicSession", {**SESSION, "type": text})
    assert record is not None
    assert record["type"] == "other"
    assert faults == [(2, "type", class_of, False)]


@pytest.mark.parametrize(
    ("text", "read", "reported"),
    [("Female", "female", False), ("", None, False), ("?", "unspecified", True)],
)
def test_an_optional_enumeration(text: str, read: str | None, reported: bool) -> None:
    record, faults = one("demographics", {"sourcedId": "s1", "sex": text})
    assert record is not None
    assert record["sex"] == read
    assert bool(faults) is reported


# Fields that depend on each other


def opt_out(**more: str | None) -> Row:
    return {"sourcedId": "o1", "studentSourcedId": "s1", **more}


@pytest.mark.parametrize(
    ("row", "vendor", "purpose"),
    [
        ({"scope": "Vendor", "vendor": "Acme"}, "Acme", None),
        ({"scope": "purpose", "purpose": "research"}, None, "research"),
        ({"scope": "directory information"}, None, None),
        ({"scope": "protected", "vendor": "", "purpose": " "}, None, None),
    ],
)
def test_an_opt_out_has_what_its_scope_requires(
    row: Row, vendor: str | None, purpose: str | None
) -> None:
    record, faults = one("optOut", opt_out(**row))
    assert faults == []
    assert record is not None
    assert (record["vendor"], record["purpose"]) == (vendor, purpose)


@pytest.mark.parametrize("scope", ["vendor", "purpose"])
@pytest.mark.parametrize("text", ["", " ", None])
def test_an_opt_out_without_what_its_scope_requires_is_left_out(
    scope: str, text: str | None
) -> None:
    record, faults = one("optOut", opt_out(scope=scope, **({} if text is None else {scope: text})))
    assert record is None
    assert faults == [(2, scope, "empty", True)]


def test_an_opt_out_is_kept_without_what_its_scope_excludes(extract: Extract) -> None:
    extract.put("optOut", opt_out(scope="directoryInformation", vendor="Acme"))
    extract.validate(lambda _, ids: set(ids))
    (record,) = extract.records("optOut")
    assert (record["scope"], record["vendor"]) == ("directoryInformation", None)
    (fault,) = extract.staging.faults
    assert (fault.column, fault.code, fault.fatal) == ("vendor", "wrong-combination", False)
    assert "Acme" not in repr(fault)


@pytest.mark.parametrize("scope", ["", "everything"])
def test_an_opt_out_of_an_unknown_scope_is_the_widest_one(scope: str) -> None:
    record, faults = one("optOut", opt_out(scope=scope, vendor="Acme"))
    assert record is not None
    assert (record["scope"], record["vendor"]) == ("protected", None)
    reported = sorted((column, fatal) for _, column, _, fatal in faults)
    assert reported == [("scope", False), ("vendor", False)]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", "active"),
        ("Active", "active"),
        ("tobedeleted", "tobedeleted"),
        ("toBeDeleted", "tobedeleted"),
    ],
)
def test_the_status(text: str, read: str) -> None:
    assert value("org", org("o1", status=text), "status") == read


def test_inactive_means_withdrawn_and_is_reported() -> None:
    record, faults = one("org", org("o1", status="Inactive"))
    assert record is not None
    assert record["status"] == "tobedeleted"
    assert faults == [(2, "status", "text of 8 characters", False)]


def test_a_status_that_is_not_known_is_not_guessed() -> None:
    assert one("org", org("o1", status="closed")) == (
        None,
        [(2, "status", "text of 6 characters", True)],
    )


# Lists


def test_a_list_is_split_trimmed_and_keeps_its_order() -> None:
    assert value("student", student("s1", grades=" 10, 09,,10 ,KG,"), "grades") == [
        "10",
        "09",
        "KG",
    ]


def test_what_is_no_id_is_left_out_of_a_list() -> None:
    record, faults = one("student", student("s1", agentSourcedIds=f"p1,{'x' * 256},p2,a\tb"))
    assert record is not None
    assert record["agentSourcedIds"] == ["p1", "p2"]
    assert faults == [(2, "agentSourcedIds", "text of 266 characters", False)]


# The class of a value


@pytest.mark.parametrize(
    ("text", "class_of"),
    [
        ("-1.50", "a number"),
        ("2026-08-01", "a date"),
        ("8/1/2026", "a date"),
        ("yes", "a boolean"),
        ("soon", "text of 4 characters"),
    ],
)
def test_a_fault_says_what_kind_of_value_it_was(text: str, class_of: str) -> None:
    _, faults = one("org", org("o1", status=text))
    assert faults == [(2, "status", class_of, True)]


# One id twice


def test_of_the_same_row_twice_one_is_kept_and_none_is_counted(extract: Extract) -> None:
    extract.put("org", org("o1"), org("o1", name=" Oak", type="School"))
    assert extract.validate() == {"org": 0}
    assert [record["_line"] for record in extract.records("org")] == [2]
    assert extract.faults() == [(3, "sourcedId", "text of 2 characters", False)]
    assert "line 2" in extract.reasons()[0]


def test_of_different_rows_the_latest_modified_is_kept(extract: Extract) -> None:
    extract.put(
        "org",
        org("o1", name="A"),
        org("o1", name="B", dateLastModified="2026-08-02"),
        org("o1", name="C", dateLastModified="2026-08-03"),
        org("o1", name="D", dateLastModified="2026-08-01"),
    )
    assert extract.validate() == {"org": 3}
    assert [record["name"] for record in extract.records("org")] == ["C"]
    assert sorted(extract.faults()) == [
        (line, "sourcedId", "text of 2 characters", True) for line in (2, 3, 5)
    ]
    assert all("line 4" in reason for reason in extract.reasons())


def test_of_different_rows_with_no_later_the_first_is_kept(extract: Extract) -> None:
    extract.put("org", org("o1", name="A"), org("o1", name="B"))
    assert extract.validate() == {"org": 1}
    assert [record["name"] for record in extract.records("org")] == ["A"]


def test_a_row_that_is_left_out_does_not_displace_one_that_is_valid(extract: Extract) -> None:
    extract.put("org", org("o1", name="", dateLastModified="2026-08-02"), org("o1"))
    assert extract.validate() == {"org": 1}
    assert [record["_line"] for record in extract.records("org")] == [3]


# References


def school(extract: Extract) -> Extract:
    return (
        extract.put("org", org("o1"))
        .put("course", course("c1", orgSourcedId="o1"))
        .put("student", student("s1"))
        .put("class", class_("k1"))
    )


def test_what_is_in_the_extract_may_be_named(extract: Extract) -> None:
    school(extract).put("enrollment", enrollment("e1")).validate()
    assert extract.faults() == []
    assert extract.ids("enrollment") == ["e1"]


def test_a_required_reference_to_nothing_leaves_the_row_out(extract: Extract) -> None:
    school(extract).put("enrollment", enrollment("e1"), enrollment("e2", classSourcedId="nowhere"))
    assert extract.validate()["enrollment"] == 1
    assert extract.ids("enrollment") == ["e1"]
    assert extract.faults() == [(3, "classSourcedId", "text of 7 characters", True)]
    assert extract.reasons()[0].startswith("the field refers to a class that is not a valid,")


def test_what_names_a_row_that_was_left_out_is_left_out_too(extract: Extract) -> None:
    school(extract).put("enrollment", enrollment("e1"))
    extract.con.execute("UPDATE raw_course SET title = NULL")
    quarantined = extract.validate()
    assert quarantined == {"org": 0, "course": 1, "student": 0, "class": 1, "enrollment": 1}


def test_a_field_may_name_one_of_several_kinds(extract: Extract) -> None:
    staff: Row = {"sourcedId": "t1", "givenName": "Al", "familyName": "T", "role": "teacher"}
    school(extract).put("staff", staff)
    extract.put("enrollment", enrollment("e1", userSourcedId="t1"), enrollment("e2"))
    extract.validate()
    assert extract.ids("enrollment") == ["e1", "e2"]


def test_what_was_published_before_may_be_named(extract: Extract) -> None:
    extract.known("class", "k1").known("org", "o1").known("student", "s1", "s2").known(
        "staff", "t1"
    )
    extract.put("enrollment", enrollment("e1"), enrollment("e2", userSourcedId="s3"))
    assert extract.validate() == {"enrollment": 1}
    assert extract.ids("enrollment") == ["e1"]


def test_other_sources_are_asked_once_for_a_kind_about_what_is_nowhere_else(
    extract: Extract,
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def known(kind: str, ids: list[str]) -> set[str]:
        asked.append((kind, ids))
        return {"s1", "k1"} & set(ids)

    extract.put("org", org("o1")).known("student", "s9").known("staff", "t1")
    extract.put("demographics", {"sourcedId": "s1"}, {"sourcedId": "s9"})
    extract.put("enrollment", enrollment("e1"), enrollment("e2", userSourcedId="s2"))
    assert extract.validate(known) == {"org": 0, "demographics": 0, "enrollment": 1}
    assert sorted(asked) == [("class", ["k1"]), ("staff", ["s1", "s2"]), ("student", ["s1", "s2"])]
    assert extract.ids("enrollment") == ["e1"]


def test_nobody_is_asked_when_nothing_is_missing(extract: Extract) -> None:
    school(extract).put("enrollment", enrollment("e1"))
    extract.validate(lambda kind, _: pytest.fail(kind))


def test_a_withdrawn_record_that_was_never_published_may_not_be_named(extract: Extract) -> None:
    extract.put("org", org("o1", status="tobedeleted"), org("o2"))
    extract.put("course", course("c1", orgSourcedId="o1"), course("c2", orgSourcedId="o2"))
    extract.validate()
    assert [record["orgSourcedId"] for record in extract.records("course")] == [None, "o2"]


def test_a_withdrawn_record_that_was_published_may_be_named(extract: Extract) -> None:
    extract.put("org", org("o1", status="tobedeleted")).known("org", "o1")
    extract.put("course", course("c1", orgSourcedId="o1"))
    extract.validate()
    assert extract.faults() == []
    assert [record["orgSourcedId"] for record in extract.records("course")] == ["o1"]


def test_a_withdrawn_record_keeps_what_it_names(extract: Extract) -> None:
    withdrawn = enrollment("e1", status="tobedeleted", classSourcedId="nowhere")
    extract.put("enrollment", withdrawn).validate()
    assert extract.faults() == []
    assert [record["classSourcedId"] for record in extract.records("enrollment")] == ["nowhere"]


def test_an_optional_reference_to_nothing_is_left_out(extract: Extract) -> None:
    extract.put("org", org("o1"))
    extract.put("course", course("c1", orgSourcedId="o2"), course("c2", orgSourcedId="o1"))
    assert extract.validate() == {"org": 0, "course": 0}
    assert [record["orgSourcedId"] for record in extract.records("course")] == [None, "o1"]
    assert extract.faults() == [(2, "orgSourcedId", "text of 2 characters", False)]


def test_only_what_is_nowhere_is_left_out_of_a_list(extract: Extract) -> None:
    extract.put("org", org("o1"), org("o2"))
    extract.put(
        "student",
        student("s1", orgSourcedIds="o2,o7,o1"),
        student("s2", orgSourcedIds="o8,o9"),
        student("s3", orgSourcedIds="o1"),
    )
    assert extract.validate() == {"org": 0, "student": 0}
    lists = {record["sourcedId"]: record["orgSourcedIds"] for record in extract.records("student")}
    assert lists == {"s1": ["o2", "o1"], "s2": [], "s3": ["o1"]}
    assert extract.faults() == [
        (2, "orgSourcedIds", "text of 2 characters", False),
        (3, "orgSourcedIds", "text of 2 characters", False),
    ]


def test_a_kind_may_name_itself(extract: Extract) -> None:
    extract.put("org", org("o1", parentSourcedId="o2"), org("o2"), org("o3", parentSourcedId="o9"))
    extract.validate()
    parents = {record["sourcedId"]: record["parentSourcedId"] for record in extract.records("org")}
    assert parents == {"o1": "o2", "o2": None, "o3": None}
    assert extract.faults() == [(4, "parentSourcedId", "text of 2 characters", False)]


def test_circles_are_broken_and_what_leads_to_them_stays(extract: Extract) -> None:
    up = {"a": "b", "b": "c", "c": "a", "d": "d", "e": "a", "f": "e", "g": None}
    extract.put("org", *(org(id_, parentSourcedId=parent) for id_, parent in up.items()))
    assert extract.validate() == {"org": 0}
    parents = {record["sourcedId"]: record["parentSourcedId"] for record in extract.records("org")}
    assert parents == {**dict.fromkeys("abcdg"), "e": "a", "f": "e"}
    assert [line for line, *_ in extract.faults()] == [2, 3, 4, 5]


# Many faults


def test_of_many_faults_of_a_sort_only_some_are_reported_one_by_one(
    extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    extract.put("org", *(org(f"o{n}", name="") for n in range(10)))
    assert extract.validate() == {"org": 10}
    assert [line for line, *_ in extract.faults()] == [2, 3, 4, 0]
    assert extract.reasons()[-1].startswith("7 more rows")


# Laws for any text

TEXT = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.sampled_from(
        ["s1", "s2", "o1", "active", "tobedeleted", "2026-08-01", "true", "1,2,1", "o1,o2"]
    ),
)
STRANGE = st.text(st.characters(min_codepoint=0x400, max_codepoint=0x4FF), min_size=4, max_size=9)
"""Text that no reason contains by chance."""


def rows(kind: str, text: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Row]]:
    fields = dict.fromkeys(KINDS[kind].fields, text)
    return st.lists(st.fixed_dictionaries({}, optional=fields), max_size=6)


@pytest.mark.slow
@given(
    orgs=rows("org", TEXT),
    students=rows("student", TEXT),
    demographics=rows("demographics", TEXT),
    known=st.sets(st.sampled_from(["s1", "o1", "o2"])),
)
@settings(deadline=None, max_examples=EXAMPLES)
def test_any_text_gives_records_or_faults_and_every_row_is_accounted_for(
    orgs: list[Row], students: list[Row], demographics: list[Row], known: set[str]
) -> None:
    extract = Extract()
    for kind, its in (("org", orgs), ("student", students), ("demographics", demographics)):
        extract.put(kind, *its, fields=list(KINDS[kind].fields))
    quarantined = extract.validate(lambda _, ids: known & set(ids))
    faults = list(extract.staging.faults)
    first = {kind: extract.records(kind) for kind in extract.staging.kinds}
    for kind, its in (("org", orgs), ("student", students), ("demographics", demographics)):
        same = sum("only one of them was used" in f.reason for f in faults if f.kind == kind)
        left_out = {f.line for f in faults if f.fatal and f.kind == kind}
        assert len(left_out) == quarantined[kind]
        assert len(first[kind]) + quarantined[kind] + same == len(its)
        assert len({record["sourcedId"] for record in first[kind]}) == len(first[kind])
        assert not left_out & {record["_line"] for record in first[kind]}

    extract.staging.faults.clear()
    assert extract.validate(lambda _, ids: known & set(ids)) == quarantined
    assert {kind: extract.records(kind) for kind in extract.staging.kinds} == first
    assert extract.staging.faults == faults
    extract.con.close()


@given(kind=st.sampled_from(list(KINDS)), data=st.data())
@settings(deadline=None, max_examples=EXAMPLES)
def test_no_fault_holds_a_value(kind: str, data: st.DataObject) -> None:
    strange = data.draw(rows(kind, st.one_of(STRANGE, st.just("s1"), st.just("2026-01-01"))))
    extract = Extract().put(kind, *strange, fields=list(KINDS[kind].fields))
    extract.validate(lambda _, __: set())
    reported = repr(extract.staging.faults)
    values = {text for row in strange for text in row.values() if text and len(text) > 3}
    assert [text for text in values - {"2026-01-01"} if text in reported] == []
    assert "2026-01-01" not in reported
    extract.con.close()
