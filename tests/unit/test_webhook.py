"""The signed requests that result from events."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from bus.contract.example_records import a_record
from bus.delivery import Batch, Part, Position
from bus.errors import Never, RetryLater, Stop
from bus.kafka.cloudevents import envelope
from bus.standard import KINDS
from consumers.delivery.http import Http
from consumers.webhook import DEFAULT_KINDS, NEW_SECRET, PRODUCT, WebhookSettings
from tests.webhook_receiver import Receiver

SECRET = "whsec_" + "c2Nob29sYnVz" * 3
OLD_SECRET = "whsec_" + "c3VibG9vaGNz" * 3
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TIME = "2026-11-24T08:01:02.345678+00:00"

ATTENDANCE: dict[str, Any] = {
    "sourcedId": "a1",
    "status": "active",
    "dateLastModified": datetime(2026, 11, 24, 8, 1, 2, 345000, tzinfo=UTC),
    "studentSourcedId": "s1",
    "schoolSourcedId": "o1",
    "classSourcedId": None,
    "eventDate": date(2026, 11, 24),
    "attendanceEventCategory": "tardy",
    "attendanceEventReason": "dentist",
    "eventDuration": 0.25,
    "arrivalTime": "08:20",
    "departureTime": None,
    "classPeriod": None,
    "recordedAt": None,
}


class Message:
    """The parts of a Kafka message of the bus that the webhook uses."""

    def __init__(
        self, kind: str, offset: int, event: str, change: Any = "recorded", trace: str | None = None
    ) -> None:
        self._topic, self._offset = f"schoolbus.{kind}", offset
        self._headers = [
            *envelope(kind, change, source="/http/app", time=TIME, traceparent=trace),
            ("ce_id", event.encode()),
        ]

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers


def batch(kind: str, record: dict[str, Any], message: Message) -> Batch:
    """Return one event as a batch, translated as the worker does it."""
    ((table, row_of),) = PRODUCT.translations(kind)
    part = Part(table, kind, [row_of(record) or {}], [record], [message])  # type: ignore[list-item]
    return Batch([part], {Position(message.topic(), 0): message.offset() + 1})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(SECRET) as running:
        yield running


Open = Callable[..., Http]


@pytest.fixture
def open_webhook(receiver: Receiver, tmp_path: Path) -> Iterator[Open]:
    """Open the product's delivery to the receiver, and close it at the end."""
    opened = []

    def make(**settings: Any) -> Http:
        given = {"url": receiver.url, "secret": SECRET, "state": tmp_path, **settings}
        opened.append(PRODUCT.open(WebhookSettings(**given)))
        return opened[-1]  # type: ignore[return-value]

    yield make  # type: ignore[misc]
    for each in opened:
        each.close()


def test_a_signed_event(receiver: Receiver, open_webhook: Open) -> None:
    event = batch("attendance", ATTENDANCE, Message("attendance", 7, "7f3a-1", trace=TRACE))
    assert open_webhook(sensitive=True).deliver(event) == []
    (got,) = receiver.accepted
    assert got.event == {
        "type": "attendance.recorded",
        "timestamp": "2026-11-24T08:01:02.345678Z",
        "data": {
            "sourcedId": "a1",
            "status": "active",
            "dateLastModified": "2026-11-24T08:01:02.345Z",
            "studentSourcedId": "s1",
            "schoolSourcedId": "o1",
            "classSourcedId": None,
            "eventDate": "2026-11-24",
            "attendanceEventCategory": "tardy",
            "attendanceEventReason": "dentist",
            "eventDuration": 0.25,
            "arrivalTime": "08:20",
            "departureTime": None,
            "classPeriod": None,
            "recordedAt": None,
        },
    }
    assert got.id == "7f3a-1"
    assert abs(int(got.headers["webhook-timestamp"]) - got.at) < 5
    assert got.headers["content-type"] == "application/json"
    assert got.headers["user-agent"].startswith("Schoolbus/")
    assert got.headers["traceparent"] == TRACE


def test_the_sensitive_is_left_out_unless_it_is_asked_for(
    receiver: Receiver, open_webhook: Open
) -> None:
    open_webhook().deliver(batch("attendance", ATTENDANCE, Message("attendance", 0, "e1")))
    (got,) = receiver.accepted
    assert ATTENDANCE.keys() - got.data.keys() == {"attendanceEventReason"}


def test_a_withdrawal_says_so(receiver: Receiver, open_webhook: Open) -> None:
    withdrawn = {**ATTENDANCE, "status": "tobedeleted"}
    open_webhook().deliver(
        batch("attendance", withdrawn, Message("attendance", 0, "e1", "withdrawn"))
    )
    (got,) = receiver.accepted
    assert (got.event["type"], got.data["status"]) == ("attendance.withdrawn", "tobedeleted")


def test_the_id_stays_the_same_however_often_it_is_sent(
    receiver: Receiver, open_webhook: Open
) -> None:
    receiver.next("drop")
    event = batch("attendance", ATTENDANCE, Message("attendance", 0, "e1"))
    delivery = open_webhook()
    with pytest.raises(RetryLater):
        delivery.deliver(event)
    delivery.deliver(event)  # the retry in this run
    open_webhook().deliver(event)  # and after a crash
    assert [got.id for got in receiver.received] == ["e1", "e1", "e1"]


@pytest.mark.parametrize("strange", ["a.b", "é", "a\r\nb", "", "x" * 200, "schoolbus.student/0/1"])
def test_an_id_that_could_confuse_the_signature_is_hashed(
    strange: str, receiver: Receiver, open_webhook: Open
) -> None:
    event = batch("attendance", ATTENDANCE, Message("attendance", 0, strange))
    open_webhook().deliver(event)
    open_webhook().deliver(event)
    first, second = receiver.accepted
    assert first.id == second.id
    assert first.id.startswith("evt_") and first.id.isascii() and "." not in first.id


def test_a_trace_that_is_none_is_not_passed_on(receiver: Receiver, open_webhook: Open) -> None:
    message = Message("attendance", 0, "e1", trace="not a trace\r\nx: y")
    open_webhook().deliver(batch("attendance", ATTENDANCE, message))
    assert "traceparent" not in receiver.accepted[0].headers


def test_while_the_secret_is_changed_both_sign(receiver: Receiver, open_webhook: Open) -> None:
    event = batch("attendance", ATTENDANCE, Message("attendance", 0, "e1"))
    open_webhook(secret=OLD_SECRET, old_secret=SECRET).deliver(event)
    (got,) = receiver.accepted  # the receiver still has the old one
    assert len(got.headers["webhook-signature"].split(" ")) == 2
    Webhook(OLD_SECRET).verify(got.body, dict(got.headers))
    with pytest.raises(RetryLater, match="status 401"):
        open_webhook(secret=OLD_SECRET).deliver(event)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(receiver.received[-1].body, dict(receiver.received[-1].headers))


def test_no_demographics_or_guardians_unless_named(receiver: Receiver, open_webhook: Open) -> None:
    left_out = {"demographics", "guardian", "lineItem", "optOut", "result"}
    assert set(KINDS) - set(DEFAULT_KINDS) == left_out
    person = dict.fromkeys(KINDS["demographics"].fields) | {"sourcedId": "s1", "status": "active"}
    event = batch("demographics", person, Message("demographics", 0, "e1", "updated"))
    open_webhook().deliver(event)
    assert receiver.received == []
    open_webhook(kinds="student, demographics").deliver(event)
    (got,) = receiver.accepted
    assert got.event["type"] == "demographics.updated"
    assert got.data.keys() == {"sourcedId", "status", "dateLastModified"}


def test_an_opt_out_goes_nowhere_unless_named_and_then_without_its_scope(
    receiver: Receiver, open_webhook: Open
) -> None:
    opt_out = a_record("optOut", scope="protected", decidedBy="court")
    event = batch("optOut", opt_out, Message("optOut", 0, "e1", "updated"))
    open_webhook().deliver(event)
    assert receiver.received == []
    open_webhook(kinds="student, optOut").deliver(event)
    (got,) = receiver.accepted
    assert got.data.keys() == set(KINDS["optOut"].fields) - {"scope", "decidedBy", "decision"}


def test_a_number_that_json_does_not_have() -> None:
    ((_, row_of),) = PRODUCT.translations("attendance")
    with pytest.raises(Never, match="JSON cannot express"):
        row_of({**ATTENDANCE, "eventDuration": float("nan")})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_translated_whole_and_into_json(kind: str) -> None:
    record = dict.fromkeys(KINDS[kind].fields)
    ((_, row_of),) = PRODUCT.translations(kind)
    assert list(json.loads(json.dumps(row_of(record)))) == list(KINDS[kind].fields)


# ---- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret", ["", "hunter2", "whsec_c2hvcnQ=", "whsec_!!!", "whsk_" + "A" * 44]
)
def test_a_secret_that_is_none(secret: str, open_webhook: Open) -> None:
    with pytest.raises(Stop, match="BUS_PRODUCTS__WEBHOOK__SECRET") as raised:
        open_webhook(secret=secret)
    assert NEW_SECRET in str(raised.value)
    assert not secret or secret not in str(raised.value)


def test_how_a_secret_is_made(tmp_path: Path) -> None:
    _, *rest = shlex.split(NEW_SECRET)
    made = subprocess.run([sys.executable, *rest], check=True, capture_output=True, text=True)
    assert made.stdout.startswith("whsec_")
    settings = WebhookSettings(secret=made.stdout, url="https://vendor.example/", state=tmp_path)
    PRODUCT.open(settings).close()
    assert made.stdout.strip() not in repr(settings)


def test_without_a_url(open_webhook: Open) -> None:
    with pytest.raises(Stop, match="--url"):
        open_webhook(url="")


def test_a_misspelt_kind() -> None:
    with pytest.raises(ValidationError, match=r"unknown kind: pupil; the kinds are .*student"):
        WebhookSettings(kinds=("pupil",))
