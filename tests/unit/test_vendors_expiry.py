"""The bus warns before an agreement's end. After it, the vendor attests the deletion."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from bus.errors import RetryLater, Stop
from bus.vendors import applied, attestation, end_warnings, expiry, stream_progress
from bus.vendors.district_view import DistrictView
from bus.vendors.proof import Attestation
from tests.agreements import an_agreement
from tests.fakes.harness import Bus
from tests.unit.test_disclosures import Log, Topics, writer
from tests.unit.test_vendors_applied import an_applied

NOW = datetime(2027, 8, 1, 4, 0, tzinfo=UTC)
DAY = NOW.date()
SAID = Attestation("Ann Lee, CTO", date(2027, 7, 31), "ab" * 32)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bus:
    monkeypatch.setattr("bus.vendors.applied.today", lambda: DAY)
    return Bus(monkeypatch, home=tmp_path)


@pytest.mark.parametrize(
    ("day", "reached"),
    [
        (date(2027, 6, 30), None),
        (date(2027, 7, 1), 30),
        (date(2027, 7, 23), 30),
        (date(2027, 7, 24), 7),
        (date(2027, 7, 29), 7),
        (date(2027, 7, 30), 1),
        (date(2027, 7, 31), 1),
        (date(2027, 8, 1), None),
    ],
)
def test_a_threshold_is_due_until_the_next_one(day: date, reached: int | None) -> None:
    assert end_warnings.threshold(an_agreement(), day) == reached


def test_an_agreement_that_has_not_begun_gives_no_warning() -> None:
    short = an_agreement(**{"from": date(2027, 7, 20)})
    assert end_warnings.threshold(short, date(2027, 7, 19)) is None
    assert end_warnings.threshold(short, date(2027, 7, 20)) == 30


def test_a_warning_is_given_once_and_again_for_another_day() -> None:
    con = DistrictView(None, "test", MagicMock()).con
    assert not end_warnings.warned(con, "math-app", "2027-07-31 30")
    assert end_warnings.warned(con, "math-app", "2027-07-31 30")
    assert not end_warnings.warned(con, "library", "2027-07-31 30")
    assert not end_warnings.warned(con, "math-app", "2027-07-31 7")
    assert not end_warnings.warned(con, "math-app", "2028-07-31 7")


def test_the_file_forgets_agreements_that_ended_while_nothing_ran() -> None:
    con = DistrictView(None, "test", MagicMock()).con
    for name in ("a", "b", "c"):
        for student in ("s1", "s2"):
            con.execute("INSERT INTO cohort VALUES (?, ?, 0, NULL, NULL)", [name, student])
    con.execute("INSERT INTO need VALUES ('d', 'class', 'c1', 1)")
    stream_progress.forget_others(con, ["b"])
    left = con.execute("SELECT agreement, student FROM cohort").fetchall()
    assert left == [("b", "s1"), ("b", "s2")]
    assert con.execute("SELECT count(*) FROM need").fetchone() == (0,)


def test_the_end_is_settled_once(bus: Bus) -> None:
    applied.write(bus.settings, an_applied(), an_applied("library", until=date(2028, 7, 31)))
    topics = Topics()
    assert expiry.unsettled(applied.read(bus.settings).values(), DAY) == ["math-app"]
    for _ in range(2):
        record = writer(Log(topics))
        one = expiry.settle(bus.settings, "math-app", DAY, NOW, record)
        assert (one.state, one.closed, one.ended_at) == ("ended", "ended", NOW)
    # Another process that had read it before does the same.
    expiry.close(bus.settings, an_applied(), DAY, NOW, writer(Log(topics)))
    assert [entry["what"] for entry in topics.decoded()] == ["ended"]
    assert expiry.unsettled(applied.read(bus.settings).values(), DAY) == []
    library = expiry.settle(bus.settings, "library", DAY, NOW, writer(Log(topics)))
    assert library.state == "active"


def test_a_revocation_that_was_interrupted_is_completed(bus: Bus) -> None:
    applied.write(bus.settings, replace(an_applied(), state="ended", closed="ended"))
    revoked = replace(an_applied(), state="revoked", why="a breach", ended_at=NOW)
    applied.write(bus.settings, revoked)
    assert expiry.unsettled(applied.read(bus.settings).values(), DAY) == ["math-app"]
    topics = Topics()
    one = expiry.settle(bus.settings, "math-app", DAY, NOW, writer(Log(topics)))
    assert one.closed == "revoked"
    (entry,) = topics.decoded()
    assert (entry["what"], entry["why"]) == ("revoked", "a breach")


def test_a_revocation_is_recorded_although_the_users_are_not_shut_out(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied.write(bus.settings, an_applied())
    topics = Topics()

    def revoke() -> applied.Applied:
        record = writer(Log(topics))
        return expiry.revoke(bus.settings, "math-app", "a breach", NOW, record)

    def refused(*_: object) -> list[str]:
        raise Stop("Kafka refuses")

    with monkeypatch.context() as failing:
        failing.setattr("bus.vendors.vendor_access.shut_out", refused)
        with pytest.raises(Stop, match="its users are not shut out: Kafka refuses"):
            revoke()
    (entry,) = topics.decoded()
    assert (entry["what"], entry["why"]) == ("revoked", "a breach")
    assert applied.read(bus.settings)["math-app"].closed == ""
    assert revoke().closed == "revoked"
    assert len(topics.decoded()) == 1
    with pytest.raises(Stop, match="no agreement library was applied"):
        expiry.revoke(bus.settings, "library", "a breach", NOW, writer(Log(topics)))


def test_the_failure_of_one_end_does_not_stop_the_others(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("art", "library", "math-app")
    applied.write(bus.settings, *map(an_applied, names))

    def shut_out(_: object, name: str) -> list[str]:
        if name == "library":
            raise RetryLater("Kafka does not answer")
        return [f"close {name}"]

    monkeypatch.setattr("bus.vendors.vendor_access.shut_out", shut_out)
    topics, said = Topics(), []
    record = writer(Log(topics))
    deleted, failures = expiry.settle_all(bus.settings, DAY, NOW, record, said.append)
    assert deleted == [] and ["Kafka does not answer" in str(one) for one in failures] == [True]
    assert said == ["close art", "close math-app"]
    stored = applied.read(bus.settings)
    assert [(stored[name].state, stored[name].closed) for name in names] == [
        ("ended", "ended"),
        ("ended", ""),
        ("ended", "ended"),
    ]
    assert [entry["agreement"] for entry in topics.decoded("ended")] == list(names)


def test_an_end_without_an_answer_from_kafka_is_not_complete(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied.write(bus.settings, an_applied())
    record = MagicMock()
    record.ended.side_effect = RetryLater("Kafka does not answer")
    with pytest.raises(RetryLater):
        expiry.settle(bus.settings, "math-app", DAY, NOW, record)
    stored = applied.read(bus.settings)
    assert (stored["math-app"].state, stored["math-app"].closed) == ("ended", "")
    assert expiry.unsettled(stored.values(), DAY) == ["math-app"]


# ---- the vendor's attestation --------------------------------------------------------------------


def test_an_attestation_is_stored_and_recorded_once(bus: Bus) -> None:
    applied.write(bus.settings, replace(an_applied(), state="ended", ended_at=NOW))
    topics = Topics()
    for new in (True, False):
        record = writer(Log(topics))
        one, was = attestation.attest(bus.settings, "math-app", SAID, DAY, NOW, record)
        assert was is new and one.attestation == SAID
    (entry,) = topics.decoded("attested")
    assert (entry["by"], entry["statement"]) == (SAID.by, f"sha256:{SAID.document}")
    assert applied.read(bus.settings)["math-app"].attestation == SAID
    other = replace(SAID, by="Bob")
    with pytest.raises(Stop, match="was attested before, on 2027-07-31"):
        attestation.attest(bus.settings, "math-app", other, DAY, NOW, MagicMock())


def test_an_attestation_that_was_interrupted_is_recorded_by_the_next(bus: Bus) -> None:
    applied.write(bus.settings, replace(an_applied(), state="ended", ended_at=NOW))
    record = MagicMock()
    record.attested.side_effect = RetryLater("Kafka does not answer")
    with pytest.raises(RetryLater):
        attestation.attest(bus.settings, "math-app", SAID, DAY, NOW, record)
    topics = Topics()
    attestation.attest(bus.settings, "math-app", SAID, DAY, NOW, writer(Log(topics)))
    assert len(topics.decoded("attested")) == 1


@pytest.mark.parametrize(
    ("said", "day", "text"),
    [
        (SAID, date(2027, 7, 31), "is active until 2027-07-31"),
        (replace(SAID, on=date(2027, 8, 2)), DAY, "is in the future"),
        (replace(SAID, on=date(2027, 7, 30)), DAY, "before the end of math-app on 2027-07-31"),
        (replace(SAID, by=" "), DAY, "--by WHO"),
    ],
)
def test_an_attestation_that_proves_nothing_is_refused(
    bus: Bus, said: Attestation, day: date, text: str
) -> None:
    applied.write(bus.settings, an_applied())
    with pytest.raises(Stop, match=text):
        attestation.attest(bus.settings, "math-app", said, day, NOW, MagicMock())
    assert applied.read(bus.settings)["math-app"].attestation is None


def test_the_document_is_kept_as_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "attestation.pdf"
    file.write_bytes(b"signed")
    assert attestation.sha256_of(file) == sha256(b"signed").hexdigest()
    with pytest.raises(Stop, match=r"attestation\.doc cannot be read"):
        attestation.sha256_of(tmp_path / "attestation.doc")
