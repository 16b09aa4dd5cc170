"""Which columns are read as which fields."""

from __future__ import annotations

import pytest

from producers.oneroster_csv.columns import FILES, Match, match


def found(file: str, header: str) -> dict[str, int]:
    return dict(match(FILES[file.lower()], header.split(",")).positions)


def reasons(file: str, header: str) -> list[str]:
    return [note.reason for note in match(FILES[file.lower()], header.split(",")).notes]


def test_columns_in_any_order_and_spelling() -> None:
    header = " Given Name,SOURCEDID,family_name,Org-Sourced-Ids"
    assert found("users", header) == {
        "givenName": 0,
        "sourcedId": 1,
        "familyName": 2,
        "orgSourcedIds": 3,
    }
    assert reasons("users", header) == []


@pytest.mark.parametrize(
    ("file", "column", "field"),
    [
        ("users", "preferredGivenName", "preferredFirstName"),
        ("users", "preferredFamilyName", "preferredLastName"),
        ("users", "orgSourcedId", "orgSourcedIds"),
        ("users", "grade", "grades"),
        ("classes", "termSourcedId", "termSourcedIds"),
        ("courses", "schoolYearId", "schoolYearSourcedId"),
        ("enrollments", "primary", "primary"),
        ("demographics", "userSourcedId", "sourcedId"),
    ],
)
def test_names_of_other_versions(file: str, column: str, field: str) -> None:
    assert found(file, column) == {field: 0}
    assert reasons(file, column) == []


def test_an_exact_name_goes_before_another_versions() -> None:
    assert found("users", "orgSourcedId,orgSourcedIds") == {"orgSourcedIds": 1}


@pytest.mark.parametrize(
    ("column", "field"),
    [
        ("sourceId", "sourcedId"),
        ("givenNmae", "givenName"),
        ("famlyName", "familyName"),
        ("userName1", "username"),
        ("emial", "email"),
    ],
)
def test_a_column_misspelt_by_one_letter_is_read_and_reported(column: str, field: str) -> None:
    assert found("users", f"x,{column}") == {field: 1}
    assert f"column 2 is misspelled; it was read as {field}" in reasons("users", f"x,{column}")


@pytest.mark.parametrize("header", ["givenNam,givenNme", "givenName,givenNam", "rol", "gvnName"])
def test_what_is_not_clearly_meant_is_not_guessed(header: str) -> None:
    assert "misspelled" not in " ".join(reasons("users", header))


def test_unknown_columns_are_reported_by_their_place() -> None:
    """A damaged header may hold personal data, so the fault does not repeat its names."""
    made: Match = match(FILES["users"], ["sourcedId", "Marker"])
    assert dict(made.positions) == {"sourcedId": 0}
    assert [(n.field, n.value_class, n.reason) for n in made.notes] == [
        (
            "column 2",
            "a name of 6 characters",
            "column 2 is not a OneRoster column; it was not read",
        )
    ]


FIRST_NAMED = "sourcedId,status,enabledUser,orgSourcedIds,role,username,userIds"


def test_an_unknown_column_is_named_when_the_rest_is_a_header_of_oneroster() -> None:
    reported = reasons("users", f"{FIRST_NAMED},first given name,familyName,email")
    assert reported == [
        "column 8, 'first given name', is not a OneRoster column; it was not read",
        "has no column givenName; column 8, 'first given name', may be meant, so correct its name",
    ]
    assert reasons("users", f"{FIRST_NAMED},givename,familyName,email") == [
        "column 8, 'givename', is misspelled; it was read as givenName"
    ]
    assert reasons("users", f"{FIRST_NAMED},givenName,familyName,planet") == [
        "column 10, 'planet', is not a OneRoster column; it was not read"
    ]


@pytest.mark.parametrize(
    "run_on",
    [
        f"{FIRST_NAMED},givenName,familyNameu1,active,true,s1,student,ada,x,Ada,Marker",
        f"{FIRST_NAMED},givenName,familyName,emailu1,,,,,,,,Marker,",
        f"{FIRST_NAMED},givenName,familyName,Marker 2",
        f"{FIRST_NAMED},givenName,familyName,Marker\nu1",
        f"{FIRST_NAMED},{'Marker' * 7},familyName",
    ],
)
def test_a_header_that_may_hold_data_is_not_repeated(run_on: str) -> None:
    reported = reasons("users", run_on)
    assert reported and "Marker" not in " ".join(reported)


def test_a_second_column_of_the_same_name_is_not_read() -> None:
    assert found("users", "sourcedId,email,Email") == {"sourcedId": 0, "email": 1}
    assert reasons("users", "sourcedId,email,Email") == [
        "column 3 repeats the column email; it was not read"
    ]


def test_passwords_and_extensions_are_passed_over_in_silence() -> None:
    header = "sourcedId,password,metadata.jp.kanaGivenName,resourceSourcedIds,,"
    assert found("users", header) == {"sourcedId": 0}
    assert reasons("users", header) == []
    assert match(FILES["users"], header.split(",")).width == 4
