"""Canvas: the rows of each kind of record, by example."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bus.errors import Never, Stop
from bus.standard import KINDS
from consumers import canvas
from consumers.delivery.canvas_imports import CanvasImports
from consumers.delivery.zip_folder import ZipFolder

PERSON: dict[str, Any] = {
    "sourcedId": "s1",
    "status": "active",
    "enabledUser": True,
    "givenName": "Robert",
    "familyName": "O'Neil, Jr.",
    "preferredFirstName": None,
    "preferredLastName": None,
    "username": "roneil",
    "email": "r.oneil@school.example",
}
CLASS: dict[str, Any] = {
    "sourcedId": "c1",
    "status": "active",
    "title": 'Art 1: "Art as a Medium"',
    "classCode": "ART-1",
    "schoolSourcedId": "school",
    "termSourcedIds": ["fall"],
}
ENROLLMENT: dict[str, Any] = {
    "sourcedId": "e1",
    "status": "active",
    "classSourcedId": "c1",
    "userSourcedId": "s1",
    "role": "student",
    "beginDate": None,
    "endDate": None,
}


def delivered_rows(kind: str, record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return all rows of a record by file, and check that each has its table's columns in order."""
    rows = {}
    for table, translate in canvas.PRODUCT.translations(kind):
        row = translate(record | changes)
        if row is not None:
            assert tuple(row) == table.columns
            rows[table.name] = row
    return rows


def test_a_school_is_an_account_below_its_district() -> None:
    org = {"sourcedId": "o1", "status": "active", "name": "Lowe", "parentSourcedId": "d1"}
    assert delivered_rows("org", org) == {
        "accounts.csv": {
            "account_id": "o1",
            "parent_account_id": "d1",
            "name": "Lowe",
            "status": "active",
        }
    }
    district = delivered_rows("org", org, parentSourcedId=None, status="tobedeleted")[
        "accounts.csv"
    ]
    assert (district["parent_account_id"], district["status"]) == ("", "deleted")


def test_a_term_has_its_first_and_last_second() -> None:
    session = {
        "sourcedId": "fall",
        "status": "active",
        "title": "Fall 2026",
        "startDate": date(2026, 8, 15),
        "endDate": date(2026, 12, 20),
    }
    assert delivered_rows("academicSession", session)["terms.csv"] == {
        "term_id": "fall",
        "name": "Fall 2026",
        "status": "active",
        "start_date": "2026-08-15T00:00:00",
        "end_date": "2026-12-20T23:59:59",
    }
    assert delivered_rows("academicSession", session, status="tobedeleted")["terms.csv"][
        "status"
    ] == ("deleted")


def test_a_class_is_a_course_with_one_section() -> None:
    assert delivered_rows("class", CLASS) == {
        "courses.csv": {
            "course_id": "c1",
            "short_name": "ART-1",
            "long_name": 'Art 1: "Art as a Medium"',
            "account_id": "school",
            "term_id": "fall",
            "status": "active",
        },
        "sections.csv": {
            "section_id": "c1",
            "course_id": "c1",
            "name": 'Art 1: "Art as a Medium"',
            "status": "active",
        },
    }


def test_a_class_without_code_is_known_by_its_title() -> None:
    row = delivered_rows("class", CLASS, classCode=None, title="Ä" * 300)["courses.csv"]
    assert row["short_name"] == row["long_name"] == "Ä" * 255


def test_a_class_of_several_terms_is_closed_by_none_of_them() -> None:
    assert (
        delivered_rows("class", CLASS, termSourcedIds=["fall", "spring"])["courses.csv"]["term_id"]
        == ""
    )
    assert delivered_rows("class", CLASS, termSourcedIds=[])["courses.csv"]["term_id"] == ""


def test_a_withdrawn_class_is_concluded_and_keeps_its_grades() -> None:
    rows = delivered_rows("class", CLASS, status="tobedeleted")
    assert rows["courses.csv"]["status"] == "completed"
    assert rows["sections.csv"]["status"] == "active"


@pytest.mark.parametrize("kind", ["student", "staff"])
def test_a_person_is_a_user(kind: str) -> None:
    assert delivered_rows(kind, PERSON)["users.csv"] == {
        "user_id": "s1",
        "login_id": "roneil",
        "first_name": "Robert",
        "last_name": "O'Neil, Jr.",
        "short_name": "Robert O'Neil, Jr.",
        "email": "r.oneil@school.example",
        "status": "active",
    }


def test_a_person_is_called_by_the_preferred_name() -> None:
    row = delivered_rows("student", PERSON, preferredFirstName="Robin", preferredLastName="Neil")[
        "users.csv"
    ]
    assert (row["first_name"], row["last_name"], row["short_name"]) == (
        "Robin",
        "Neil",
        "Robin Neil",
    )
    assert "Robert" not in row.values()


def test_without_a_username_the_login_is_the_id_and_never_the_shared_address() -> None:
    row = delivered_rows("student", PERSON, username=None, email=None)["users.csv"]
    assert (row["login_id"], row["email"]) == ("s1", "")
    assert delivered_rows("student", PERSON, username=None)["users.csv"]["login_id"] == "s1"


@pytest.mark.parametrize("change", [{"enabledUser": False}, {"status": "tobedeleted"}])
def test_who_may_not_sign_in_or_has_left_is_suspended(change: dict[str, Any]) -> None:
    assert delivered_rows("student", PERSON, **change)["users.csv"]["status"] == "suspended"


def test_who_has_left_gives_the_login_back() -> None:
    """Case 3 of the field: Canvas refuses a login that another user has, suspended or not."""
    row = delivered_rows("student", PERSON | {"username": "jlepik"}, status="tobedeleted")[
        "users.csv"
    ]
    assert row["login_id"] == row["user_id"]
    row = delivered_rows("student", PERSON | {"username": "jlepik"}, enabledUser=False)["users.csv"]
    assert row["login_id"] == "jlepik"


def test_an_enrollment_without_dates_follows_the_term() -> None:
    assert delivered_rows("enrollment", ENROLLMENT)["enrollments.csv"] == {
        "course_id": "c1",
        "section_id": "c1",
        "user_id": "s1",
        "role": "student",
        "status": "active",
        "start_date": "",
        "end_date": "",
    }


def test_an_enrollment_ends_by_canvas_clock() -> None:
    row = delivered_rows(
        "enrollment", ENROLLMENT, beginDate=date(2026, 8, 15), endDate=date(2026, 10, 1)
    )["enrollments.csv"]
    assert (row["status"], row["start_date"], row["end_date"]) == (
        "active",
        "2026-08-15T00:00:00",
        "2026-10-01T23:59:59",
    )


def test_canvas_heeds_no_single_date_so_none_is_delivered() -> None:
    row = delivered_rows("enrollment", ENROLLMENT, beginDate=date(2026, 8, 15))["enrollments.csv"]
    assert row["start_date"] == row["end_date"] == ""


@pytest.mark.parametrize(
    ("role", "row_role", "withdrawn"),
    [
        ("student", "student", "inactive"),
        ("teacher", "teacher", "deleted"),
        ("aide", "ta", "deleted"),
    ],
)
def test_a_withdrawn_enrollment_ends_access(role: str, row_role: str, withdrawn: str) -> None:
    row = delivered_rows("enrollment", ENROLLMENT, role=role, status="tobedeleted")[
        "enrollments.csv"
    ]
    assert (row["role"], row["status"]) == (row_role, withdrawn)


@pytest.mark.parametrize("role", ["administrator", "proctor", "other"])
def test_roles_that_canvas_would_give_more_to_are_not_delivered(role: str) -> None:
    assert delivered_rows("enrollment", ENROLLMENT, role=role) == {}


@pytest.mark.parametrize(
    ("kind", "record", "change"),
    [
        ("student", PERSON, {"sourcedId": "x" * 256}),
        ("student", PERSON, {"username": "x" * 256}),
        ("class", CLASS, {"sourcedId": "x" * 256}),
    ],
)
def test_what_canvas_cannot_hold_can_never_be_delivered(
    kind: str, record: dict[str, Any], change: dict[str, Any]
) -> None:
    with pytest.raises(Never, match="255"):
        delivered_rows(kind, record, **change)


def test_canvas_gets_no_guardians_and_no_demographics() -> None:
    assert set(KINDS) - set(canvas.PRODUCT.kinds) >= {"guardian", "demographics", "attendance"}


def test_days_are_those_of_the_district() -> None:
    cell = canvas.local_time("America/Chicago")
    assert cell("2026-08-15T00:00:00") == "2026-08-15T00:00:00-05:00"
    assert cell("2026-12-20T23:59:59") == "2026-12-20T23:59:59-06:00"
    assert cell("") == ""
    assert canvas.local_time("UTC")("2026-08-15T00:00:00") == "2026-08-15T00:00:00Z"
    with pytest.raises(ValidationError, match="time zone"):
        canvas.Settings(time_zone="Springfield")


def test_the_settings_choose_the_delivery(tmp_path: Path) -> None:
    def opened(**settings: Any) -> Any:
        delivery = canvas.PRODUCT.open(canvas.Settings(**settings))
        delivery.close()
        return delivery

    assert isinstance(opened(out=tmp_path / "out"), ZipFolder)
    assert isinstance(opened(url="https://canvas.example", token="t"), CanvasImports)
    for wrong, advice in [
        ({}, "--out"),
        ({"url": "https://canvas.example"}, "TOKEN"),
        ({"url": "http://canvas.example", "token": "t"}, "https"),
        ({"url": "canvas.example", "token": "t"}, "https"),
        ({"url": "https://canvas.example", "token": "t", "out": tmp_path}, "both"),
    ]:
        with pytest.raises(Stop, match=advice):
            opened(**wrong)
