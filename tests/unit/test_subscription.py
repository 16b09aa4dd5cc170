"""A vendor's subscription: it skips and reports what does not decode.

When the bus does not answer, one line for a person says so.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from bus import Event, Stop, Subscription, Undecodable, subscribe
from bus.registry.codec import Encoder
from bus.vendors.vendor_schema import vendor_schema
from tests.fakes.broker import EPOCH
from tests.fakes.consumer import FakeConsumer
from tests.fakes.harness import Bus
from tests.unit.test_vendor_schema import scope_of

GROUP = "vendor"


class Member(FakeConsumer):
    """A group member whose stored offsets are committed when it closes."""

    def subscribe(self, topics: Any, on_assign: Any, on_revoke: Any, on_lost: Any = None) -> None:
        super().subscribe(topics, on_assign, on_revoke, on_lost or on_revoke)

    def store_offsets(self, message: Any = None, offsets: Any = ()) -> None:
        if message is not None:
            self._group.committed[message.topic(), message.partition()] = message.offset() + 1
        self.commit(offsets, asynchronous=True)

    def commit(self, offsets: Any, asynchronous: bool) -> None:
        assert asynchronous
        for one in offsets:
            assert one.offset >= 0
            self._group.committed[one.topic, one.partition] = one.offset
            self._group.metadata[one.topic, one.partition] = one.metadata


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    """Return a bus with two students, and between them a message that is not a record."""
    bus = Bus(monkeypatch)
    monkeypatch.setattr("bus.subscription.Consumer", partial(Member, bus.broker))
    monkeypatch.setattr("bus.subscription.schema_lookup", lambda _: _schema)
    monkeypatch.setattr("bus.subscription.check_reachable", lambda _: None)
    now = bus.broker.clock
    monkeypatch.setattr("bus.kafka.late_groups.now", lambda: EPOCH + int(now.now * 1000))
    # the hook of this process stays
    monkeypatch.setattr("bus.subscription._print_errors_without_traceback", lambda: None)
    bus.publish("student", "s1")
    bus.publish("student", "secret-id", become="rubbish")
    bus.publish("student", "s2")
    return bus


def _schema(schema_id: int) -> Any:
    from tests.fakes.harness import _schema as found

    return found(schema_id)


def reading(bus: Bus, **options: Any) -> Subscription:
    return subscribe("student", group=GROUP, settings=bus.settings, until_caught_up=True, **options)


def ids(events: Any) -> list[str]:
    return [event.record["sourcedId"] for event in events]


def test_what_does_not_decode_is_counted_logged_and_reported(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[Undecodable] = []
    events = reading(bus, undecodable=lost.append)
    with caplog.at_level(logging.WARNING):
        assert ids(events) == ["s1", "s2"]
    assert events.undecodable == {"student": 1}
    assert [(one.kind, one.place, one.key, one.value) for one in lost] == [
        ("student", "schoolbus.student/0/1", "secret-id", b"rubbish")
    ]
    (said,) = caplog.messages
    assert "1 of kind student" in said and "schoolbus.student/0/1: the value is not Avro" in said
    assert "secret-id" not in said
    assert "secret-id" not in repr(lost[0])


def test_it_is_not_reported_again(bus: Bus) -> None:
    assert len(ids(reading(bus))) == 2
    again = reading(bus)
    assert (ids(again), again.undecodable) == ([], {})


def test_an_erasure_is_reported_with_its_key(bus: Bus) -> None:
    bus.broker.append("schoolbus.student", 0, key=b"s1", value=None, headers=[])
    lost: list[Undecodable] = []
    ids(reading(bus, undecodable=lost.append))
    assert (lost[-1].key, lost[-1].value) == ("s1", None)
    assert "erasure" in lost[-1].reason


def test_when_the_hook_raises_the_message_comes_again(bus: Bus) -> None:
    def refuse(_: Undecodable) -> None:
        raise RuntimeError("the vendor wants to know")

    events = reading(bus, undecodable=refuse)
    assert isinstance(next(events), Event)
    with pytest.raises(RuntimeError, match="wants to know"):
        next(events)
    assert events.undecodable == {}
    again = reading(bus)
    assert ids(again) == ["s2"]
    assert again.undecodable == {"student": 1}


def test_a_topic_full_of_it_does_not_fill_the_log(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(120):
        bus.publish("student", f"x{number}", become="rubbish")
    events = reading(bus)
    with caplog.at_level(logging.WARNING):
        ids(events)
    assert events.undecodable.total() == 121
    assert [message.split(": ")[1].split(" ")[0] for message in caplog.messages] == [
        "1",
        "10",
        "100",
    ]


def test_who_closes_leaves_the_group(bus: Bus) -> None:
    events = reading(bus)
    next(events)
    events.close()
    assert bus.broker.group(f"{bus.settings.topic_prefix}.{GROUP}").members == []
    assert ids(reading(bus)) == ["s1", "s2"]


def test_who_lets_go_of_the_events_leaves_the_group(bus: Bus) -> None:
    """As after a `break`: a member that stays without a poll would block all others."""
    events = reading(bus)
    next(events)
    gc.disable()
    try:
        del events
        assert bus.broker.group(f"{bus.settings.topic_prefix}.{GROUP}").members == []
    finally:
        gc.enable()


# Under an agreement

TOPIC = "schoolbus.vendor.math-app.student"


def vendor_encoder(*fields: str) -> Encoder:
    """Return what writes students with these fields; the id of its schema is their number."""
    return Encoder("student", len(fields), agreed(*fields))


def agreed(*fields: str) -> dict[str, Any]:
    return vendor_schema(scope_of(*(f"student.{one}" for one in fields)), "student", "math-app")


@pytest.fixture
def vendor(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> Bus:
    """Return a bus whose vendor `math-app` has a student, a deletion and rubbish."""
    schemas = {1: agreed("grades"), 2: agreed("grades", "givenName")}
    monkeypatch.setattr(
        "bus.subscription.schema_lookup", lambda _: lambda id_: schemas.get(id_) or _schema(id_)
    )
    bus.broker.create(TOPIC, 1)
    ann = {"sourcedId": "pa", "status": "active", "grades": ["07"]}
    headers = [("ce_id", b"e1"), ("ce_type", b"org.schoolbus.student.created")]
    put = partial(bus.broker.append, TOPIC, 0)
    put(key=b"pa", value=vendor_encoder("grades").encode(ann), headers=headers)
    ann |= {"givenName": "Ann"}
    put(key=b"pa", value=vendor_encoder("grades", "givenName").encode(ann), headers=[])
    put(key=b"pb", value=None, headers=[("ce_id", b"e3")])
    put(key=b"pc", value=b"rubbish", headers=[])
    return bus


def under_agreement(bus: Bus, **options: Any) -> Subscription:
    return reading(bus, agreement="math-app", **options)


def test_an_agreement_is_read_with_its_own_fields_and_deletions(vendor: Bus) -> None:
    events = under_agreement(vendor)
    first, second, deleted = list(events)
    assert first.record == {"sourcedId": "pa", "status": "active", "grades": ["07"]}
    assert (first.id, first.key, first.kind) == ("e1", "pa", "student")
    assert first.type == "org.schoolbus.student.created"
    assert second.record == first.record | {"givenName": "Ann"}
    assert (deleted.record, deleted.key, deleted.id) == (None, "pb", "e3")
    assert deleted.type == "org.schoolbus.student.deleted"
    assert events.undecodable == {"student": 1}


def test_the_group_of_an_agreement_is_its_own(vendor: Bus) -> None:
    assert len(list(under_agreement(vendor))) == 3
    assert vendor.broker.group("schoolbus.vendor.math-app.vendor").committed == {(TOPIC, 0): 4}
    assert list(under_agreement(vendor)) == []
    assert ids(reading(vendor)) == ["s1", "s2"]  # the district's group has handled nothing yet


def test_an_event_of_the_standard_has_its_key(bus: Bus) -> None:
    assert [event.key for event in reading(bus)] == ["s1", "s2"]


def test_a_name_that_no_agreement_can_have_is_refused(vendor: Bus) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        next(subscribe("student", group="x", agreement="a.b", settings=vendor.settings))


class Refused(Member):
    """A member that the broker lets read no more."""

    code = KafkaError.TOPIC_AUTHORIZATION_FAILED

    def poll(self, timeout: float) -> Any:
        error = SimpleNamespace(code=lambda: self.code, fatal=lambda: False, name=lambda: "DENIED")
        return SimpleNamespace(
            error=lambda: error, topic=lambda: TOPIC, partition=lambda: 0, offset=lambda: 0
        )


def test_a_district_program_without_rights_learns_which_are_missing(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.subscription.Consumer", partial(Refused, bus.broker))
    with pytest.raises(Stop, match=r"denies access .*READ .* group schoolbus\.vendor"):
        next(reading(bus))


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError._AUTHENTICATION,
    ],
)
def test_a_vendor_that_may_not_read_any_more_gets_an_error(
    vendor: Bus, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(Refused, "code", code)
    monkeypatch.setattr("bus.subscription.Consumer", partial(Refused, vendor.broker))
    with pytest.raises(Stop, match=r"agreement math-app .*revoked"):
        next(under_agreement(vendor))
    assert vendor.broker.group("schoolbus.vendor.math-app.vendor").members == []


def test_a_password_that_counts_no_more_is_said(
    vendor: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Expired(Member):
        """A member whose user was deleted: librdkafka reports it beside the messages."""

        def poll(self, timeout: float) -> Any:
            self._config["error_cb"](SimpleNamespace(code=lambda: KafkaError._AUTHENTICATION))

    monkeypatch.setattr("bus.subscription.Consumer", partial(Expired, vendor.broker))
    with pytest.raises(Stop, match="credentials were replaced"):
        next(under_agreement(vendor))


# A vendor that was away for too long


PLACE = (TOPIC, 0)
VENDORS_GROUP = "schoolbus.vendor.math-app.vendor"


def pass_days(bus: Bus, days: float) -> None:
    bus.broker.clock.now += days * 86_400


def write(bus: Bus, *ids: str) -> None:
    for one in ids:
        record = {"sourcedId": one, "status": "active", "grades": ["07"]}
        value = vendor_encoder("grades").encode(record)
        bus.broker.append(TOPIC, 0, key=one.encode(), value=value, headers=[])


def keys(events: Any) -> list[str]:
    return [event.key for event in events]


def plain(bus: Bus, offset: int) -> None:
    """Commit as a program with another Kafka client does: without metadata."""
    bus.broker.group(VENDORS_GROUP).committed[PLACE] = offset
    bus.broker.group(VENDORS_GROUP).metadata.pop(PLACE, None)


def test_who_left_messages_unread_for_too_long_must_start_anew(vendor: Bus) -> None:
    assert keys(under_agreement(vendor)) == ["pa", "pa", "pb"]
    write(vendor, "pd")
    pass_days(vendor, 31)
    write(vendor, "pe")
    with pytest.raises(Stop) as stopped:
        next(under_agreement(vendor))
    for words in ("agreement math-app", "30 days", TOPIC, "elete everything", "anew=True"):
        assert words in str(stopped.value)
    assert vendor.broker.group(VENDORS_GROUP).committed == {PLACE: 4}
    assert vendor.broker.group(VENDORS_GROUP).members == []
    assert keys(under_agreement(vendor, anew=True)) == ["pa", "pa", "pb", "pd", "pe"]
    write(vendor, "pf")
    assert keys(under_agreement(vendor)) == ["pf"]


@pytest.mark.parametrize(("days", "stops"), [(29.9, False), (30.1, True)])
def test_the_limit_holds_for_other_clients_too(vendor: Bus, days: float, stops: bool) -> None:
    plain(vendor, 3)
    pass_days(vendor, days)
    if stops:
        with pytest.raises(Stop, match="unread for more than 30 days"):
            next(under_agreement(vendor))
    else:
        assert keys(under_agreement(vendor)) == []


def test_nothing_unread_is_never_too_late(vendor: Bus) -> None:
    plain(vendor, 4)
    pass_days(vendor, 400)
    assert keys(under_agreement(vendor)) == []
    write(vendor, "pd")
    assert keys(under_agreement(vendor)) == ["pd"]


def test_a_deletion_that_kafka_has_removed_counts(vendor: Bus) -> None:
    plain(vendor, 2)
    for offset in (2, 3):
        vendor.broker.compact(TOPIC, 0, offset)
    pass_days(vendor, 31)
    write(vendor, "pd")
    with pytest.raises(Stop, match="anew=True"):
        next(under_agreement(vendor))


def test_the_first_read_of_old_messages_may_be_interrupted(vendor: Bus) -> None:
    """They are older than 30 days, and yet the group has missed nothing."""
    pass_days(vendor, 100)
    for _ in range(2):
        first = under_agreement(vendor)
        next(first), next(first)
        first.close()
        pass_days(vendor, 10)
    assert vendor.broker.group(VENDORS_GROUP).committed == {PLACE: 2}
    pass_days(vendor, 11)
    with pytest.raises(Stop, match="anew=True"):
        next(under_agreement(vendor))
    # The same holds for a read with `anew`, which continues without it.
    again = under_agreement(vendor, anew=True)
    next(again)
    again.close()
    assert keys(under_agreement(vendor)) == ["pa", "pa", "pb"]


def written_again(bus: Bus) -> None:
    """Write a topic again and delete the earlier records, as after a change of an agreement."""
    log = bus.broker.log(PLACE)
    end = len(log.entries)
    write(bus, "pa")
    log.entries[:end] = [None] * end
    log.low = end


@pytest.mark.parametrize(("away", "stops"), [(2, False), (31, True)])
def test_a_topic_that_was_written_again_while_the_program_was_away(
    vendor: Bus, away: int, stops: bool
) -> None:
    """Kafka no longer says how old the unread messages were."""
    keys(under_agreement(vendor))
    pass_days(vendor, 100)
    assert keys(under_agreement(vendor)) == []  # nothing came, but the group has read to the end
    write(vendor, "pd")
    pass_days(vendor, away)
    written_again(vendor)
    if stops:
        with pytest.raises(Stop, match="anew=True"):
            next(under_agreement(vendor))
    else:
        assert keys(under_agreement(vendor)) == ["pa"]


def test_a_program_that_waits_for_messages_commits_once_a_day_that_it_reads(vendor: Bus) -> None:
    events = subscribe("student", agreement="math-app", group=GROUP, settings=vendor.settings)
    assert [next(events).key for _ in range(3)] == ["pa", "pa", "pb"]
    group = vendor.broker.group(VENDORS_GROUP)
    seen = []

    def six_hours_later() -> None:
        seen.append(group.metadata[PLACE])
        if len(seen) > 12:
            write(vendor, "pd")
        else:
            pass_days(vendor, 0.25)
            vendor.broker.clock.after(5, six_hours_later)

    vendor.broker.clock.after(5, six_hours_later)
    assert next(events).key == "pd"
    assert len(set(seen)) == 4  # at the first end, and on three days after it


def test_anew_works_without_an_agreement_and_nothing_is_checked_there(bus: Bus) -> None:
    assert ids(reading(bus)) == ["s1", "s2"]
    bus.publish("student", "s3")
    pass_days(bus, 400)
    assert ids(reading(bus)) == ["s3"]
    assert ids(reading(bus, anew=True)) == ["s1", "s2", "s3"]
    assert ids(reading(bus)) == []
    assert set(bus.broker.group("schoolbus.vendor").metadata.values()) == {None}


def test_a_partition_that_comes_back_does_not_begin_anew_again(vendor: Bus) -> None:
    events = subscribe(
        "student", agreement="math-app", group=GROUP, settings=vendor.settings, anew=True
    )
    assert [next(events).key, next(events).key] == ["pa", "pa"]
    group = vendor.broker.group(VENDORS_GROUP)
    (member,) = group.members
    member.lose()
    assert next(events).key == "pb"


# When the bus does not answer

FIVE_LINES = """
from bus import subscribe

for event in subscribe("student", group="lunch", until_caught_up=True):
    print(event.record["sourcedId"])
"""


def ended(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=env | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_with_the_bus_down_it_says_one_line(tmp_path: Path) -> None:
    done = ended(FIVE_LINES, tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"error: the bus in {tmp_path / '.bus'} is not up: run `bus up`\n"
    assert done.stdout == ""


def test_a_wrong_address_is_said_within_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    done = ended(FIVE_LINES, tmp_path, BUS_KAFKA__BOOTSTRAP="127.0.0.1:1")
    assert time.monotonic() - began < 30  # 5 s, and the start of Python on a busy machine
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Connection refused" in done.stderr


@pytest.mark.parametrize(
    "more",
    [
        "sys.excepthook = lambda *_: print('mine', file=sys.stderr)",
        "try: next(subscribe('student', group='x'))\nexcept Exception as e: print('mine', file=sys.stderr)\n1/0",
    ],
)
def test_a_scripts_own_errors_are_shown_as_ever(tmp_path: Path, more: str) -> None:
    done = ended(f"import sys\nfrom bus import subscribe\n{more}\n{FIVE_LINES}", tmp_path)
    assert done.returncode == 1
    assert "mine" in done.stderr
    assert ("ZeroDivisionError" in done.stderr) == ("1/0" in more)
