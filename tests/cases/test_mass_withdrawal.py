"""How much of a kind may disappear before an operator must allow it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bus.errors import Stop
from bus.ingest.guard import objection
from bus.settings import MassWithdrawalSettings, Settings
from tests.cases.district import SESSIONS, USERS
from tests.cases.way_in import WayIn

USUAL = MassWithdrawalSettings()
TERMS = ["t-w,Winter", "t-s,Spring", "t-u,Summer"]


def sessions(*terms: str) -> str:
    """Return the district's sessions and these terms."""
    rows = [
        "{},,,{},term,2027-01-05,2027-06-10,y-2027,2027\n".format(*term.split(","))
        for term in terms
    ]
    return SESSIONS + "".join(rows)


def students(number: int) -> str:
    """Return the district's users and this many more students."""
    rows = [
        f"u-{n},,,true,sch-1,student,s{n},,Ann,Kask,,S{n},s{n}@example.test,,,,09,\n"
        for n in range(100, 100 + number)
    ]
    return USERS + "".join(rows)


def test_a_term_that_ends_does_not_stop_the_night(way_in: WayIn) -> None:
    """One of five sessions ends, which is 20 %."""
    way_in.day(academicSessions=sessions(*TERMS))
    assert way_in.day(academicSessions=sessions(*TERMS[1:])).reported == [
        "academicSession t-w withdrawn"
    ]


def test_all_of_a_kind_of_more_than_three_stops_it(way_in: WayIn) -> None:
    way_in.day(academicSessions=sessions(*TERMS))
    none = SESSIONS.splitlines(keepends=True)[0]
    with pytest.raises(
        Stop, match=r"5 of 5 academicSession records \(all of a kind that had"
    ) as stop:
        way_in.day(academicSessions=none)
    assert "Nothing was published" in str(stop.value)
    assert "0 created, 0 updated, 5 withdrawn" in str(stop.value)
    assert "--allow-mass-withdrawal" in str(stop.value)
    assert len(way_in.day(academicSessions=none, allow=True).events) >= 5


def test_a_dry_run_says_what_the_guard_would_say_by_the_same_settings(way_in: WayIn) -> None:
    way_in.day(academicSessions=sessions(*TERMS))
    less = sessions(*TERMS[1:])
    assert way_in.dry_run(academicSessions=less).guard == ""
    way_in.set(records=0)
    found = way_in.dry_run(academicSessions=less)
    assert "1 of 5 academicSession records (more than 0 records and more than 10% of" in found.guard
    assert [(one.change, one.id) for one in found.differences] == [("withdrawn", "t-w")]
    with pytest.raises(Stop) as stop:
        way_in.day(academicSessions=less)
    assert str(stop.value) == found.guard


def test_all_three_of_a_kind_may_go(way_in: WayIn) -> None:
    way_in.day()
    none = "sourcedId,status,classSourcedId,schoolSourcedId,userSourcedId,role\n"
    day = way_in.day(enrollments=none)
    assert day.reported == [f"enrollment {id_} withdrawn" for id_ in ("e-1", "e-2", "e-t")]


def test_half_of_a_kind_of_more_than_twenty_stops_it(way_in: WayIn) -> None:
    """The file was cut short: 11 of 22 students are left."""
    way_in.day(users=students(20))
    with pytest.raises(Stop, match=r"11 of 22 student records \(half or more of a kind that had"):
        way_in.day(users=students(9))
    assert len(way_in.day(users=students(10)).reported) == 10


def test_the_thresholds_are_settings(way_in: WayIn) -> None:
    way_in.day(users=students(20))
    way_in.set(share=0.05, records=1)
    with pytest.raises(
        Stop, match=r"2 of 22 student records \(more than 1 records and more than 5%"
    ):
        way_in.day(users=students(18))


@pytest.mark.parametrize(
    ("active_before", "withdrawn", "stops"),
    [
        *((3, 3, False), (4, 3, False), (4, 4, True)),
        *((20, 19, False), (21, 10, False), (21, 11, True), (22, 11, True)),
        *((200, 20, False), (200, 21, True), (210, 21, False), (211, 22, True)),
        *((1_000, 100, False), (1_000, 101, True), (0, 0, False)),
    ],
)
def test_the_rule(active_before: int, withdrawn: int, stops: bool) -> None:
    assert bool(objection(USUAL, withdrawn, active_before)) is stops


@pytest.mark.parametrize(
    ("limits", "active_before", "withdrawn", "stops"),
    [
        ({"all_of": 4}, 4, 4, False),
        ({"all_of": 0}, 1, 1, True),
        ({"half_of": 21}, 21, 11, False),
        ({"half_of": 3}, 4, 2, True),
        ({"records": 0}, 10, 2, True),
        ({"share": 0.5}, 1_000, 101, False),
        ({"share": 0.0}, 1_000, 21, True),
    ],
)
def test_each_threshold_counts(
    limits: dict[str, float], active_before: int, withdrawn: int, stops: bool
) -> None:
    settings = MassWithdrawalSettings.model_validate(limits)
    assert bool(objection(settings, withdrawn, active_before)) is stops


@pytest.mark.parametrize("wrong", [{"share": 1.1}, {"share": -0.1}, {"records": -1}, {"all": 3}])
def test_a_threshold_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"mass_withdrawal": wrong})
