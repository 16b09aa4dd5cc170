"""Attendance is POSTed to the service and delivered to a vendor, signed, once."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.integration.commands import Commands, until
from tests.webhook_receiver import Received, Receiver

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True, slots=True)
class School:
    """A service that takes records, and a vendor that receives them."""

    app: httpx2.Client
    vendor: Receiver
    commands: Commands

    def attendance_record(self, student: str, category: str, **said: Any) -> dict[str, Any]:
        """Return an attendance record as a classroom app sends it."""
        return {
            "studentSourcedId": student,
            "schoolSourcedId": "oak",
            "eventDate": "2026-11-24",
            "attendanceEventCategory": category,
        } | said

    def post(self, body: Any, kind: str = "attendance", **headers: str) -> httpx2.Response:
        """POST a body as the app."""
        return self.app.post(f"/v1/{kind}", json=body, headers=headers)

    def events_about(self, student: str, number: int) -> list[Received]:
        """Return the vendor's events of a student's attendance, once there are this many."""

        def found() -> list[Received]:
            return [
                event
                for event in self.vendor.accepted
                if event.data.get("studentSourcedId") == student
            ]

        until(lambda: len(found()) >= number, f"{number} attendance events")
        return found()


@pytest.fixture(scope="module")
def school(module_commands: Commands) -> Iterator[School]:
    """One service and one vendor for all tests here, with a school and its students."""
    commands = module_commands
    made = commands.run("produce", "http", "--new-key", "app")
    commands.variables |= {
        "BUS_PRODUCERS__HTTP__CLIENTS__APP__KEY_SHA256": made["sha256"],
        "BUS_PRODUCERS__HTTP__CLIENTS__APP__SCOPES": "org,student,attendance",
        "BUS_PRODUCERS__HTTP__RATE": "5",
        "BUS_PRODUCERS__HTTP__BURST": "50",
        "BUS_PRODUCERS__HTTP__BODY_RECORDS": "20",
        "BUS_PRODUCTS__WEBHOOK__SECRET": SECRET,
        "BUS_CONSUMER__HOLD_SECONDS": "2",
    }
    with (
        Receiver(SECRET) as vendor,
        commands.running("produce", "http", "--port", "0") as service,
        commands.running("consume", "webhook", "--url", vendor.url),
    ):
        assert service.stdout is not None
        url = json.loads(service.stdout.readline())["url"]
        key = {"X-API-Key": made["key"]}
        with httpx2.Client(base_url=url, headers=key, trust_env=False, timeout=30) as app:
            school = School(app, vendor, commands)
            oak = {"sourcedId": "oak", "status": "active", "name": "Oak", "type": "school"}
            assert school.post(oak, "org").status_code == 202
            names = {"status": "active", "givenName": "Zoë", "familyName": "Quispe"}
            students = [{"sourcedId": f"s{n}"} | names for n in range(10)]
            assert school.post(students, "student").status_code == 202
            vendor.wait(11, 60)
            yield school


def test_a_record_reaches_the_vendor_signed_and_once(school: School) -> None:
    answer = school.post(school.attendance_record("s0", "tardy"))
    assert answer.status_code == 202
    (event,) = school.events_about("s0", 1)
    assert event.verified
    assert event.id == answer.json()["events"][0]["id"]
    assert event.event["type"] == "attendance.recorded"
    assert event.data["attendanceEventCategory"] == "tardy"


def test_a_correction_has_the_id_of_what_it_corrects(school: School) -> None:
    first = school.post(school.attendance_record("s1", "unexcusedAbsence"))
    second = school.post(school.attendance_record("s1", "excusedAbsence"))
    events = school.events_about("s1", 2)
    assert [e.data["attendanceEventCategory"] for e in events] == [
        "unexcusedAbsence",
        "excusedAbsence",
    ]
    assert events[0].data["sourcedId"] == events[1].data["sourcedId"]
    assert first.json()["events"][0]["id"] != second.json()["events"][0]["id"]


def test_a_late_record_keeps_its_day(school: School) -> None:
    assert (
        school.post(school.attendance_record("s2", "tardy", eventDate="2026-11-20")).status_code
        == 202
    )
    assert school.post(school.attendance_record("s2", "tardy")).status_code == 202
    events = school.events_about("s2", 2)
    assert [event.data["eventDate"] for event in events] == ["2026-11-20", "2026-11-24"]
    assert events[0].data["sourcedId"] != events[1].data["sourcedId"]


def test_the_same_request_twice_is_one_event(school: School) -> None:
    key = {"Idempotency-Key": '"period-1"'}
    first = school.post(school.attendance_record("s3", "tardy"), **key)
    second = school.post(school.attendance_record("s3", "tardy"), **key)
    other = school.post(school.attendance_record("s3", "inAttendance"), **key)
    assert (first.status_code, second.status_code, other.status_code) == (202, 202, 422)
    assert first.json() == second.json()
    school.post(
        school.attendance_record("s3", "earlyDeparture")
    )  # events come in order, so this is the last
    events = school.events_about("s3", 2)
    assert [e.data["attendanceEventCategory"] for e in events] == ["tardy", "earlyDeparture"]


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"attendanceEventCategory": "asleep"}, "/attendanceEventCategory"),
        ({"eventDate": "24.11.2026"}, "/eventDate"),
        ({"studentSourcedId": ""}, "/studentSourcedId"),
        ({"mood": "grumpy"}, "/mood"),
    ],
)
def test_a_bad_record_is_refused_with_the_field(
    school: School, said: dict[str, Any], field: str
) -> None:
    answer = school.post(school.attendance_record("s4", "tardy") | said)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert field in answer.json()["errors"][0]["pointer"]


def test_who_may_not_write_is_refused(school: School) -> None:
    attendance_record = school.attendance_record("s5", "tardy")
    nobody = school.app.post(
        "/v1/attendance", json=attendance_record, headers={"X-API-Key": "wrong"}
    )
    assert nobody.status_code == 401
    assert school.post({}, "staff").status_code == 403


def test_too_much_at_once_is_refused(school: School) -> None:
    many = school.post([school.attendance_record("s6", "tardy")] * 21)
    assert many.status_code == 413


def test_many_at_once_are_all_there(school: School) -> None:
    records = [school.attendance_record("s7", "tardy", classPeriod=str(n)) for n in range(20)]
    answer = school.post(records)
    assert answer.status_code == 202
    ids = {event["id"] for event in answer.json()["events"]}
    assert {event.id for event in school.events_about("s7", 20)} == ids


def test_a_client_that_floods_must_wait(school: School) -> None:
    answers = [school.post({}, "attendance") for _ in range(80)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert int(refused[0].headers["retry-after"]) >= 1


def test_a_record_of_an_unknown_student_is_a_dead_letter(school: School) -> None:
    until(
        lambda: school.post(school.attendance_record("nobody", "tardy")).status_code == 202,
        "room after the flood",
    )
    dead_letters = until(
        lambda: school.commands.run("deadletters", "list", "webhook")["deadLetters"],
        "the dead letter",
    )
    assert "student" in dead_letters[0]["reason"]
    assert "nobody" in dead_letters[0]["reason"]  # the id that identifies the student, not a name
