"""After the agreed days, the bus deletes what it has for a vendor, whatever interrupts it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bus.errors import RetryLater, Stop
from bus.kafka import access, removal
from bus.registry.registry_client import RegistryClient
from bus.settings import KafkaSettings
from bus.vendors import (
    applied,
    certificate_page,
    deletion,
    expiry,
    registry_tokens,
    vendor_access,
    vendor_topics,
)
from bus.vendors.applied import Applied
from bus.vendors.district_view import PROJECTION_TABLES, DistrictView, file_of
from bus.vendors.outbox_rows import OutboxRows, OutgoingBatch
from bus.vendors.proof import Attestation
from bus.vendors.scope import compile_scope
from tests.fakes.harness import Bus
from tests.fakes.registry import FakeRegistry
from tests.unit.test_disclosures import Log, Topics, writer
from tests.unit.test_vendor_access import Cluster
from tests.unit.test_vendors_applied import an_applied

NOW = datetime(2027, 8, 30, 4, 0, tzinfo=UTC)
LAST = date(2027, 7, 31)
DUE = date(2027, 8, 30)
GROUP = "schoolbus.vendor.math-app.reader"
OTHERS = ("math-app-2", "math")
VIEW_TABLES = (*PROJECTION_TABLES, "disclosed")


class Killed(BaseException):
    """The process ends here."""


class District:
    """A bus with users, a registry, a record of disclosures, and the file of the projection."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        home: Path,
        others: tuple[str, ...] = OTHERS,
        **changes: Any,
    ) -> None:
        self.bus = Bus(monkeypatch, partitions=3, home=home)
        kafka = KafkaSettings(
            bootstrap="fake:9092", security_protocol="sasl_ssl", sasl_username="own", partitions=3
        )
        self.settings = self.bus.settings.model_copy(update={"kafka": kafka})
        self.registry = FakeRegistry()
        self.cluster = Cluster(monkeypatch)
        self.record = Topics()
        monkeypatch.setattr("bus.registry.subjects.client", self.registry.client)
        monkeypatch.setattr(access, "remove_quota", lambda *_: "")
        monkeypatch.setattr("bus.vendors.applied.today", lambda: DUE)
        self.names = ("math-app", *others)
        for name in self.names:
            self.add(an_applied(name, **changes))
        DistrictView(file_of(self.settings), "mark", lambda *_: {}).close()
        self.rows("INSERT INTO cohort VALUES (?, 's1', 0, NULL, NULL)")
        self.rows("INSERT INTO progress VALUES (?, '{}')")
        self.rows("INSERT INTO need VALUES (?, 'class', 'c1', 1)")
        self.rows("INSERT INTO disclosed (agreement, student, entered) VALUES (?, 's1', 1)")
        with closing(sqlite3.connect(file_of(self.settings), isolation_level=None)) as con:
            OutboxRows(con).add(
                OutgoingBatch(name, "t", "updated", 0, [0], ["s1"], [b"{}"]) for name in self.names
            )

    def add(self, one: Applied, *, with_user: bool = True) -> None:
        """Make everything that a vendor has under an agreement."""
        for topic in self.topics_of(one).values():
            if topic not in self.bus.broker.topics:
                self.bus.broker.create(topic, 3)
            self.registry.add(f"{topic}-value", {"type": "string", "doc": topic})
        for more in ("reader", "nightly"):
            self.bus.broker.group(f"schoolbus.vendor.{one.ids_name}.{more}")
        self.bus.broker.create(f"schoolbus.deadletters.way.{one.ids_name}.webhook", 1)
        group = f"schoolbus.way.{one.ids_name}.webhook"
        self.bus.broker.group(group)
        (self.settings.home / "standing" / group / "kind").mkdir(parents=True, exist_ok=True)
        applied.write(self.settings, one)
        if with_user:
            grant = vendor_access.Grant(one.ids_name, ("t",), f"vendor.{one.ids_name}.")
            self.cluster.users[grant.users[0]] = "secret"
            access.allow(self.settings, grant.users[0], grant.topics, grant.group)
            registry_tokens.new_token(self.settings, one.ids_name, grant.users[0])

    def topics_of(self, one: Applied) -> dict[str, str]:
        scope = compile_scope(one.agreement)
        return vendor_topics.topics_by_kind(self.settings, scope, one.ids_name)

    def rows(self, statement: str) -> None:
        with closing(sqlite3.connect(file_of(self.settings), isolation_level=None)) as con:
            for name in self.names:
                con.execute(statement, [name])

    def settle(self, name: str = "math-app", day: date = DUE) -> Applied:
        return expiry.settle(self.settings, name, day, NOW, writer(Log(self.record)))

    def left(self, name: str) -> list[str]:
        """Return the names of everything that exists for a vendor, found without the bus's code."""
        broker, registry = self.bus.broker, self.registry
        own = vendor_access.users_of(name)
        users = [user for user in self.cluster.users if user in own]
        rules = [user for user in self.cluster.known if user in own]
        names = [*broker.topics, *broker.groups, *registry.subjects, *registry.deleted]
        names += [f"{folder.name}/" for folder in (self.settings.home / "standing").iterdir()]
        found = [one for one in names if f".{name}." in f"{one}."]
        tokens = [one.read_text() for one in registry_tokens.folder(self.settings).iterdir()]
        files = [one for one in tokens if json.loads(one)["ids_name"] == name]
        with closing(sqlite3.connect(file_of(self.settings))) as con:
            rows = [
                table
                for table in VIEW_TABLES
                if con.execute(f"SELECT 1 FROM {table} WHERE agreement = ?", [name]).fetchone()
            ]
            waits = any(one.agreement == name for one in OutboxRows(con).latest())
        rows += ["outbox"] if waits else []
        return [*found, *users, *rules, *files, *rows]

    @property
    def stored(self) -> dict[str, Applied]:
        return applied.read(self.settings)

    def entries(self) -> list[tuple[str, str]]:
        return [(entry["what"], entry["agreement"]) for entry in self.record.decoded()]


@pytest.fixture
def district(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> District:
    return District(monkeypatch, tmp_path)


def test_before_the_agreed_days_nothing_is_deleted(district: District) -> None:
    before = district.left("math-app")
    assert expiry.unsettled(district.stored.values(), LAST) == []
    one = district.settle(day=LAST + timedelta(days=1))
    assert (one.state, one.closed, one.certificate) == ("ended", "ended", None)
    shut = {"vendor-math-app-a"}
    left = district.left("math-app")
    assert {n for n in before if "schoolbus." in n or n in (*VIEW_TABLES, "outbox")} <= set(left)
    assert shut <= set(district.cluster.known) and not shut & set(district.cluster.users)
    assert expiry.unsettled([one], DUE - timedelta(days=1)) == []
    assert expiry.unsettled([one], DUE) == ["math-app"]


def test_every_table_with_agreements_is_one_of_which_rows_are_deleted() -> None:
    con = DistrictView(None, "mark", lambda *_: {}).con
    tables = [name for (name,) in con.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    of_agreements = {
        table
        for table in tables
        if "agreement" in [row[1] for row in con.execute(f"PRAGMA table_info({table})")]
    }
    assert of_agreements == set(VIEW_TABLES)


def test_what_is_deleted_from_the_view_is_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "view.sqlite"
    row = ("org", "o1", {"sourcedId": "o1"}, b"a name" * 2000)
    view = DistrictView(file, "mark", lambda *_: {})
    view.store([row])
    view.close()
    assert b"a name" in file.read_bytes()
    view = DistrictView(file, "mark", lambda *_: {})
    view.store([(*row[:2], None, None)])
    view.close()
    assert b"a name" not in file.read_bytes()


def test_after_the_agreed_days_everything_is_deleted_and_the_proof_stays(
    district: District,
) -> None:
    others = {name: district.left(name) for name in OTHERS}
    topics = district.topics_of(district.stored["math-app"])
    assert len(district.left("math-app")) > 20
    one = district.settle()
    assert district.left("math-app") == []
    assert {name: district.left(name) for name in OTHERS} == others
    assert one == district.stored["math-app"]
    assert (one.state, one.wrapped_key, one.deleted) == ("ended", b"", True)
    assert one.certificate is not None
    gone = one.certificate.deleted
    dead = {"schoolbus.deadletters.way.math-app.webhook": 1}
    assert gone.topics == dict.fromkeys(topics.values(), 3) | dead
    assert GROUP in gone.groups and "schoolbus.way.math-app.webhook" in gone.groups
    assert gone.users == vendor_access.users_of("math-app")
    assert gone.rules > 0
    assert set(gone.subjects) == {f"{topic}-value" for topic in topics.values()}
    assert district.entries() == [("ended", "math-app"), ("deleted", "math-app")]
    assert one.certificate.record.number == 2
    assert district.record.decoded("deleted")[0]["objects"]["groups"] == sorted(gone.groups)
    writes = len(district.bus.broker.messages("schoolbus.vendors"))
    assert district.settle() == one and expiry.unsettled([one], DUE) == []
    assert len(district.bus.broker.messages("schoolbus.vendors")) == writes


def test_the_next_run_completes_a_deletion_that_was_killed_at_any_step(tmp_path: Path) -> None:
    whole = _killed_at(tmp_path / "whole", 0)
    assert whole is not None and whole.deleted and whole.certificate is not None
    for number in range(1, 1_000):
        found = _killed_at(tmp_path / str(number), number)
        if found is None:
            break
        assert found == replace(whole, certificate=found.certificate)
        assert found.certificate is not None
        assert found.certificate.deleted == whole.certificate.deleted
        assert found.certificate.record.number == whole.certificate.record.number
    assert number > 20


def _killed_at(home: Path, at: int) -> Applied | None:
    """Return the agreement after a run that is killed before a step, and a run that is not.

    at: the number of the step; 0: none. Returns None if there is no such step.
    """
    with pytest.MonkeyPatch.context() as patch:
        district = District(patch, home, others=(), share={"categories": ["Enrollment"]})
        steps = [0]

        def wrap(owner: Any, name: str) -> None:
            original = getattr(owner, name)

            def wrapped(*arguments: Any, **more: Any) -> Any:
                steps[0] += 1
                if steps[0] == at:
                    raise Killed
                return original(*arguments, **more)

            patch.setattr(owner, name, wrapped)

        for owner, names in (
            (applied, ("_send",)),
            (access, ("deny_all", "delete_user", "remove_rules", "remove_quota")),
            (removal, ("delete_topics", "delete_groups")),
            (registry_tokens, ("remove_tokens",)),
            (RegistryClient, ("delete_subject",)),
            (deletion, ("_forget_students", "_forget_indexes")),
            (Log, ("append", "take_over")),
        ):
            for name in names:
                wrap(owner, name)
        try:
            found = district.settle()
            return found if not at else None
        except Killed:
            found = district.settle()
        assert district.left("math-app") == []
        assert district.entries() == [("ended", "math-app"), ("deleted", "math-app")]
        assert district.stored["math-app"] == found
        return found


def test_each_failure_is_reported_and_the_next_run_continues(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    district.bus.broker.group(GROUP).members.append(None)  # type: ignore[arg-type]
    with pytest.raises(RetryLater, match=f"{GROUP}: a program still reads with it"):
        district.settle()
    one = district.stored["math-app"]
    assert one.certificate is not None and not one.deleted and one.wrapped_key
    district.bus.broker.group(GROUP).members.clear()
    again = district.settle()
    assert again.certificate is not None
    assert again.certificate.deleted == one.certificate.deleted and again.deleted


def test_a_topic_that_still_exists_is_noticed(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "delete_topics", lambda *_: None)
    with pytest.raises(RetryLater, match=r"vendor\.math-app\.enrollment.* still exist"):
        district.settle()
    assert not district.stored["math-app"].deleted
    assert ("deleted", "math-app") not in district.entries()


def test_a_renewal_keeps_what_it_shares(district: District) -> None:
    later = {"from": date(2027, 8, 1), "until": date(2028, 7, 31), "renews": "math-app"}
    narrower = {"categories": ["Enrollment"]}
    renewal = replace(an_applied("math-3", share=narrower, **later), ids_name="math-app")
    district.add(renewal, with_user=False)
    kept = set(district.topics_of(renewal).values())
    gone = set(district.topics_of(district.stored["math-app"]).values()) - kept
    assert kept and gone
    one = district.settle()
    assert one.deleted and one.wrapped_key == b"" and one.certificate is not None
    assert one.certificate.kept_for == ("math-3",)
    assert set(one.certificate.deleted.topics) == gone
    assert one.certificate.deleted.groups == one.certificate.deleted.users == ()
    left = district.left("math-app")
    assert kept | {GROUP, "vendor-math-app-a"} <= set(left) and not gone & set(left)
    assert {f"{topic}-value" for topic in kept} <= set(district.registry.subjects)
    assert district.stored["math-3"].wrapped_key
    assert "math-3 takes it over" in certificate_page.text(one)
    # The end of the renewal deletes the rest.
    after = date(2028, 9, 1)
    assert district.settle("math-3", after).deleted
    assert district.left("math-app") == []


def test_the_certificate_keeps_the_reason_of_an_early_deletion(district: District) -> None:
    log = writer(Log(district.record))
    with pytest.raises(Stop, match="math-app is active: end it first"):
        deletion.delete(district.settings, "math-app", NOW, log, early="a breach")
    day = LAST + timedelta(days=1)
    district.settle(day=day)
    one = deletion.delete(district.settings, "math-app", NOW, log, early="a breach")
    assert one.deleted and one.certificate is not None and one.certificate.early == "a breach"
    assert deletion.delete(district.settings, "math-app", NOW, log) == one


def test_the_administrator_of_the_cluster_is_asked_to_delete_users(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    district.cluster.managed = False
    said: list[str] = []
    log = writer(Log(district.record))
    one = expiry.settle(district.settings, "math-app", DUE, NOW, log, said.append)
    assert one.deleted and one.certificate is not None
    (note,) = one.certificate.by_others
    assert "--remove --deny-principal User:vendor-math-app-b --operation All" in note
    assert "--remove --allow-principal User:vendor-math-app-a" in note
    assert "--topic schoolbus.vendor.math-app.enrollment" in note
    assert note.count(" --force") == note.count("kafka-acls.sh") == 6
    assert note in said and len(said) == 2  # the first one asks to shut the users out
    assert "Asked of the people who run the cluster" in certificate_page.text(one)


def test_a_command_that_had_read_the_topic_earlier_removes_no_proof(district: District) -> None:
    before = replace(district.stored["math-app"], state="ended", ended_at=NOW)
    said = Attestation("Ann", date(2027, 8, 20))
    after = district.settle()
    applied.write(district.settings, replace(before, attestation=said))
    one = district.stored["math-app"]
    assert one == replace(after, attestation=said)
    last = json.loads(district.bus.broker.messages("schoolbus.vendors")[-1].value() or b"")
    assert last["wrappedKey"] == "" and last["certificate"] and last["attestation"]


def test_the_certificate_has_the_proof_and_no_student(district: District) -> None:
    one = district.settle()
    found = certificate_page.as_json(one)
    assert found["keyDeleted"] and found["fingerprint"] == one.fingerprint
    assert found["document"]["sha256"] == "0" * 64
    assert found["deletion"]["record"]["number"] == 2
    assert (found["attestation"], found["attestationDue"]) == (None, "2027-09-29")
    text = certificate_page.text(one)
    assert "topics with" in text and "Not received; due on 2027-09-29" in text
    attested = replace(one, attestation=Attestation("Ann", date(2027, 9, 1), "ab" * 32))
    page = certificate_page.markdown(attested)
    assert page.startswith("# Certificate of deletion: Example Math\n")
    assert f"By Ann on 2027-09-01 (SHA-256 of the document {'ab' * 32})" in page
    assert "s1" not in json.dumps(found) + text


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as con:
        con.execute("BEGIN IMMEDIATE")
        yield


def test_a_file_in_use_is_tried_again(district: District, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **b: connect(*a, timeout=0.01, **b))
    with locked(file_of(district.settings)), pytest.raises(RetryLater, match="run the command"):
        district.settle()
    assert district.settle().deleted


def test_on_a_bus_without_users_no_user_is_deleted(district: District) -> None:
    district.settings = district.bus.settings
    one = district.settle()
    assert one.deleted and one.certificate is not None and one.certificate.deleted.users == ()
