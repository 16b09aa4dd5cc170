"""The webhook under an agreement: what it sends, to which address, and when it stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bus.consume.feed import deletion, whole
from bus.delivery import Batch, Part, Terms
from bus.errors import BusError, RetryLater, Stop
from consumers.delivery import endpoint
from consumers.delivery.http import Http
from consumers.webhook import PRODUCT, WebhookSettings
from tests.webhook_receiver import Received, Receiver

SECRET = "whsec_" + "c2Nob29sYnVz" * 3
FIELDS = {
    "student": ("sourcedId", "status", "givenName"),
    "enrollment": ("sourcedId", "status", "userSourcedId"),
}


@dataclass
class Permission:
    """A permission that a test can end."""

    error: BusError | None = None
    is_complete: bool = True
    deleted: set[tuple[str, int]] = field(default_factory=set)

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def complete(self) -> bool:
        return self.is_complete

    def outdated(self, message: Any) -> bool:
        return (message.key().decode(), message.offset()) in self.deleted


class Message:
    """The part of a Kafka message in a vendor's topic that the webhook uses."""

    def __init__(self, kind: str, key: str, offset: int, value: bytes | None = b"") -> None:
        self._topic, self._key = f"schoolbus.vendor.math-app.{kind}", key
        self._offset, self._value = offset, value
        change = "deleted" if value is None else "updated"
        self._headers = [
            ("ce_id", f"{kind}-{key}-{offset}".encode()),
            ("ce_type", f"org.schoolbus.{kind}.{change}".encode()),
            ("ce_source", b"/schoolbus"),
            ("ce_time", b"2026-11-24T08:01:02+00:00"),
        ]

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._key.encode()

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers


def part(kind: str, *events: tuple[str, dict[str, Any] | None]) -> Part:
    """Return events of a kind as the worker translates them: an id, and a record or None."""
    ((table, row_of),) = PRODUCT.translations(kind)
    records, messages = [], []
    for offset, (key, about) in enumerate(events):
        if about is None:
            records.append(deletion(kind, key))
        else:
            records.append(whole(kind, {"sourcedId": key, "status": "active", **about}))
        messages.append(Message(kind, key, offset, None if about is None else b"."))
    rows = [row_of(record) for record in records]
    return Part(table, kind, rows, records, messages)  # type: ignore[arg-type]


def students(number: int) -> Batch:
    return Batch([part("student", *((f"s{i}", {"givenName": "A"}) for i in range(number)))], {})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(SECRET) as running:
        yield running


@pytest.fixture
def permission() -> Permission:
    return Permission()


@pytest.fixture
def to_vendor(
    receiver: Receiver, permission: Permission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Http]]:
    """Open deliveries under an agreement. The receiver of the tests has no TLS."""
    monkeypatch.setattr(endpoint, "vendor_address", lambda url, _: endpoint.address(url))
    opened = []

    def make(url: str = "", *, loopback: bool = True, **more: Any) -> Http:
        terms = Terms("math-app", "1", FIELDS, permission, loopback=loopback, name="math-2")
        settings = WebhookSettings.model_validate(
            {"url": url or receiver.url, "secret": SECRET, **more},
            context={"home": tmp_path, "terms": terms},
        )
        delivery = PRODUCT.open(settings)
        assert isinstance(delivery, Http)
        opened.append(delivery)
        return delivery

    yield make
    for each in opened:
        each.close()


ToVendor = Callable[..., Http]


# ---- what is sent --------------------------------------------------------------------------------


def test_only_agreed_fields_are_sent_whatever_the_products_own_settings_say(
    receiver: Receiver, to_vendor: ToVendor
) -> None:
    delivery = to_vendor(kinds="org", sensitive=True)
    delivery.deliver(
        Batch(
            [
                part("student", ("s1", {"givenName": "Ada", "familyName": "SECRET"})),
                part("enrollment", ("e1", {"userSourcedId": "s1", "classSourcedId": "SECRET"})),
            ],
            {},
        )
    )
    student, enrollment = receiver.accepted
    assert student.event == {
        "type": "student.updated",
        "timestamp": "2026-11-24T08:01:02.000000Z",
        "data": {"sourcedId": "s1", "status": "active", "givenName": "Ada"},
    }
    assert enrollment.data == {"sourcedId": "e1", "status": "active", "userSourcedId": "s1"}
    assert not any(b"SECRET" in one.body for one in receiver.received)
    assert "traceparent" not in student.headers


def test_a_kind_that_is_not_shared_is_not_sent(receiver: Receiver, to_vendor: ToVendor) -> None:
    to_vendor().deliver(Batch([part("org", ("o1", {"name": "A"}))], {}))
    assert receiver.received == []


def test_a_deletion_gives_no_reason(receiver: Receiver, to_vendor: ToVendor) -> None:
    to_vendor().deliver(Batch([part("student", ("s1", None))], {}))
    (one,) = receiver.accepted
    assert (one.event["type"], one.data) == ("student.deleted", {"sourcedId": "s1"})


def test_events_of_one_record_come_in_order(receiver: Receiver, to_vendor: ToVendor) -> None:
    """A deletion does not name the student, so the record's own id decides the order."""

    def slow_at_first(one: Received) -> int:
        time.sleep(0.2 if "deleted" in one.event["type"] else 0)
        return 204

    receiver.answer = slow_at_first
    states = [("e1", None), ("e1", {"userSourcedId": "s1"}), ("e2", {"userSourcedId": "s1"})]
    to_vendor().deliver(Batch([part("enrollment", *states)], {}))
    of_e1 = [one.event["type"] for one in receiver.accepted if one.data["sourcedId"] == "e1"]
    assert of_e1 == ["enrollment.deleted", "enrollment.updated"]


def test_an_event_that_may_not_be_sent_any_more_is_left_out(
    receiver: Receiver, to_vendor: ToVendor, permission: Permission
) -> None:
    permission.deleted = {("s1", 0)}
    assert to_vendor().deliver(students(2)) == []
    assert {one.data["sourcedId"] for one in receiver.accepted} == {"s0", "s1"}
    permission.deleted = {("s1", 1)}
    receiver.received.clear()
    to_vendor().deliver(students(2))
    assert [one.data["sourcedId"] for one in receiver.accepted] == ["s0"]


# ---- when nothing more is sent -------------------------------------------------------------------


def test_nothing_is_sent_once_the_agreement_is_over(
    receiver: Receiver, to_vendor: ToVendor, permission: Permission
) -> None:
    delivery = to_vendor()
    permission.error = Stop("the agreement is over")
    with pytest.raises(Stop, match="the agreement is over"):
        delivery.deliver(students(3))
    assert receiver.received == []


def test_an_open_request_ends_within_a_second(
    receiver: Receiver, to_vendor: ToVendor, permission: Permission
) -> None:
    """The endpoint does not answer; the agreement is revoked while requests wait for it."""
    receiver.next("hang", times=2)
    revoked_at: list[float] = []

    def revoke() -> None:
        while len(receiver.received) < 2:
            time.sleep(0.01)
        revoked_at.append(time.monotonic())
        permission.error = Stop("revoked")

    ended = threading.Thread(target=revoke)
    ended.start()
    with pytest.raises(Stop, match="revoked"):
        to_vendor(concurrency=2).deliver(students(20))
    assert time.monotonic() - revoked_at[0] < 1.5
    ended.join()
    time.sleep(0.3)
    assert len(receiver.received) == 2


def test_nothing_is_sent_while_it_is_unknown_whether_the_agreement_is_active(
    receiver: Receiver, to_vendor: ToVendor, permission: Permission
) -> None:
    def answer(_: Received) -> int:
        permission.error = RetryLater("Kafka does not answer")
        return 204

    receiver.answer = answer
    delivery, events = to_vendor(concurrency=1), students(3)
    with pytest.raises(RetryLater, match="Kafka does not answer"):
        delivery.deliver(events)
    assert len(receiver.accepted) == 1
    permission.error, receiver.answer = None, lambda _: 204
    assert delivery.deliver(events) == []
    assert [one.data["sourcedId"] for one in receiver.accepted] == ["s0", "s1", "s2"]


# ---- where to ------------------------------------------------------------------------------------


def test_nothing_goes_to_this_machine_without_the_setting(
    receiver: Receiver, to_vendor: ToVendor
) -> None:
    with pytest.raises(RetryLater, match="leads to an address inside the district's network"):
        to_vendor(loopback=False).deliver(students(1))
    assert receiver.connections == 0


def test_a_redirect_is_not_followed(receiver: Receiver, to_vendor: ToVendor) -> None:
    with Receiver(SECRET) as inside:
        receiver.next(307, headers={"location": inside.url})
        with pytest.raises(RetryLater, match="status 307"):
            to_vendor().deliver(students(1))
        assert inside.connections == 0


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://vendor.example/hook", "unencrypted"),
        ("http://127.0.0.1/hook", "unencrypted"),
        ("https://127.0.0.1/hook", "inside the district's network"),
        ("https://localhost/hook", "inside the district's network"),
        ("https://[::ffff:10.0.0.1]/hook", "inside the district's network"),
        ("https://8.8.8.8/hook", "inside the district's network"),
    ],
)
def test_an_address_that_the_agreement_may_not_name_is_refused(
    permission: Permission, tmp_path: Path, url: str, what: str
) -> None:
    from ipaddress import IPv4Network

    terms = Terms("math-app", "1", FIELDS, permission, (IPv4Network("8.8.8.0/24"),))
    with pytest.raises(Stop, match=what):
        endpoint.vendor_address(url, terms)


def test_no_proxy_is_used(permission: Permission, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = Terms("math-app", "1", FIELDS, permission)
    assert endpoint.vendor_address("https://vendor.example/hook", terms).host == "vendor.example"
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.district.example:3128")
    with pytest.raises(Stop, match=r"add vendor\.example to NO_PROXY"):
        endpoint.vendor_address("https://vendor.example/hook", terms)
    monkeypatch.setenv("NO_PROXY", "vendor.example")
    endpoint.vendor_address("https://vendor.example/hook", terms)


def test_two_agreements_with_one_address_do_not_switch_off_each_other(
    receiver: Receiver, to_vendor: ToVendor, permission: Permission, tmp_path: Path
) -> None:
    receiver.next(410)
    with pytest.raises(Stop, match="switched off"):
        to_vendor().deliver(students(1))
    with pytest.raises(Stop, match="switched off"):
        to_vendor()
    other = WebhookSettings.model_validate(
        {"url": receiver.url, "secret": SECRET},
        context={"home": tmp_path, "terms": Terms("other", "1", FIELDS, permission, loopback=True)},
    )
    PRODUCT.open(other).close()


def test_a_wrong_secret_is_named_without_its_value(to_vendor: ToVendor) -> None:
    with pytest.raises(Stop, match=r"vendors\.webhook_secrets \(for math-2\)") as caught:
        to_vendor(secret="hidden")
    assert "hidden" not in str(caught.value)
    with pytest.raises(Stop, match=r"vendors\.webhook_old_secrets"):
        to_vendor(old_secret="hidden")
