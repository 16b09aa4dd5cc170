"""A grade, a role or a status in another spelling has the same meaning."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bus.ingest import integrity
from tests.cases.district import CLASSES, COURSES, ENROLLMENTS, ORGS, SESSIONS, USERS
from tests.cases.way_in import Day, WayIn


def graded(mari: str, jaan: str = "09") -> str:
    """Return the district's users, with these grades of the two students."""
    return USERS.replace(",,,,09,\n", f",,,,{mari},\n", 1).replace(",,,,09,\n", f",,,,{jaan},\n", 1)


def notes(day: Day) -> list[tuple[str, int, str, str, bool]]:
    return [(f.file, f.line, f.value_class, f.reason.split("; ")[-1], f.fatal) for f in day.faults]


def test_another_spelling_on_tuesday_is_no_change(way_in: WayIn) -> None:
    """The extract has `1` on Monday and `01` on Tuesday."""
    monday = way_in.day(users=graded("1", "K"))
    assert monday.record("student", "u-1")["grades"] == ["01"]
    assert monday.record("student", "u-2")["grades"] == ["KG"]
    assert way_in.day(users=graded("01", "KG")).reported == []


CODES = {
    **{"1": "01", "001": "01", "9": "09", "10": "10", "13": "13", "Grade 9": "09", "1st": "01"},
    **{"12th Grade": "12", "k": "KG", "Kindergarten": "KG", "pk": "PK", "Pre-K": "PK", "tk": "TK"},
    **{"it": "IT", "pr": "PR", "ps": "PS", "ug": "UG", "Ungraded": "UG", "OTHER": "Other"},
}
UNCLEAR = ["PPK", "0", "-1", "14", "1-2", "1 2", "K1", "EE", "1.0"]


def one_of_each(grades: Iterable[str]) -> str:
    """Return the district's users and one student per grade: u-10 for the first, u-11 for the next."""
    rows = [
        f"u-{n},,,true,sch-1,student,s{n},,Ann,Kask,,S{n},s{n}@example.test,,,,{grade},\n"
        for n, grade in enumerate(grades, 10)
    ]
    return USERS + "".join(rows)


def test_what_can_only_mean_one_grade_is_its_code(way_in: WayIn) -> None:
    day = way_in.day(users=one_of_each(CODES))
    found = {text: day.record("student", f"u-{n}")["grades"] for n, text in enumerate(CODES, 10)}
    assert found == {text: [code] for text, code in CODES.items()}
    assert day.faults == []


def test_what_is_on_no_list_or_may_mean_two_is_kept_and_noted(way_in: WayIn) -> None:
    day = way_in.day(users=one_of_each(UNCLEAR))
    found = [day.record("student", f"u-{n}")["grades"] for n, _ in enumerate(UNCLEAR, 10)]
    assert found == [[text] for text in UNCLEAR]
    assert [(f.column, f.fatal) for f in day.faults] == [("grades", False)] * len(UNCLEAR)
    again = way_in.day(users=one_of_each(UNCLEAR))
    assert (again.reported, again.faults) == ([], day.faults)


def test_it_is_noted_once_for_each_value_with_a_count(way_in: WayIn) -> None:
    day = way_in.day(users=one_of_each(["PPK", "EE", "PPK", "13", "KG", "PPK"]))
    assert notes(day) == [
        ("users.csv", 5, "text of 3 characters", "this affects 3 rows", False),
        ("users.csv", 6, "text of 2 characters", "this affects 1 row", False),
    ]
    assert "PPK" not in str(day.faults)
    assert [(f.code, f.count) for f in day.faults] == [("not-in-list", 3), ("not-in-list", 1)]


def test_of_very_many_values_only_some_are_reported(
    way_in: WayIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "MOST", 1)
    day = way_in.day(users=graded("PPK", "EE"))
    reported = [f.reason for f in day.faults if f.line == 0]
    assert len(reported) == 1
    assert reported[0].startswith(
        "1 more values with the same fault: the grade is not one of IT, PR,"
    )


def test_grades_of_courses_and_classes_too(way_in: WayIn) -> None:
    """Two spellings of one grade in a list become one grade."""
    courses = COURSES.replace("ALG1,09,", 'ALG1,"9,09,k",')
    classes = CLASSES.replace("Algebra 1 P2,09,", "Algebra 1 P2,9,")
    day = way_in.day(courses=courses, classes=classes)
    assert day.record("course", "co-1")["grades"] == ["09", "KG"]
    assert day.record("class", "cl-1")["grades"] == ["09"]
    assert day.faults == []


def test_other_enumerations_are_read_whatever_their_case_and_blanks(way_in: WayIn) -> None:
    first = way_in.day()
    assert first.record("staff", "t-1")["role"] == "teacher"
    day = way_in.day(
        orgs=ORGS.replace("district,D1", "\u00a0District ,D1").replace(",school,", ",SCHOOL\t,"),
        academicSessions=SESSIONS.replace(",schoolYear,", ",School\u00a0Year,"),
        classes=CLASSES.replace("scheduled", "Scheduled"),
        users=USERS.replace("teacher", "Teacher\u00a0").replace(",student,", ",STUDENT\u200b,"),
        enrollments=ENROLLMENTS.replace(",student,", ", Student ,").replace(
            "e-1,,", "e-1,ACTIVE ,"
        ),
    )
    assert (day.reported, day.faults) == ([], [])


def test_an_enumeration_s_unknown_values_are_reported_once_each(way_in: WayIn) -> None:
    rows = "".join(f"sch-{n},,,School {n},galaxy,{n},d-1\n" for n in range(2, 9))
    day = way_in.day(orgs=ORGS + rows + "sch-9,,,School 9,,9,d-1\n")
    assert notes(day) == [
        ("orgs.csv", 4, "text of 6 characters", "this affects 7 rows", False),
        ("orgs.csv", 11, "empty", "this affects 1 row", False),
    ]


def test_new_rules_publish_only_what_they_make_other(
    way_in: WayIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version published `1` unchanged.

    The first day with the new rules compares all records again, and publishes only that student.
    """
    way_in.day(users=graded("01"))
    for event in way_in.topics.log:
        if event.record["sourcedId"] == "u-1":
            event.record["grades"] = ["1"]
    monkeypatch.setattr(integrity, "RULES", integrity.RULES + 1)
    day = way_in.day(users=graded("01"))
    assert day.reported == ["student u-1 updated"]
    assert day.record("student", "u-1")["grades"] == ["01"]
    assert way_in.day(users=graded("1")).reported == []
