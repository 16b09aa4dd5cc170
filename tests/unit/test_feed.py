"""The worker loop on the topics of an agreement: deletions, what waits, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Message
from structlog.testing import capture_logs

from bus.consume import deadletters
from bus.consume.feed import Feed
from bus.contract import a_record
from bus.errors import BusError
from bus.product import Equivalent
from bus.registry.codec import Encoder
from tests.fakes.harness import NAMES, TAKEN, Batch, Bus, FakeProduct, RetryLater, Stop

NAME = "way.math-app.lunch"
SHARED = {
    "student": ("sourcedId", "status", "dateLastModified", "givenName"),
    "class": ("sourcedId", "status", "dateLastModified", "title"),
    "enrollment": ("sourcedId", "status", "dateLastModified", "userSourcedId", "classSourcedId"),
}
REFERENCES = {
    "student": {},
    "class": {},
    "enrollment": {"userSourcedId": ("student",), "classSourcedId": ("class",)},
}


@dataclass
class Permission:
    """A permission that a test takes away; deletions are found in the topics."""

    bus: Bus
    error: BusError | None = None
    is_complete: bool = True

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def complete(self) -> bool:
        return self.is_complete

    def outdated(self, message: Message) -> bool:
        log = self.bus.broker.log((message.topic() or "", message.partition() or 0))
        return any(
            one is not None and one.key() == message.key() and one.value() is None
            for one in log.entries[(message.offset() or 0) + 1 :]
        )


class Vendor:
    """A bus with the topics of an agreement, and the consumer of its way out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **consumer: Any) -> None:
        self.bus = Bus(monkeypatch, **consumer)
        self.permission = Permission(self.bus)
        self.product = FakeProduct()
        topics = {f"schoolbus.vendor.math-app.{kind}": kind for kind in SHARED}
        self.feed = Feed(NAME, topics, self.permission, {}, REFERENCES)
        for topic in topics:
            self.bus.broker.create(topic, 1)

    def write(self, kind: str, id_: str, **fields: Any) -> None:
        """Write the state of a record, as the projection does."""
        modified = datetime(2026, 8, 17, tzinfo=UTC)
        record = a_record(kind, sourcedId=id_, dateLastModified=modified, **fields)
        value = Encoder(kind, NAMES.index(kind) + 1).encode(record)
        self._append(kind, id_, value)

    def delete(self, kind: str, id_: str) -> None:
        """Write a deletion."""
        self._append(kind, id_, None)

    def _append(self, kind: str, id_: str, value: bytes | None) -> None:
        topic = f"schoolbus.vendor.math-app.{kind}"
        self.bus.broker.append(topic, 0, key=id_.encode(), value=value, headers=[])

    def run(self, **how: Any) -> None:
        self.bus.worker(self.product, self.feed).run(until_caught_up=True, **how)

    def records(self) -> list[tuple[str, str, str]]:
        """Return kind, id and status of each delivered row, in order."""
        return [
            (kind, record["sourcedId"], record["status"])
            for _, kind, record in self.product.delivered_rows
        ]


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Vendor:
    return Vendor(monkeypatch)


def test_it_reads_the_agreements_topics_and_only_them(vendor: Vendor) -> None:
    vendor.bus.publish("student", "of-the-district")
    vendor.write("student", "s1")
    vendor.run()
    assert vendor.records() == [("student", "s1", "active")]
    assert vendor.bus.committed() == {}  # of the district's own consumer
    group = vendor.bus.broker.group("schoolbus.way.math-app.lunch")
    assert {place: at for place, at in group.committed.items() if at} == {
        ("schoolbus.vendor.math-app.student", 0): 1
    }


def test_a_deletion_is_a_withdrawn_record_without_values(vendor: Vendor) -> None:
    vendor.write("student", "s1", givenName="Ada")
    vendor.run()
    vendor.delete("student", "s1")
    vendor.run()
    assert vendor.records() == [("student", "s1", "active"), ("student", "s1", "tobedeleted")]
    _, _, deleted = vendor.product.delivered_rows[-1]
    assert {value for name, value in deleted.items() if name not in ("sourcedId", "status")} == {
        None
    }


def test_a_state_before_a_deletion_is_not_delivered(vendor: Vendor) -> None:
    """The endpoint was down when the student opted out."""
    vendor.write("student", "s1", givenName="Ada")
    vendor.delete("student", "s1")
    vendor.write("student", "s2")
    vendor.run()
    assert vendor.records() == [("student", "s1", "tobedeleted"), ("student", "s2", "active")]


def test_a_record_that_comes_back_is_delivered_after_its_deletion(vendor: Vendor) -> None:
    vendor.write("student", "s1")
    vendor.run()
    vendor.delete("student", "s1")
    vendor.write("student", "s1")
    vendor.run()
    assert [status for _, _, status in vendor.records()] == ["active", "tobedeleted", "active"]


def test_what_is_deleted_while_the_endpoint_is_down_does_not_go_out(vendor: Vendor) -> None:
    vendor.write("student", "s1")
    vendor.write("student", "s2")
    tried: list[list[str]] = []

    def before(batch: Batch) -> None:
        tried.append([row["sourcedId"] for part in batch.parts for row in part.rows])
        if len(tried) == 2:
            vendor.delete("student", "s1")

    vendor.product.before = before
    vendor.product.failures = [RetryLater("down"), RetryLater("down")]
    vendor.run()
    vendor.run()
    assert tried == [["s1", "s2"], ["s1", "s2"], ["s2"], ["s1"]]
    assert vendor.records() == [("student", "s2", "active"), ("student", "s1", "tobedeleted")]


def test_a_record_waits_for_what_it_refers_to_and_never_becomes_a_dead_letter(
    vendor: Vendor,
) -> None:
    vendor.write("enrollment", "e1", userSourcedId="s1", classSourcedId="c1")
    vendor.write("class", "c1")
    vendor.write("student", "s1")
    vendor.run()
    assert [id_ for _, id_, _ in vendor.records()][-1] == "e1"
    vendor.write("enrollment", "e2", userSourcedId="nobody", classSourcedId="c1")
    vendor.run()
    assert [id_ for _, id_, _ in vendor.records()][-1] == "e2"
    assert deadletters.read(vendor.bus.settings, NAME) == []


def test_a_dead_letter_has_its_kind_and_is_not_under_the_vendors_prefix(vendor: Vendor) -> None:
    vendor._append("student", "s1", b"rubbish")
    vendor.write("student", "s2")
    vendor.run()
    (dead,) = deadletters.read(vendor.bus.settings, NAME)
    assert (dead.kind, dead.id, dead.code) == ("student", "s1", "undecodable")
    assert dead.place == "schoolbus.vendor.math-app.student/0/0"
    assert vendor.bus.dead_letters == []
    assert vendor.records() == [("student", "s2", "active")]


def test_of_a_kind_that_is_not_shared_any_more_only_deletions_are_delivered(
    vendor: Vendor,
) -> None:
    vendor.feed = replace(vendor.feed, ended=frozenset({"class"}))
    vendor.write("class", "c1")
    vendor._append("class", "c2", b"written with a schema that nobody needs")
    vendor.write("student", "s1")
    vendor.run()
    vendor.delete("class", "c1")
    vendor.run()
    assert vendor.records() == [("student", "s1", "active"), ("class", "c1", "tobedeleted")]
    assert deadletters.read(vendor.bus.settings, NAME) == []
    group = vendor.bus.broker.group("schoolbus." + NAME)
    assert group.committed["schoolbus.vendor.math-app.class", 0] == 3


# ---- when it ends --------------------------------------------------------------------------------


def test_it_ends_when_the_agreement_is_over_although_nothing_comes(vendor: Vendor) -> None:
    worker = vendor.bus.worker(vendor.product, vendor.feed)
    began = vendor.bus.clock.monotonic()
    vendor.bus.clock.after(5, lambda: setattr(vendor.permission, "error", Stop("revoked")))
    with pytest.raises(Stop, match="revoked"):
        worker.run()
    assert vendor.bus.clock.monotonic() - began < 5 + 2


def test_it_ends_while_a_delivery_is_tried_again_and_commits_nothing(vendor: Vendor) -> None:
    vendor.write("student", "s1")
    vendor.product.failures = [RetryLater("down", after=60.0) for _ in range(100)]
    worker = vendor.bus.worker(vendor.product, vendor.feed)
    ended: list[float] = []

    def end() -> None:
        ended.append(vendor.bus.clock.monotonic())
        vendor.permission.error = Stop("revoked")

    vendor.bus.clock.after(90, end)
    with pytest.raises(Stop, match="revoked"):
        worker.run()
    assert vendor.bus.clock.monotonic() - ended[0] < 2
    assert vendor.records() == []
    assert not any(vendor.bus.broker.group("schoolbus." + NAME).committed.values())


def test_while_it_is_unknown_whether_the_agreement_holds_nothing_is_delivered(
    vendor: Vendor,
) -> None:
    vendor.write("student", "s1")
    vendor.permission.error = RetryLater("unknown")
    seen: list[object] = []

    def known() -> None:
        seen.append(vendor.records())
        vendor.permission.error = None

    vendor.bus.clock.after(30, known)
    vendor.run()
    assert seen == [[]]
    assert vendor.records() == [("student", "s1", "active")]


def test_what_is_deferred_is_not_written_after_the_end(vendor: Vendor) -> None:
    vendor.write("student", "s1")
    vendor.product.before = lambda _: setattr(vendor.permission, "error", Stop("revoked"))
    with pytest.raises(Stop, match="revoked"):
        vendor.run()
    assert vendor.product.settled == 0


def test_what_is_deferred_waits_until_the_topics_hold_all_that_is_shared(vendor: Vendor) -> None:
    """A complete set of half of the records would delete the other half at the vendor."""
    vendor.write("student", "s1")
    vendor.permission.is_complete = False
    with capture_logs() as logs:
        vendor.run()
    assert any("no complete set is written" in one["event"] for one in logs)
    assert vendor.product.settled == 0 and vendor.records() == [("student", "s1", "active")]
    vendor.permission.is_complete = True
    vendor.write("student", "s2")
    with capture_logs() as logs:
        vendor.run()
    assert not any("no complete set is written" in one["event"] for one in logs)
    assert vendor.product.settled == 1


def test_a_product_that_compares_records_of_the_whole_district_is_refused(vendor: Vendor) -> None:
    rule = {"enrollment": Equivalent(("classSourcedId", "userSourcedId"))}
    for how in ({"siblings": rule}, {"unique": {"student": "username"}}):
        with pytest.raises(Stop, match="cannot deliver under an agreement"):
            vendor.bus.worker(vendor.product, vendor.feed, **how)


def test_the_kinds_of_the_tests_are_taken() -> None:
    assert set(SHARED) <= set(TAKEN)
