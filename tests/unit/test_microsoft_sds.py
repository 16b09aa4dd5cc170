"""Microsoft SDS: the rows of each kind of record by example, and sets that are always valid."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bus.consume.dependency_order import KindRecords
from bus.consume.translation import translate
from bus.contract.example_records import a_record, records
from bus.contract.fake_messages import Sent
from bus.delivery import Batch, Position
from bus.errors import Stop
from bus.standard import KINDS
from consumers import microsoft_sds
from consumers.microsoft_sds import PRODUCT
from tests import sds_model


def delivered_rows(kind: str, /, **said: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a record by file, and check that each has its table's columns in order."""
    record = a_record(kind, **said)
    rows = {table.name: function(record) for table, function in PRODUCT.translations(kind)}
    for table, _ in PRODUCT.translations(kind):
        assert all(tuple(row) == table.columns for row in rows[table.name])
    return rows


def row(kind: str, name: str, /, **said: Any) -> dict[str, Any]:
    """Return the one row that a record has in a file."""
    (only,) = delivered_rows(kind, **said)[name]
    return only


# orgs.csv, academicSessions.csv, courses.csv, classes.csv


def test_a_school_below_its_district() -> None:
    assert delivered_rows(
        "org", sourcedId="o1", name="Lowe", type="school", parentSourcedId="d1"
    ) == {
        "orgs.csv": [{"sourcedId": "o1", "name": "Lowe", "type": "school", "parentSourcedId": "d1"}]
    }
    assert row("org", "orgs.csv", parentSourcedId=None)["parentSourcedId"] == ""


def test_an_organisation_of_another_sort_is_delivered_so_that_its_classes_can_be() -> None:
    assert row("org", "orgs.csv", type="other")["type"] == "division"


def test_what_has_no_name_is_known_by_its_id() -> None:
    assert row("org", "orgs.csv", sourcedId="o1", name=" ")["name"] == "o1"
    assert row("class", "classes.csv", sourcedId="c1", title="")["title"] == "c1"


def test_a_session_has_iso_dates_and_its_school_year() -> None:
    said = {"sourcedId": "fall", "title": "Fall", "type": "semester", "schoolYear": 2027}
    assert row("academicSession", "academicSessions.csv", **said) == {
        "sourcedId": "fall",
        "title": "Fall",
        "type": "semester",
        "schoolYear": "2027",
        "startDate": "2026-08-17",
        "endDate": "2026-12-18",
    }
    assert row("academicSession", "academicSessions.csv", **said | {"type": "other"})["type"] == (
        "term"
    )


def test_a_session_whose_school_year_nobody_knows_cannot_be_delivered() -> None:
    said: dict[str, Any] = {"schoolYear": None, "endDate": date(2027, 6, 11)}
    assert delivered_rows("academicSession", type="term", **said) == {"academicSessions.csv": []}
    year = row("academicSession", "academicSessions.csv", type="schoolYear", **said)
    assert year["schoolYear"] == "2027"


def test_a_course() -> None:
    said = {"sourcedId": "co1", "title": "Art", "courseCode": "A1", "orgSourcedId": "d1"}
    assert row("course", "courses.csv", schoolYearSourcedId="y", grades=["07"], **said) == {
        "sourcedId": "co1",
        "orgSourcedId": "d1",
        "title": "Art",
        "code": "A1",
        "schoolYearSourcedId": "y",
        "grade": "07",
    }
    assert row("course", "courses.csv", grades=["07", "08"], **said)["grade"] == ""
    assert delivered_rows("course", orgSourcedId=None) == {"courses.csv": []}


def test_a_class_with_its_sessions() -> None:
    said = {"sourcedId": "c1", "title": 'Art "1"', "schoolSourcedId": "s1"}
    assert row(
        "class", "classes.csv", courseSourcedId="co1", termSourcedIds=["q1", "q2"], **said
    ) == {
        "sourcedId": "c1",
        "orgSourcedId": "s1",
        "title": 'Art "1"',
        "sessionSourcedIds": "q1,q2",
        "courseSourcedId": "co1",
    }


# users.csv, roles.csv

PERSON: dict[str, Any] = {
    "sourcedId": "p1",
    "givenName": "Robert",
    "familyName": "O'Neil, Jr.",
    "username": "roneil@school.example",
    "email": "r.oneil@school.example",
}


@pytest.mark.parametrize("kind", ["student", "staff"])
def test_a_person_is_a_user(kind: str) -> None:
    assert row(kind, "users.csv", **PERSON) == {
        "sourcedId": "p1",
        "username": "roneil@school.example",
        "givenName": "Robert",
        "familyName": "O'Neil, Jr.",
        "email": "r.oneil@school.example",
    }


def test_a_person_is_called_by_the_preferred_name() -> None:
    said = PERSON | {"preferredFirstName": "Robin", "preferredLastName": "Neil"}
    found = row("student", "users.csv", **said)
    assert (found["givenName"], found["familyName"]) == ("Robin", "Neil")


@pytest.mark.parametrize(
    ("kind", "email", "username"),
    [
        ("student", "parent@school.example", "p1"),  # may be a parent on the staff
        ("staff", "teacher@school.example", "teacher@school.example"),
        ("staff", None, "p1"),
    ],
)
def test_a_person_without_a_username(kind: str, email: str | None, username: str) -> None:
    found = row(kind, "users.csv", **PERSON | {"username": None, "email": email})
    assert found["username"] == username


@pytest.mark.parametrize("email", ["nobody", "a@b", "two@x.org, three@x.org", "@x.org", ""])
def test_an_address_that_sds_would_warn_of_is_left_out(email: str) -> None:
    assert row("student", "users.csv", **PERSON | {"email": email})["email"] == ""


@pytest.mark.parametrize("kind", ["student", "staff"])
def test_who_may_not_sign_in_is_not_in_the_set(kind: str) -> None:
    assert delivered_rows(kind, enabledUser=False)["users.csv"] == []


def test_a_student_has_a_role_in_every_school() -> None:
    said = {"orgSourcedIds": ["s1", "s2"], "primaryOrgSourcedId": "s2", "grades": ["07"]}
    assert delivered_rows("student", sourcedId="p1", **said)["roles.csv"] == [
        {
            "userSourcedId": "p1",
            "orgSourcedId": "s1",
            "role": "student",
            "grade": "07",
            "isPrimary": "false",
        },
        {
            "userSourcedId": "p1",
            "orgSourcedId": "s2",
            "role": "student",
            "grade": "07",
            "isPrimary": "true",
        },
    ]


@pytest.mark.parametrize(
    ("orgs", "primary", "delivered_as"),
    [
        (["s1"], None, [("s1", "true")]),
        (["s1", "s2"], None, [("s1", ""), ("s2", "")]),
        (["s1"], "s2", [("s2", "true"), ("s1", "false")]),
        (["s1", "s1"], "s1", [("s1", "true")]),
        ([], None, []),
    ],
)
def test_the_primary_school(
    orgs: list[str], primary: str | None, delivered_as: list[tuple[str, str]]
) -> None:
    roles = delivered_rows("staff", orgSourcedIds=orgs, primaryOrgSourcedId=primary)["roles.csv"]
    assert [(role["orgSourcedId"], role["isPrimary"]) for role in roles] == delivered_as


@pytest.mark.parametrize(
    ("role", "sds"),
    [
        ("teacher", "teacher"),
        ("principal", "principal"),
        ("aide", "paraprofessional"),
        ("counselor", "advisor"),
        ("proctor", "proctor"),
        ("administrator", "administrator"),
        ("siteAdministrator", "administrator"),
        ("districtAdministrator", "administrator"),
        ("systemAdministrator", "itAdmin"),
        ("other", "staff"),
    ],
)
def test_what_someone_of_the_staff_does(role: str, sds: str) -> None:
    found = row("staff", "roles.csv", role=role, orgSourcedIds=["s1"], grades=["07"])
    assert (found["role"], found["grade"]) == (sds, "")


@pytest.mark.parametrize(
    ("grades", "sds"),
    [
        (["07"], "07"),
        (["7"], "07"),
        (["KG"], "kg"),
        (["PK", "KG"], "pk"),
        (["AE"], "adultEducation"),
        (["third form", "03"], "03"),
        (["99"], ""),
        ([], ""),
    ],
)
def test_grades_are_in_the_words_of_sds(grades: list[str], sds: str) -> None:
    assert row("student", "roles.csv", orgSourcedIds=["s1"], grades=grades)["grade"] == sds


# enrollments.csv, relationships.csv


@pytest.mark.parametrize(
    ("role", "sds"),
    [
        ("student", "student"),
        ("teacher", "teacher"),
        ("aide", "paraprofessional"),
        ("proctor", "proctor"),
        ("administrator", "administrator"),
    ],
)
def test_an_enrollment(role: str, sds: str) -> None:
    said = {"classSourcedId": "c1", "userSourcedId": "p1", "role": role}
    assert delivered_rows("enrollment", **said) == {
        "enrollments.csv": [{"classSourcedId": "c1", "userSourcedId": "p1", "role": sds}]
    }


def test_an_enrollment_of_no_known_role_is_not_delivered() -> None:
    assert delivered_rows("enrollment", role="other") == {"enrollments.csv": []}


def test_a_guardian_is_a_contact_though_not_signing_in() -> None:
    said = PERSON | {"username": None, "enabledUser": False, "role": "parent"}
    assert delivered_rows("guardian", **said, agentSourcedIds=["st1", "st2"]) == {
        "users.csv": [
            {
                "sourcedId": "p1",
                "username": "r.oneil@school.example",
                "givenName": "Robert",
                "familyName": "O'Neil, Jr.",
                "email": "r.oneil@school.example",
            }
        ],
        "relationships.csv": [
            {
                "userSourcedId": student,
                "relationshipUserSourcedId": "p1",
                "relationshipRole": "parent",
            }
            for student in ("st1", "st2")
        ],
    }


@pytest.mark.parametrize("missing", ["email", "givenName", "familyName"])
def test_a_contact_without_what_sds_asks_for_is_not_delivered(missing: str) -> None:
    assert delivered_rows("guardian", **PERSON | {missing: ""})["users.csv"] == []


def test_a_relationship_that_only_the_student_names() -> None:
    assert delivered_rows("student", sourcedId="st1", agentSourcedIds=["g1"])[
        "relationships.csv"
    ] == [
        {
            "userSourcedId": "st1",
            "relationshipUserSourcedId": "g1",
            "relationshipRole": "other",
        }
    ]


# All kinds


@pytest.mark.parametrize("kind", PRODUCT.kinds)
def test_what_is_withdrawn_has_no_rows(kind: str) -> None:
    full = {
        "agentSourcedIds": ["x"],
        "orgSourcedIds": ["s"],
        "orgSourcedId": "s",
        "email": "a@b.example",
        "schoolYear": 2027,
    }
    said = {name: value for name, value in full.items() if name in KINDS[kind].fields}
    assert all(delivered_rows(kind, **said).values())
    assert not any(delivered_rows(kind, **said, status="tobedeleted").values())


def test_sds_gets_no_more_than_it_needs() -> None:
    assert set(PRODUCT.kinds) == {
        "org",
        "academicSession",
        "course",
        "class",
        "student",
        "staff",
        "guardian",
        "enrollment",
    }
    columns = {column for table in PRODUCT.tables for column in table.columns}
    assert not columns & {"password", "phone", "sms", "sex", "birthDate", "flag"}


# The set


def deliver(delivery: Any, changes: list[tuple[str, dict[str, Any]]], start: int = 0) -> None:
    """Deliver records as the worker does."""
    chunks: dict[str, KindRecords] = defaultdict(KindRecords)
    for at, (kind, record) in enumerate(changes, start=start):
        chunks[kind].add(record, Sent(kind, record["sourcedId"], at))  # type: ignore[arg-type]
    parts, _, dead_letters = translate(PRODUCT, chunks)
    assert not dead_letters
    places = {Position(f"schoolbus.{kind}", 0): start + len(changes) for kind in chunks}
    delivery.deliver(Batch(parts, places))


def opened(out: Path, now: datetime = datetime(2026, 11, 24, 12, tzinfo=UTC), **said: Any) -> Any:
    delivery = microsoft_sds.open_delivery(microsoft_sds.Settings(out=out, **said), lambda: now)
    delivery.resume("cluster", [Position(f"schoolbus.{kind}", 0) for kind in PRODUCT.kinds])
    return delivery


def a_school() -> list[tuple[str, dict[str, Any]]]:
    """Return one school with a class, a student with two guardians, and a teacher."""
    relationship = {"agentSourcedIds": ["st"], "role": "parent"}
    place = {"classSourcedId": "c", "schoolSourcedId": "s"}
    return [
        ("org", a_record("org", sourcedId="s")),
        ("class", a_record("class", sourcedId="c", schoolSourcedId="s", termSourcedIds=["q"])),
        (
            "student",
            a_record("student", sourcedId="st", orgSourcedIds=["s"], agentSourcedIds=["g", "t"]),
        ),
        ("staff", a_record("staff", sourcedId="t", orgSourcedIds=["s"])),
        ("guardian", a_record("guardian", sourcedId="g", email="g@x.example", **relationship)),
        ("guardian", a_record("guardian", sourcedId="h", email=None, **relationship)),
        (
            "enrollment",
            a_record("enrollment", sourcedId="e1", userSourcedId="st", role="student", **place),
        ),
        (
            "enrollment",
            a_record("enrollment", sourcedId="e2", userSourcedId="t", role="teacher", **place),
        ),
    ]


def test_a_school_as_sds_sees_it(tmp_path: Path) -> None:
    delivery = opened(tmp_path)
    deliver(delivery, a_school())
    delivery.settle()
    delivery.close()
    state = sds_model.load(tmp_path)
    assert sds_model.rosters(state) == {("c", "st", "student"), ("c", "t", "teacher")}
    assert state["classes.csv"]["c",]["sessionSourcedIds"] == ""
    relationships = {
        key: found["relationshipRole"] for key, found in state["relationships.csv"].items()
    }
    assert relationships == {("st", "g"): "parent"}


def test_a_student_who_leaves_takes_the_rosters_and_relationships_along(tmp_path: Path) -> None:
    delivery = opened(tmp_path)
    deliver(delivery, a_school())
    other = a_record("student", sourcedId="other", orgSourcedIds=["s"])
    withdrawn = a_record("student", sourcedId="st", orgSourcedIds=["s"], status="tobedeleted")
    deliver(delivery, [("student", other), ("student", withdrawn)], start=100)
    delivery.settle()
    delivery.close()
    state = sds_model.load(tmp_path)
    assert sds_model.rosters(state) == {("c", "t", "teacher")}
    assert ("st",) not in state["users.csv"]
    assert not state["relationships.csv"]


def written(out: Path, *days: list[tuple[str, dict[str, Any]]]) -> sds_model.State:
    """Deliver some days, one batch each, and return the set after the last one."""
    delivery = opened(out)
    for at, changes in enumerate(days):
        deliver(delivery, changes, start=at * 100)
    delivery.settle()
    delivery.close()
    return sds_model.load(out)


def test_a_guardian_whose_last_student_has_left_is_not_in_the_set(tmp_path: Path) -> None:
    """Case 6 of the field: neither a role nor a relationship is left."""
    other = a_record("student", sourcedId="other", orgSourcedIds=["s"])
    withdrawn = a_record("student", sourcedId="st", orgSourcedIds=["s"], status="tobedeleted")
    back = a_record("student", sourcedId="st", orgSourcedIds=["s"], agentSourcedIds=["g"])
    assert ("g",) in written(tmp_path, a_school())["users.csv"]
    assert ("g",) not in written(tmp_path, [], [("student", other)], [("student", withdrawn)])[
        "users.csv"
    ]
    assert ("g",) in written(tmp_path, [], [], [], [("student", back)])["users.csv"]


@pytest.mark.parametrize("kind", ["student", "staff"])
def test_who_has_neither_a_role_nor_a_relationship_is_not_in_the_set(
    tmp_path: Path, kind: str
) -> None:
    nowhere = a_record(
        kind, sourcedId="n", orgSourcedIds=["unknown"], primaryOrgSourcedId=None, agentSourcedIds=[]
    )
    state = written(tmp_path, [*a_school(), (kind, nowhere)])
    assert ("n",) not in state["users.csv"]
    assert {("st",), ("t",), ("g",)} <= state["users.csv"].keys()


def test_a_relationship_is_enough(tmp_path: Path) -> None:
    related = a_record(
        "student", sourcedId="n", orgSourcedIds=[], primaryOrgSourcedId=None, agentSourcedIds=["g"]
    )
    state = written(tmp_path, [*a_school(), ("student", related)])
    assert ("n",) in state["users.csv"]
    assert ("n", "g") in state["relationships.csv"]


def test_a_username_that_the_system_gave_to_two_is_the_first_ones(tmp_path: Path) -> None:
    """Case 3 of the field: SDS accepts a username only once."""
    people = [
        (kind, a_record(kind, sourcedId=id_, username=name, orgSourcedIds=["s"]))
        for kind, id_, name in (
            ("student", "m", "Red"),
            ("student", "n", "red"),
            ("staff", "o", ""),
        )
    ]
    users = written(tmp_path, [*a_school(), *people])["users.csv"]
    assert [users[id_,]["username"] for id_ in "mn"] == ["Red", "n"]


def test_an_address_of_two_students_is_the_first_ones_and_guardians_keep_theirs(
    tmp_path: Path,
) -> None:
    relationship = {"agentSourcedIds": ["m", "n"], "role": "parent", "email": "family@x.example"}
    people = [
        (kind, a_record(kind, sourcedId=id_, username=id_, orgSourcedIds=["s"], **more))
        for kind, id_, more in (
            ("student", "m", {"email": "family@x.example"}),
            ("student", "n", {"email": "Family@x.example"}),
            ("guardian", "y", relationship),
            ("guardian", "z", relationship),
        )
    ]
    users = written(tmp_path, [*a_school(), *people])["users.csv"]
    assert [bool(users[id_,]["email"]) for id_ in "mnyz"] == [True, False, True, True]


def test_two_swap_their_usernames_and_the_set_has_it_so(tmp_path: Path) -> None:
    def both(one: str, two: str) -> list[tuple[str, dict[str, Any]]]:
        return [
            ("student", a_record("student", sourcedId=id_, username=name, orgSourcedIds=["s"]))
            for id_, name in (("m", one), ("n", two))
        ]

    users = written(tmp_path, [*a_school(), *both("red", "blue")], both("blue", "red"))["users.csv"]
    assert [users[id_,]["username"] for id_ in "mn"] == ["blue", "red"]


LEFT = {"sourcedId": "e-1a", "beginDate": date(2026, 8, 24), "endDate": date(2026, 9, 11)}
BACK = {"sourcedId": "e-1b", "beginDate": date(2026, 10, 1), "endDate": date(2026, 12, 18)}


@pytest.mark.parametrize("order", [(LEFT, BACK), (BACK, LEFT)])
@pytest.mark.parametrize("apart", [False, True])
def test_a_student_who_came_back_is_in_the_class_once_until_the_latest_day(
    tmp_path: Path, order: Any, apart: bool
) -> None:
    """Case 2 of the field, for whole sets."""
    place = {"classSourcedId": "c", "schoolSourcedId": "s", "userSourcedId": "st"}
    school = [one for one in a_school() if one[1]["sourcedId"] != "e1"]
    own = [("enrollment", a_record("enrollment", **place, **one, role="student")) for one in order]
    days = [school, [own[0]], [own[1]]] if apart else [school, own]
    state = written(tmp_path, *days)
    assert sorted(sds_model.rosters(state)) == [("c", "st", "student"), ("c", "t", "teacher")]
    withdrawn = a_record("enrollment", **place, **BACK, role="student", status="tobedeleted")
    state = written(tmp_path, *([[]] * 4), [("enrollment", withdrawn)])
    assert sds_model.rosters(state) == {("c", "t", "teacher")}  # the other one has ended


@pytest.mark.parametrize(
    ("time_zone", "in_class"), [("UTC", False), ("America/Chicago", True), ("Asia/Tokyo", False)]
)
def test_the_last_day_is_that_of_the_district(
    tmp_path: Path, time_zone: str, in_class: bool
) -> None:
    ending = a_school()
    ending[-2][1]["endDate"] = date(2026, 11, 24)
    delivery = opened(tmp_path, datetime(2026, 11, 25, 3, tzinfo=UTC), time_zone=time_zone)
    deliver(delivery, ending)
    delivery.settle()
    delivery.close()
    rosters = sds_model.rosters(sds_model.load(tmp_path))
    assert (("c", "st", "student") in rosters) is in_class


def test_an_empty_bus_removes_nobody(tmp_path: Path) -> None:
    delivery = opened(tmp_path)
    deliver(delivery, a_school())
    delivery.settle()
    delivery.close()
    before = sds_model.load(tmp_path)
    rebuilt = microsoft_sds.open_delivery(microsoft_sds.Settings(out=tmp_path))
    rebuilt.resume("another cluster", [Position("schoolbus.org", 0)])
    rebuilt.settle()
    rebuilt.close()
    assert sds_model.load(tmp_path) == before


IDS = st.sampled_from(["a", "b", "c"])
EMAILS = st.sampled_from([None, "", "x@y.example", "nobody"])


def _odd(kind: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """Draw records that often refer to one another and are sometimes withdrawn."""
    said: dict[str, st.SearchStrategy[Any]] = {
        "status": st.sampled_from(["active", "active", "active", "tobedeleted"]),
        "enabledUser": st.sampled_from([True, True, False]),
        "email": EMAILS,
        "endDate": st.dates(date(2026, 11, 20), date(2026, 11, 28)),
    }
    optional = {f["name"] for f in KINDS[kind].schema["fields"] if "default" in f}
    for name in KINDS[kind].fields:
        if name.endswith("SourcedIds"):
            said[name] = st.lists(IDS, max_size=3)
        elif name.endswith("ourcedId"):
            said[name] = st.none() | IDS if name in optional else IDS
    said = {name: strategy for name, strategy in said.items() if name in KINDS[kind].fields}
    return st.tuples(records(kind), st.fixed_dictionaries(said)).map(
        lambda drawn: (kind, drawn[0] | drawn[1])
    )


Changes = list[tuple[str, dict[str, Any]]]
CHANGES = st.lists(st.one_of([_odd(kind) for kind in PRODUCT.kinds]), min_size=1, max_size=12)


def _delivered_rows(batches: list[Changes]) -> list[Changes]:
    """Order changes as a source publishes them.

    A record that moves to another owner is first withdrawn for the former owner.
    """
    delivered_rows: dict[tuple[str, str], dict[str, Any]] = {}
    all_delivered = []
    for changes in batches:
        found: Changes = []
        for kind, record in changes:
            former = delivered_rows.get((kind, record["sourcedId"]), record)
            if former[KINDS[kind].owner] != record[KINDS[kind].owner]:
                found.append((kind, former | {"status": "tobedeleted"}))
            found.append((kind, record))
            delivered_rows[kind, record["sourcedId"]] = record
        all_delivered.append(found)
    return all_delivered


def _active(changes: Changes) -> Changes:
    """Return the last state of each record for each of its owners."""
    last = {
        (kind, record["sourcedId"], record[KINDS[kind].owner]): (kind, record)
        for kind, record in changes
    }
    return list(last.values())


@pytest.mark.slow
@settings(
    suppress_health_check=list(HealthCheck),
    deadline=None,
    max_examples=max(4, settings().max_examples // 6),  # each example writes several sets
)
@given(batches=st.lists(CHANGES, min_size=1, max_size=3))
def test_the_set_is_valid_and_the_same_whatever_came_how(batches: list[Changes]) -> None:
    """Each set passes SDS's checks and equals the set that the last states alone would give."""
    batches = _delivered_rows(
        [a_school(), *batches]
    )  # a school, because the required files need rows
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder) / "one", Path(folder) / "other"
        delivery, start = opened(one), 0
        for changes in batches:
            deliver(delivery, changes, start)
            start += len(changes)
            delivery.settle()
            sds_model.load(one)
        delivery.close()
        alone = opened(other)
        deliver(alone, _active([change for changes in batches for change in changes]))
        alone.settle()
        alone.close()
        assert sds_model.load(one) == sds_model.load(other)


def test_the_settings(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="--out"):
        PRODUCT.open(microsoft_sds.Settings())
    with pytest.raises(ValidationError, match="time zone"):
        microsoft_sds.Settings(out=tmp_path, time_zone="Springfield")
