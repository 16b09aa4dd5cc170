"""An extract lacks a kind to which its records refer; OneRoster allows this, and it is common."""

from __future__ import annotations

from tests.cases.district import CLASSES, COURSES, ENROLLMENTS
from tests.cases.way_in import Day, WayIn

ALL = [
    *("academicSession t-f created", "academicSession y-2027 created"),
    *("class cl-1 created", "class cl-2 created"),
    *("enrollment e-1 created", "enrollment e-2 created", "enrollment e-t created"),
    *("org d-1 created", "org sch-1 created"),
    *("staff t-1 created", "student u-1 created", "student u-2 created"),
]
COURSES_TOO = sorted([*ALL, "course co-1 created", "course co-2 created"])


def notes(day: Day) -> list[tuple[str, str, str, bool]]:
    """Return (file, column, count, fatal) of each fault."""
    return [(f.file, f.column, f.reason.split("; ")[-1], f.fatal) for f in day.faults]


def test_what_names_an_absent_kind_flows_and_is_noted_once(way_in: WayIn) -> None:
    """The manifest says `file.courses,absent`, and there is no courses.csv."""
    day = way_in.day(absent=["courses"])
    assert day.reported == ALL
    assert day.record("class", "cl-1")["courseSourcedId"] == "co-1"
    assert notes(day) == [("classes.csv", "courseSourcedId", "this affects 2 rows", False)]
    assert "the field refers to a course, but this extract has no" in day.faults[0].reason
    assert (day.faults[0].code, day.faults[0].count) == ("unchecked-reference", 2)


def test_it_is_noted_each_day_and_nothing_is_published_twice(way_in: WayIn) -> None:
    way_in.day(absent=["courses"])
    again = way_in.day(absent=["courses"])
    assert again.reported == []
    assert notes(again) == [("classes.csv", "courseSourcedId", "this affects 2 rows", False)]


def test_a_list_that_names_an_absent_kind_is_kept_whole(way_in: WayIn) -> None:
    day = way_in.day(absent=["academicSessions"])
    assert day.record("class", "cl-1")["termSourcedIds"] == ["t-f"]
    assert day.record("course", "co-1")["schoolYearSourcedId"] == "y-2027"
    assert [(f.file, f.column) for f in day.faults] == [
        ("courses.csv", "schoolYearSourcedId"),
        ("classes.csv", "termSourcedIds"),
    ]


def test_when_the_kind_comes_later_what_names_it_is_checked(way_in: WayIn) -> None:
    """A class refers to co-2, which is not among the courses that come on the second day.

    The class is already published, so it stays. A new class with the same reference is left out.
    """
    way_in.day(absent=["courses"])
    courses = COURSES.replace("co-2,", "co-9,")
    third = "cl-3,,,Biology P4,09,co-2,BIO-4,scheduled,,sch-1,t-f,,,4\n"
    day = way_in.day(courses=courses, classes=CLASSES + third)
    assert day.reported == ["course co-1 created", "course co-9 created"]
    assert [(f.file, f.line, f.column) for f in day.left_out] == [
        ("classes.csv", 3, "courseSourcedId"),
        ("classes.csv", 4, "courseSourcedId"),
    ]
    mended = way_in.day(classes=CLASSES + third)
    assert mended.reported == ["class cl-3 created", "course co-2 created", "course co-9 withdrawn"]
    assert mended.faults == []


def test_an_optional_reference_that_proves_wrong_is_left_out_then(way_in: WayIn) -> None:
    way_in.day(absent=["academicSessions"])
    sessions = "sourcedId,title,type,startDate,endDate\nt-s,Spring,term,2027-01-05,2027-06-10\n"
    day = way_in.day(academicSessions=sessions)
    assert day.record("class", "cl-1")["termSourcedIds"] == []
    assert day.reported == [
        *("academicSession t-s created", "class cl-1 updated", "class cl-2 updated"),
        *("course co-1 updated", "course co-2 updated"),
    ]


def test_a_kind_that_was_published_before_is_checked_though_it_is_absent(way_in: WayIn) -> None:
    way_in.day()
    third = "cl-3,,,Biology P4,09,co-3,BIO-4,scheduled,,sch-1,t-f,,,4\n"
    day = way_in.day(absent=["courses"], classes=CLASSES + third)
    assert day.reported == []
    assert [(f.line, f.column) for f in day.left_out] == [(4, "courseSourcedId")]


def test_a_kind_that_the_extract_carries_is_checked_on_the_first_day(way_in: WayIn) -> None:
    day = way_in.day(courses=COURSES.replace("co-2,", "co-9,"))
    assert [(f.line, f.column) for f in day.left_out] == [(3, "courseSourcedId")]
    assert "class cl-2 created" not in day.reported


def test_a_file_that_is_promised_and_missing_is_not_absent(way_in: WayIn) -> None:
    """The manifest says `file.courses,bulk`, but there is no courses.csv, so something went wrong."""
    day = way_in.day(courses="")
    assert not any("class" in reported or "enrollment" in reported for reported in day.reported)
    assert ("courses.csv", 0) in [(f.file, f.line) for f in day.left_out]


def test_nor_is_a_file_that_cannot_be_read(way_in: WayIn) -> None:
    day = way_in.day(courses="id;what\nco-1;Algebra 1\n")
    assert not any("class" in reported or "enrollment" in reported for reported in day.reported)


def test_without_a_manifest_a_file_that_is_not_there_is_absent(way_in: WayIn) -> None:
    day = way_in.day(courses="", manifest="")
    assert day.reported == ALL


def test_people_may_be_absent_as_well(way_in: WayIn) -> None:
    """A gradebook exports only enrollments, which refer to a student or to staff."""
    day = way_in.day(absent=["users"], enrollments=ENROLLMENTS)
    assert "enrollment e-t created" in day.reported
    assert notes(day) == [("enrollments.csv", "userSourcedId", "this affects 3 rows", False)]
    assert "the field refers to a student or staff, but" in day.faults[0].reason


def test_all_of_the_district_flows_without_a_note(way_in: WayIn) -> None:
    day = way_in.day()
    assert (day.reported, day.faults) == (COURSES_TOO, [])
