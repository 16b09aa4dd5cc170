"""Lines that spreadsheets add before and after the rows."""

from __future__ import annotations

import pytest

from tests.cases.district import FILES, USERS, manifest
from tests.cases.test_absent_kind import COURSES_TOO
from tests.cases.way_in import Day, WayIn

COMMAS = "," * 17


def notes(day: Day) -> list[tuple[str, int, str, bool]]:
    return [(f.file, f.line, f.reason.split(",")[0], f.fatal) for f in day.faults]


def test_the_line_is_skipped_and_rows_of_commas_are_no_rows(way_in: WayIn) -> None:
    """users.csv starts with `sep=,` and ends with rows of only commas."""
    day = way_in.day(users="sep=,\n" + USERS + f"{COMMAS}\n" * 3)
    assert day.reported == COURSES_TOO
    assert notes(day) == [("users.csv", 1, "the line sep=", False)]
    assert way_in.day().reported == []


@pytest.mark.parametrize(
    "first", ["\ufeffsep=,\n", "SEP=,\r\n", '"sep=,"\n', f"sep=,{COMMAS}\n", f"sep=,\n\n{COMMAS}\n"]
)
def test_however_it_is_written(way_in: WayIn, first: str) -> None:
    assert way_in.day(users=first + USERS).reported == COURSES_TOO


@pytest.mark.parametrize("separator", [";", "\t", "^"])
def test_it_may_name_another_separator(way_in: WayIn, separator: str) -> None:
    text = f"sep={separator}\n" + USERS.replace(",", separator)
    day = way_in.day(users=text)
    assert day.reported == COURSES_TOO
    assert notes(day) == [
        ("users.csv", 1, "the line sep=", False),
        (
            "users.csv",
            1,
            "the columns are not separated by commas; the file was read with another delimiter",
            False,
        ),
    ]


def test_what_the_line_says_wrongly_does_not_matter(way_in: WayIn) -> None:
    assert way_in.day(users="sep=;\n" + USERS).reported == COURSES_TOO


def test_the_lines_of_faults_are_those_of_the_file(way_in: WayIn) -> None:
    day = way_in.day(users="sep=,\n" + USERS.replace("u-2,,,true,sch-1,student,", "u-2,,,"))
    assert ("users.csv", 5) in [(f.file, f.line) for f in day.left_out]


def test_in_every_file_and_the_manifest_as_well(way_in: WayIn) -> None:
    files = {name: "sep=,\n" + text for name, text in FILES.items()}
    day = way_in.day(manifest="sep=,\n" + manifest(), **files)
    assert day.reported == COURSES_TOO
    assert {f.file for f in day.faults} == {f"{name}.csv" for name in FILES}


def test_rows_of_commas_before_the_header_are_no_header(way_in: WayIn) -> None:
    assert way_in.day(users=f"{COMMAS}\n , {COMMAS}\n{USERS}").reported == COURSES_TOO


def test_rows_of_commas_between_rows_are_no_rows(way_in: WayIn) -> None:
    day = way_in.day(users=USERS.replace("u-1,", f"{COMMAS}\n{COMMAS.replace(',', ' , ')}\nu-1,"))
    assert (day.reported, day.faults) == (COURSES_TOO, [])
