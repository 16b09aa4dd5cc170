"""Rows of CSV: both readers give the same rows, and a bad row affects only itself."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.source import Staging
from producers.oneroster_csv import rows
from producers.oneroster_csv.columns import FILES
from producers.oneroster_csv.encoding import as_utf8
from producers.oneroster_csv.rows import load
from tests.oneroster_files import fatal

HEADER = "sourcedId,name,type\n"

Read = list[tuple[int, str | None, str | None, str | None]]


def orgs(folder: Path, text: str | bytes) -> tuple[Read, Staging]:
    """Return (line, sourcedId, name, type) of each row of an orgs.csv, and the staging."""
    work = folder / "work"
    work.mkdir(exist_ok=True, parents=True)
    path = folder / "orgs.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    staging = Staging(duckdb.connect(), work)
    if not load(staging, FILES["orgs"], as_utf8(path, work), "raw_org"):
        return [], staging
    found = staging.con.execute(
        "SELECT _line, nullif(sourcedId, ''), nullif(name, ''), nullif(type, '') "
        "FROM raw_org ORDER BY _line"
    )
    return found.fetchall(), staging


def reported(staging: Staging) -> list[tuple[int, str]]:
    return [(fault.line, fault.reason.split(";")[0]) for fault in fatal(staging)]


def test_line_ends_of_both_sorts(tmp_path: Path) -> None:
    found, _ = orgs(tmp_path, HEADER + "1,A,school\r\n2,B,school\n3,C,school\r\n")
    assert [row[3] for row in found] == ["school"] * 3


def test_a_bare_return_inside_quotes_counts_as_a_line(tmp_path: Path) -> None:
    found, _ = orgs(tmp_path, HEADER + '1,"A\r",school\n2,B,school\n')
    assert [row[0] for row in found] == [2, 4]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end(tmp_path: Path, end: str) -> None:
    found, staging = orgs(tmp_path, f"{HEADER}1,A,school\n2,B,school\n".replace("\n", end))
    assert found == [(2, "1", "A", "school"), (3, "2", "B", "school")]
    assert staging.faults == []


def test_quoted_line_ends_commas_and_quotes(tmp_path: Path) -> None:
    """The line of a row is the line on which it starts."""
    found, staging = orgs(
        tmp_path, HEADER + '1,"A, first\nof ""two"" lines",school\r\n2,B,school\n'
    )
    assert found == [
        (2, "1", 'A, first\nof "two" lines', "school"),
        (4, "2", "B", "school"),
    ]
    assert staging.faults == []


def test_empty_rows_are_passed_over(tmp_path: Path) -> None:
    found, staging = orgs(tmp_path, HEADER + "\n1,A,school\n,,\n  , ,\n\n2,B,school\n\n\n")
    assert found == [(3, "1", "A", "school"), (7, "2", "B", "school")]
    assert staging.faults == []


def test_rows_of_the_wrong_length_are_left_out_and_reported(tmp_path: Path) -> None:
    found, staging = orgs(tmp_path, HEADER + "1,A,school\n2,B\n3,C,school,x\n4,D,school,,\n")
    assert [row[1] for row in found] == ["1", "4"]
    assert reported(staging) == [
        (3, "has fewer values than columns"),
        (4, "has more values than columns"),
    ]
    assert {fault.kind for fault in fatal(staging)} == {"org"}
    assert {fault.column for fault in fatal(staging)} == {""}
    assert fatal(staging)[0].value_class == "a row of 2 values"


def test_a_stray_quote_costs_one_row(tmp_path: Path) -> None:
    found, staging = orgs(tmp_path, HEADER + '1,"bad"quote,school\n2,5" pipe,school\n3,C,school\n')
    assert found == [(3, "2", '5" pipe', "school"), (4, "3", "C", "school")]
    assert reported(staging) == [(2, rows.UNCLOSED)]


@pytest.mark.parametrize("more", ["", '2,"B\n",school\n'])
def test_a_space_before_a_quote_does_not_matter(tmp_path: Path, more: str) -> None:
    found, staging = orgs(tmp_path, HEADER + '1, "A, B", school\n' + more)
    assert found[0][:3] == (2, "1", "A, B")
    assert staging.faults == []


@pytest.mark.parametrize("last", ["", '9,"closed",school\n'])
def test_an_unclosed_quote_does_not_swallow_what_follows(tmp_path: Path, last: str) -> None:
    found, staging = orgs(tmp_path, HEADER + '1,"open,school\n2,B,school\n3,C,school\n' + last)
    assert [row[:2] for row in found][:2] == [(3, "2"), (4, "3")]
    assert reported(staging) == [(2, rows.UNCLOSED)]


def test_two_stray_quotes_do_not_run_rows_together(tmp_path: Path) -> None:
    found, staging = orgs(
        tmp_path, HEADER + '1,"open,school\n2,B,school\n3,closed",school\n4,D,school\n'
    )
    assert [row[1] for row in found] == ["2", "3", "4"]
    assert reported(staging) == [(2, rows.UNCLOSED)]


def test_a_row_between_two_broken_ones_is_not_taken_for_a_part_of_a_value(tmp_path: Path) -> None:
    """The quote closes and the length is right, so only the row in between shows the damage."""
    found, staging = orgs(tmp_path, HEADER + '1,"open\n2,B,school\n3",school\n4,D,school\n')
    assert [row[1] for row in found] == ["2", "4"]
    assert [line for line, _ in reported(staging)] == [2, 4]


def test_nor_where_the_id_itself_is_damaged(tmp_path: Path) -> None:
    """The damaged row's id has no pattern, but the ids of the rows before it do."""
    damaged = 'org-0003 and more,"C,school\norg-0004,D,school\norg-0005",school\n'
    before = "org-0001,A,school\norg-0002,B,school\n"
    found, _ = orgs(tmp_path, HEADER + before + damaged + "org-0006,F,school\n")
    assert [row[1] for row in found] == ["org-0001", "org-0002", "org-0004", "org-0006"]


def test_a_quote_that_closes_too_late_costs_no_row_of_the_right_length(tmp_path: Path) -> None:
    found, staging = orgs(
        tmp_path, HEADER + '1,"open,school\n2,B,school\n3",x,y,school\n4,D,school\n'
    )
    assert [row[1] for row in found] == ["2", "4"]
    assert [line for line, _ in reported(staging)] == [2, 4]


def test_a_line_of_monstrous_length_costs_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LONGEST_LINE", 100)
    found, staging = orgs(tmp_path, f'{HEADER}1,{"x" * 350},school\n2,"B\n",school\n')
    assert [row[:2] for row in found] == [(3, "2")]
    assert reported(staging) == [(2, rows.UNCLOSED)]


def test_a_row_of_bytes_that_are_no_text_is_left_out(tmp_path: Path) -> None:
    found, staging = orgs(tmp_path, HEADER.encode() + b"1,\x81\xff,school\n2,Zo\xeb,school\n")
    assert found == [(3, "2", "Zoë", "school")]
    assert reported(staging) == [(2, rows.UNREADABLE_ROW)]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_found_and_reported(tmp_path: Path, delimiter: str) -> None:
    text = (HEADER + '1,"A,B",school\n').replace(",", delimiter)
    found, staging = orgs(tmp_path, text)
    assert found == [(2, "1", f"A{delimiter}B", "school")]
    assert [fault.fatal for fault in staging.faults] == [False]


@pytest.mark.parametrize(
    "text", ["", "\n\n", "1,A,school\n", '"sourcedId,name\n', "name,type\nA,school\n"]
)
def test_without_a_header_nothing_is_read(tmp_path: Path, text: str) -> None:
    found, staging = orgs(tmp_path, text)
    assert found == []
    assert [(fault.line, fault.column) for fault in fatal(staging)] == [(1, "sourcedId")]


def test_a_header_alone_is_a_file_without_rows(tmp_path: Path) -> None:
    found, staging = orgs(tmp_path, HEADER)
    assert found == []
    assert staging.faults == []
    assert staging.con.execute("SELECT count(*) FROM raw_org").fetchall() == [(0,)]


def test_many_faults_of_a_sort_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST", 3)
    _, staging = orgs(tmp_path, HEADER + "1\n" * 10)
    assert len(staging.faults) == 4
    assert staging.faults[-1].reason.startswith("7 more rows with the same fault: has fewer")


def test_names_that_duckdb_takes_for_patterns(tmp_path: Path) -> None:
    found, _ = orgs(tmp_path / "year=2026 [x] *?'", HEADER + "1,A,school\n2,B,school\n")
    assert len(found) == 2


value = st.text(st.sampled_from("ab ,;\"'\n\r\tëŁ|#\\"), max_size=6)


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(
    table=st.lists(st.tuples(st.integers(10**7, 10**8 - 1), value, value), max_size=6),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_written_by_the_rules_is_read(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[int, str, str]], end: str
) -> None:
    """Rows that follow RFC 4180 are read with either reader."""
    quoted = [[str(cell).replace('"', '""') for cell in row] for row in table]
    text = HEADER + "".join(end.join([",".join(f'"{c}"' for c in row), ""]) for row in quoted)
    found, staging = orgs(tmp_path_factory.mktemp("rows"), text)
    assert staging.faults == []
    assert [row[1:] for row in found] == [
        (str(number), name or None, type_ or None) for number, name, type_ in table
    ]


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(text=st.text(st.sampled_from('a1,"\n\r'), max_size=40))
def test_both_readers_agree(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("rows")
    fast, one = orgs(folder, HEADER + text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_load_fast", lambda *_: False)
        careful, two = orgs(folder, HEADER + text)
    assert fast == careful
    assert one.faults == two.faults
