"""While a vendor's topics are written again, decisions about students take effect at once.

Each test changes an agreement. Before the topics are written again, or in the middle of it, it looks
at what is sent.
"""

from __future__ import annotations

import json
import pickle
from typing import Any
from unittest.mock import MagicMock

import pytest

from bus.delivery import Position
from bus.errors import RetryLater
from bus.settings import KafkaSettings, Settings
from bus.standard.kinds import Record
from bus.vendors import agreement_streams, vendor_stream
from bus.vendors.agreement import parse
from bus.vendors.agreement_streams import AgreementStreams
from bus.vendors.applied import as_table
from bus.vendors.district_view import DistrictView
from bus.vendors.outbox import Outbox
from bus.vendors.pseudonyms import Pseudonyms
from bus.vendors.record_rules import Change
from bus.vendors.shard import Shard
from tests.unit.test_vendor_outbox import NoKafka
from tests.unit.test_vendor_projection import DAY, SOME, agreement, opt_out, record
from tests.without_services import KEY, applied, without_services

EARLIER_KEY = bytes(range(1, 65))
OF_A = {("student", "a"), ("enrollment", "e1"), ("result", "r1")}
OF_B = {("student", "b"), ("enrollment", "e2")}
NAMES_ONLY = {"share": {"categories": ["Student Name"]}}
GRADE_6 = {"students": {"grades": ["06"]}}
STEPS: list[str] = []
"""What was done about a vendor's access."""


class Vendor:
    """The projection of one agreement, in the file of a view, with a Kafka that keeps what it gets.

    All records are in its topics. Each partition is the only one of its topic.
    """

    def __init__(self, **deal: Any) -> None:
        self.view = DistrictView(None, "test", lambda _, value: pickle.loads(value))
        self.settings = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))
        self.records: dict[tuple[str, str], Record] = {}
        self.restart()
        self.change(*((kind, id_, record(kind, id_, **values)) for kind, id_, values in SOME))
        self.agree(**deal)
        while self.streams.unfinished:
            self.streams.go_on(DAY)
        self.sent()

    def restart(self) -> None:
        """Kill the projection, and start it again with the same file."""
        self.outbox = Outbox(self.settings, self.view, MagicMock())
        record = MagicMock(**{"students.return_value": {}})
        self.streams = AgreementStreams(
            self.settings, self.view, self.outbox, record, 1, lambda: 0.0
        )

    def change(self, *rows: tuple[str, str, Record | None], send: bool = True) -> None:
        """Take changes of the district."""
        with self.streams.batch():
            changes = []
            for kind, id_, after in rows:
                changes.append(Change(kind, id_, self.records.get((kind, id_)), after))
                self.records.pop((kind, id_), None)
                if after is not None:
                    self.records[kind, id_] = after
            self.view.store(
                (one.kind, one.id, one.after, pickle.dumps(one.after) if one.after else None)
                for one in changes
            )
            self.streams.take(changes, DAY)
        if send:
            self.streams.begin_sending()

    def agree(self, *, new: bool = True, more: Any = None, **deal: Any) -> None:
        """Change the agreement; the projection hears of it."""
        one = applied(agreement(**deal), **(more or {}))
        self.streams.follow({"math": one}, DAY, new=new)

    def start(self, **deal: Any) -> None:
        """Start again, and read everything in the topics before anything else."""
        self.restart()
        self.agree(new=False, **deal)
        self.agree(**deal)
        self.streams.next_day(["math"], DAY)
        self.streams.begin_sending()

    def look_at_all(self) -> None:
        """Look at the whole earlier cohort, and write nothing again."""
        while self.streams._streams["math"].progress.checked is not None:
            self.streams.go_on(DAY)

    def sent(self) -> list[tuple[str, str, Record | None]]:
        """Return what Kafka got since the last call: kind, id, and the record or None."""
        self.streams.confirm()
        kafka: Any = self.outbox._producer
        found = [
            (topic.rpartition(".")[2], key, pickle.loads(value) if value else None)
            for topic, value, key, _ in kafka.sent
            if topic != "flushed"
        ]
        kafka.sent.clear()
        return found

    def deleted(self) -> set[tuple[str, str]]:
        """Return what was deleted since the last call. Nothing else was sent."""
        sent = self.sent()
        assert [one for one in sent if one[2] is not None] == []
        return {(kind, id_) for kind, id_, _ in sent}


@pytest.fixture(autouse=True)
def no_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Position("schoolbus.vendor.math.student", 0)
    without_services(monkeypatch, NoKafka, ends=lambda *_: {place: 9})
    keys = {b"now": KEY, b"earlier": EARLIER_KEY}
    monkeypatch.setattr(vendor_stream, "unwrapped", lambda key, _: keys[key])
    streams = agreement_streams
    monkeypatch.setattr(streams.written_editions, "note", lambda *_: STEPS.append("noted"))
    monkeypatch.setattr(streams.revocation, "correct_access", lambda *_: STEPS.append("opened"))
    STEPS.clear()


def test_an_opt_out_deletes_a_student_who_is_not_written_again_yet() -> None:
    vendor = Vendor()
    vendor.agree(**NAMES_ONLY)
    vendor.change(("optOut", "o", opt_out("b")))
    assert vendor.deleted() == OF_B


def test_whom_the_changed_agreement_excludes_is_deleted_first() -> None:
    vendor = Vendor()
    vendor.agree(**GRADE_6)
    vendor.look_at_all()
    assert vendor.deleted() == OF_B


def test_a_deletion_that_was_not_sent_yet_is_sent_after_a_change_of_the_agreement() -> None:
    vendor = Vendor()
    vendor.change(("optOut", "o", opt_out("b")), send=False)
    vendor.start(**NAMES_ONLY)
    assert vendor.deleted() >= OF_B


def test_a_deletion_that_was_not_sent_yet_is_sent_after_a_second_change() -> None:
    vendor = Vendor()
    vendor.agree(**GRADE_6)
    with vendor.streams.batch():
        stream = vendor.streams._streams["math"]
        vendor.streams._add(stream.go_on(DAY, vendor.outbox))
    vendor.start(**(GRADE_6 | NAMES_ONLY))
    assert vendor.deleted() == OF_B


def test_two_changes_in_a_row_delete_whom_the_last_one_excludes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vendor_stream, "SLICE", 1)
    vendor = Vendor()
    vendor.agree(**NAMES_ONLY)
    vendor.look_at_all()
    vendor.streams.go_on(DAY)  # a is written again
    vendor.sent()
    vendor.agree(**GRADE_6)
    vendor.look_at_all()
    assert vendor.deleted() == OF_B
    vendor.change(("optOut", "o", opt_out("a")))
    assert vendor.deleted() >= OF_A


def test_a_kill_in_the_middle_forgets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendor_stream, "SLICE", 1)
    vendor = Vendor()
    vendor.agree(**NAMES_ONLY)
    vendor.look_at_all()
    vendor.streams.go_on(DAY)
    vendor.sent()
    vendor.restart()
    vendor.agree(new=False, **NAMES_ONLY)
    vendor.change(("optOut", "o", opt_out("b")), ("optOut", "p", opt_out("a")), send=False)
    vendor.agree(**NAMES_ONLY)
    vendor.streams.begin_sending()
    assert vendor.deleted() >= OF_A | OF_B


def test_a_consent_that_was_erased_while_nothing_ran_deletes_the_student() -> None:
    consent = opt_out("b", "vendor", decision="allow", decidedBy="parent", vendor="Sunny Math")
    vendor = Vendor(basis="consent")
    vendor.change(("optOut", "o", consent))
    assert ("student", "b") in {one[:2] for one in vendor.sent()}
    vendor.restart()
    vendor.agree(new=False, basis="consent", **NAMES_ONLY)
    vendor.change(("optOut", "o", None), send=False)
    vendor.agree(basis="consent", **NAMES_ONLY)
    vendor.look_at_all()
    assert vendor.deleted() == OF_B


def test_an_erased_student_is_deleted_with_all_records() -> None:
    vendor = Vendor()
    vendor.agree(**NAMES_ONLY)
    vendor.change(("student", "b", None), ("enrollment", "e2", None))
    assert vendor.deleted() == OF_B


def test_an_opt_out_also_deletes_what_was_erased_before_it() -> None:
    vendor = Vendor()
    vendor.agree(**NAMES_ONLY)
    vendor.change(("enrollment", "e2", None))
    assert vendor.deleted() == set()
    vendor.change(("optOut", "o", opt_out("b")))
    assert vendor.deleted() == OF_B


def test_a_record_that_has_moved_to_another_student_is_not_deleted() -> None:
    students = {"students": {"schools": ["s1"], "leave_after": 7}}
    vendor = Vendor(**students)
    left = record("student", "a", orgSourcedIds=["s2"], grades=["06"], agentSourcedIds=["g"])
    vendor.change(("student", "a", left))
    vendor.sent()
    vendor.agree(**students, document={"title": "another", "sha256": "1" * 64})
    moved = vendor.records["result", "r1"] | {"studentSourcedId": "b"}
    vendor.change(("result", "r1", moved))
    assert vendor.deleted() == OF_A - {("result", "r1")}


@pytest.mark.parametrize("identifiers", ["pseudonyms", "real"])
def test_the_ids_are_those_of_the_earlier_agreement(identifiers: str) -> None:
    other = {"pseudonyms": "real", "real": "pseudonyms"}[identifiers]
    vendor = Vendor(identifiers=identifiers)
    vendor.agree(identifiers=other)
    vendor.change(("optOut", "o", opt_out("b")))
    ids = Pseudonyms(KEY).pseudonym if identifiers == "pseudonyms" else str
    assert vendor.deleted() == {(kind, ids(id_)) for kind, id_ in OF_B}


def test_after_a_rekey_the_ids_are_the_earlier_ones() -> None:
    vendor = Vendor(identifiers="pseudonyms", **NAMES_ONLY)
    rekeyed = {"rekeyed": 1, "earlier_key": b"earlier"}
    vendor.agree(identifiers="pseudonyms", more=rekeyed, **NAMES_ONLY)
    vendor.change(("optOut", "o", opt_out("b")))
    assert vendor.deleted() == {("student", Pseudonyms(EARLIER_KEY).pseudonym("b"))}


def test_after_two_rekeys_the_first_ids_are_not_known_any_more() -> None:
    vendor = Vendor(identifiers="pseudonyms", **NAMES_ONLY)
    vendor.agree(identifiers="pseudonyms", more={"rekeyed": 2}, **NAMES_ONLY)
    vendor.change(("optOut", "o", opt_out("b")))
    assert vendor.deleted() == set()
    assert vendor.streams._streams["math"]._earlier.after("", 9) == []


def test_a_file_of_an_earlier_version_is_taken_over() -> None:
    vendor = Vendor()
    ((body,),) = vendor.view.con.execute("SELECT body FROM progress").fetchall()
    row = json.loads(body)
    for name in ("agreement", "earlier", "checked"):
        del row[name]
    vendor.view.con.execute("UPDATE progress SET body = ?", [json.dumps(row)])
    vendor.start()
    vendor.agree(**GRADE_6)
    vendor.look_at_all()
    assert vendor.deleted() == OF_B


def test_a_renewal_deletes_whom_it_excludes() -> None:
    vendor = Vendor()
    ended = applied(agreement(), state="ended")
    table = as_table(agreement(**GRADE_6)) | {"name": "math-2", "renews": "math"}
    renewal = applied(parse("math-2", table, "test"))
    vendor.restart()
    agreements = {"math": ended, "math-2": renewal}
    for new in (False, True):
        vendor.streams.follow(agreements, DAY, new=new)
    vendor.streams.next_day(["math-2"], DAY)
    vendor.streams.go_on(DAY)
    assert vendor.deleted() == OF_B
    vendor.change(("optOut", "o", opt_out("a")))
    assert vendor.deleted() == OF_A
    names = vendor.view.con.execute("SELECT agreement FROM progress").fetchall()
    assert names == [("math-2",)]


def test_a_renewal_that_begins_while_the_projection_runs_deletes_whom_it_excludes() -> None:
    vendor = Vendor()
    table = as_table(agreement(**GRADE_6)) | {"name": "math-2", "renews": "math"}
    agreements = {
        "math": applied(agreement(), state="ended"),
        "math-0": applied(parse("math-0", table | {"name": "math-0"}, "test"), state="ended"),
        "math-2": applied(parse("math-2", table, "test")),
    }
    vendor.streams.follow(agreements, DAY, new=True)
    vendor.streams.go_on(DAY)
    assert vendor.deleted() == OF_B


# ---- the access, which is closed until the topics are written ------------------------------------

NARROWED = {"more": {"narrowed": True}, **NAMES_ONLY}


def write_all(vendor: Vendor) -> None:
    while vendor.streams.unfinished:
        vendor.streams.go_on(DAY)


def test_the_access_is_opened_when_the_topics_are_written() -> None:
    vendor = Vendor()
    assert STEPS == ["noted"], "it was not narrowed"
    STEPS.clear()
    vendor.agree(**NARROWED)
    vendor.look_at_all()
    assert STEPS == []
    write_all(vendor)
    assert STEPS == ["noted", "opened"]


def test_a_start_opens_what_a_kill_has_left_closed() -> None:
    vendor = Vendor()
    vendor.agree(**NARROWED)
    vendor.restart()
    STEPS.clear()
    vendor.agree(new=False, **NARROWED)
    assert STEPS == [], "the topics are not written yet"
    write_all(vendor)
    vendor.restart()
    STEPS.clear()
    vendor.agree(new=False, **NARROWED)
    vendor.agree(**NARROWED)
    assert STEPS == ["opened"]


def test_an_access_that_is_not_opened_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vendor = Vendor()

    def refuse(*_: Any) -> None:
        raise RetryLater("Kafka does not answer")

    monkeypatch.setattr(agreement_streams.revocation, "correct_access", refuse)
    vendor.agree(**NARROWED)
    write_all(vendor)
    assert vendor.streams.names == ["math"] and not vendor.streams.unfinished


def test_a_shard_of_students_opens_nothing() -> None:
    vendor = Vendor()
    vendor.agree(**NARROWED)
    write_all(vendor)
    STEPS.clear()
    vendor.streams._shard = Shard(1, 2)
    vendor.streams._let_read(vendor.streams._streams["math"])
    assert STEPS == []
