"""Records to JSON and back, and the errors for input that is not a record."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.contract import a_record
from bus.contract.example_records import records
from bus.errors import Never
from bus.standard import KINDS
from bus.standard.json import FieldProblem, Invalid, from_json, to_json


def problems(kind: str, **said: Any) -> list[FieldProblem]:
    """Return what is wrong with an otherwise valid document."""
    with pytest.raises(Invalid) as caught:
        from_json(kind, to_json(kind, a_record(kind)) | said)
    return caught.value.problems


# Records to JSON and back.


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(deadline=None)
def test_a_record_comes_back_as_it_went(kind: str, data: st.DataObject) -> None:
    record = data.draw(records(kind))
    text = json.dumps(to_json(kind, record), allow_nan=False)
    assert from_json(kind, json.loads(text)) == record


def test_how_dates_moments_lists_and_null_are_written() -> None:
    enrollment = a_record(
        "enrollment",
        beginDate=date(2026, 8, 17),
        dateLastModified=datetime(2026, 11, 24, 8, 15, 0, 7000, UTC),
        primary=True,
    )
    written = to_json("enrollment", enrollment)
    assert written["beginDate"] == "2026-08-17"
    assert written["dateLastModified"] == "2026-11-24T08:15:00.007Z"
    assert written["endDate"] is None
    assert written["primary"] is True
    assert to_json("student", a_record("student", grades=["07"]))["grades"] == ["07"]


def test_a_moment_is_written_in_utc_whatever_its_zone() -> None:
    chicago = timezone(timedelta(hours=-6))
    org = a_record("org", dateLastModified=datetime(2026, 11, 24, 2, 15, tzinfo=chicago))
    assert to_json("org", org)["dateLastModified"] == "2026-11-24T08:15:00.000Z"


def test_fields_are_in_the_order_of_the_schema() -> None:
    backwards = dict(reversed(list(a_record("student").items())))
    assert tuple(to_json("student", backwards)) == KINDS["student"].fields


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_number_that_json_cannot_say_is_never_written(number: float) -> None:
    with pytest.raises(Never, match="infinite or NaN"):
        to_json("result", a_record("result", score=number))


# Input.


def test_what_is_left_out_is_read_as_its_default() -> None:
    reported = {"sourcedId": "s1", "status": "active", "givenName": "Zoë", "familyName": "O'Brien"}
    record = from_json("student", reported)
    assert record == a_record("student", sourcedId="s1")
    assert from_json("student", reported)["grades"] is not record["grades"], (
        "each has a list of its own"
    )


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-24T08:15:00Z", datetime(2026, 11, 24, 8, 15, tzinfo=UTC)),
        ("2026-11-24t08:15:00z", datetime(2026, 11, 24, 8, 15, tzinfo=UTC)),
        ("2026-11-24T02:15:00-06:00", datetime(2026, 11, 24, 8, 15, tzinfo=UTC)),
        ("2026-11-24T08:15:00.123999Z", datetime(2026, 11, 24, 8, 15, 0, 123000, UTC)),
    ],
)
def test_a_moment_is_read_in_utc_and_whole_milliseconds(text: str, moment: datetime) -> None:
    reported = to_json("org", a_record("org")) | {"dateLastModified": text}
    assert from_json("org", reported)["dateLastModified"] == moment


WRONG = [
    ("student", "givenName", 7, "must be text that is not blank"),
    ("student", "givenName", "", "must be text that is not blank"),
    ("student", "givenName", "  ", "must be text that is not blank"),
    ("student", "givenName", None, "must be text that is not blank"),
    ("student", "middleName", "a\x00b", "must be text without control characters or null"),
    ("student", "enabledUser", "true", "must be true or false"),
    ("student", "enabledUser", 1, "must be true or false"),
    ("student", "status", "inactive", "must be one of active, tobedeleted"),
    ("student", "status", "active\n", "must be one of active, tobedeleted"),
    ("student", "grades", "07", "must be an array, each item text"),
    ("student", "grades", [7], "must be an array, each item text"),
    ("student", "sourcedId", "", "must be an id: text of 1 to 255 characters"),
    ("student", "sourcedId", " ", "must be an id: text of 1 to 255 characters"),
    ("student", "sourcedId", "x" * 256, "must be an id: text of 1 to 255 characters"),
    ("student", "sourcedId", "a\nb", "must be an id: text of 1 to 255 characters"),
    ("student", "sourcedId", 4711, "must be an id: text of 1 to 255 characters"),
    ("student", "orgSourcedIds", [""], "must be an array, each item an id"),
    ("class", "courseSourcedId", None, "must be an id"),
    ("enrollment", "beginDate", "17.08.2026", "must be a date, YYYY-MM-DD or null"),
    ("enrollment", "beginDate", "2026-02-30", "must be a date, YYYY-MM-DD or null"),
    ("enrollment", "beginDate", 20000, "must be a date, YYYY-MM-DD or null"),
    ("enrollment", "beginDate", "2026-08-17T00:00:00Z", "must be a date, YYYY-MM-DD or null"),
    ("attendance", "eventDate", None, "must be a date, YYYY-MM-DD"),
    ("org", "dateLastModified", "2026-11-24T08:15:00", "must be a moment by RFC 3339"),
    ("org", "dateLastModified", "2026-11-24", "must be a moment by RFC 3339"),
    ("org", "dateLastModified", 1763971200, "must be a moment by RFC 3339"),
    ("org", "dateLastModified", "2026-11-24T25:15:00Z", "must be a moment by RFC 3339"),
    ("org", "dateLastModified", "0001-01-01T00:00:00+14:00", "must be a moment by RFC 3339"),
    ("academicSession", "schoolYear", 2026.5, "must be a whole number of 32 bits or null"),
    ("academicSession", "schoolYear", "2026", "must be a whole number of 32 bits or null"),
    ("academicSession", "schoolYear", True, "must be a whole number of 32 bits or null"),
    ("academicSession", "schoolYear", 2**31, "must be a whole number of 32 bits or null"),
    ("result", "score", "9.5", "must be a number or null"),
    ("result", "score", math.nan, "must be a number or null"),
    ("result", "score", True, "must be a number or null"),
    ("demographics", "asian", "yes", "must be true or false or null"),
]


@pytest.mark.parametrize(("kind", "field", "value", "reason"), WRONG)
def test_a_wrong_value_is_named_by_its_field(
    kind: str, field: str, value: Any, reason: str
) -> None:
    (found,) = problems(kind, **{field: value})
    assert found.field == field
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("said", "field", "reason"),
    [
        ({"scope": "vendor"}, "vendor", "must have a value that is not blank if scope is vendor"),
        ({"scope": "vendor", "vendor": " \n"}, "vendor", "must have a value"),
        ({"scope": "purpose"}, "purpose", "must have a value"),
        ({"scope": "protected", "vendor": "Acme"}, "vendor", "must be null unless scope is vendor"),
        ({"scope": "protected", "purpose": ""}, "purpose", "must be null unless scope is purpose"),
    ],
)
def test_fields_that_do_not_go_together(said: dict[str, str], field: str, reason: str) -> None:
    (found,) = problems("optOut", **said)
    assert found.field == field
    assert found.reason.startswith(reason)


def test_a_field_that_is_missing_is_named_with_what_it_must_be() -> None:
    with pytest.raises(Invalid) as caught:
        from_json("attendance", {"sourcedId": "a1", "status": "active"})
    by_field = {found.field: found.reason for found in caught.value.problems}
    assert by_field["eventDate"] == "is missing and must be a date, YYYY-MM-DD"
    assert by_field.keys() == {
        "studentSourcedId", "schoolSourcedId", "eventDate", "attendanceEventCategory",
    }  # fmt: skip


def test_each_wrong_field_is_reported_once_and_all_of_them() -> None:
    found = problems("student", grades=[7, 8, 9], givenName=1, enabledUser="no")
    assert sorted(one.field for one in found) == ["enabledUser", "givenName", "grades"]


def test_a_field_that_the_standard_does_not_have_is_reported_to_its_sender_and_not_logged() -> None:
    with pytest.raises(Invalid) as caught:
        from_json("org", to_json("org", a_record("org")) | {"Soledad": 1})
    assert caught.value.problems == [FieldProblem("Soledad", "is not a field of org")]
    assert "Soledad" not in str(caught.value)
    assert "a field that the standard does not have" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_no_reason_holds_a_value(kind: str) -> None:
    """The error from pydantic, which a traceback would show, has no value either."""
    with pytest.raises(Invalid) as caught:
        from_json(kind, {field: ["Soledad\x00"] for field in KINDS[kind].fields})
    assert caught.value.__suppress_context__
    assert "Soledad" not in str(caught.value)
    assert "Soledad" not in str(caught.value.problems)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(sorted(KINDS)), st.data())
@settings(deadline=None)
def test_any_json_is_a_record_or_invalid(kind: str, data: st.DataObject) -> None:
    """An accepted document can be written again, and is then the same."""
    name = data.draw(st.sampled_from(KINDS[kind].fields))
    document = to_json(kind, a_record(kind)) | {name: data.draw(ANYTHING)}
    try:
        record = from_json(kind, document)
    except Invalid as invalid:
        assert {one.field for one in invalid.problems} == {name}
    else:
        assert from_json(kind, to_json(kind, record)) == record


def test_a_number_without_a_fraction_is_whole_however_it_is_written() -> None:
    """JSON has one type of number: 2027.0 is 2027."""
    reported = {"sourcedId": "y", "status": "active", "title": "2027", "type": "schoolYear"}
    days = {"startDate": "2026-08-01", "endDate": "2027-07-31"}
    record = from_json("academicSession", reported | days | {"schoolYear": 2027.0})
    assert record["schoolYear"] == 2027
    assert isinstance(record["schoolYear"], int)
