"""A revocation first stores the state, and then shuts the vendor's users out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from bus.errors import RetryLater
from bus.settings import KafkaSettings, Settings
from bus.vendors import applied, registry_tokens, vendor_access
from bus.vendors.expiry import close
from bus.vendors.revocation import revoke
from tests.agreements import DAY
from tests.fakes.harness import Bus
from tests.unit.test_vendors_applied import an_applied

NOW = datetime(2026, 11, 28, 4, 0, tzinfo=UTC)
A, B = "vendor-math-app-a", "vendor-math-app-b"


class Cluster:
    """A cluster with users; it records what is done to them, and may refuse."""

    def __init__(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        kafka = KafkaSettings(
            bootstrap="fake:9092",
            security_protocol="sasl_ssl",
            sasl_mechanism="SCRAM-SHA-512",
            partitions=1,
        )
        self.settings = bus.settings.model_copy(update={"kafka": kafka})
        self.done: list[tuple[str, str]] = []
        self.refuses = False
        monkeypatch.setattr("bus.kafka.access.users", lambda _: set())
        for what in ("deny_all", "delete_user"):
            monkeypatch.setattr(f"bus.kafka.access.{what}", self._step(what))

    def _step(self, what: str) -> Any:
        def step(_: Any, user: str) -> None:
            stored = applied.read(self.settings)["math-app"]
            assert stored.state != "active", "the projection must stop first"
            if self.refuses:
                raise RetryLater("Kafka does not answer")
            self.done.append((what, user))

        return step


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cluster:
    monkeypatch.setattr("bus.vendors.applied.today", lambda: DAY)
    found = Cluster(Bus(monkeypatch, home=tmp_path), monkeypatch)
    applied.write(found.settings, an_applied())
    return found


OUT = [("deny_all", A), ("deny_all", B), ("delete_user", A), ("delete_user", B)]


def test_both_users_are_denied_and_then_deleted(cluster: Cluster) -> None:
    token = registry_tokens.new_token(cluster.settings, "math-app", A)
    other = registry_tokens.new_token(cluster.settings, "library", "vendor-library-a")
    revoke(cluster.settings, "math-app", "a breach", NOW)
    assert cluster.done == OUT
    assert registry_tokens.owner_of(cluster.settings, token) is None
    assert registry_tokens.owner_of(cluster.settings, other) is not None


def test_the_end_also_denies_and_deletes_both_users(cluster: Cluster) -> None:
    late, record = date(2027, 8, 1), MagicMock()
    ended = close(cluster.settings, an_applied(), late, NOW, record)
    assert (ended.state, ended.closed) == ("ended", "ended")
    assert cluster.done == OUT
    record.ended.assert_called_once_with("math-app", NOW, "")


def test_the_end_is_recorded_although_the_users_are_not_shut_out(cluster: Cluster) -> None:
    late, record = date(2027, 8, 1), MagicMock()
    cluster.refuses = True
    with pytest.raises(RetryLater, match="not shut out"):
        close(cluster.settings, an_applied(), late, NOW, record)
    record.ended.assert_called_once_with("math-app", NOW, "")
    stored = applied.read(cluster.settings)["math-app"]
    assert (stored.state, stored.closed) == ("ended", "")
    cluster.refuses = False
    assert close(cluster.settings, stored, late, NOW, record).closed == "ended"
    assert cluster.done == OUT


def test_the_same_command_completes_what_failed(cluster: Cluster) -> None:
    cluster.refuses = True
    with pytest.raises(RetryLater, match=r"is stored as revoked.*not shut out: Kafka does not"):
        revoke(cluster.settings, "math-app", "a breach", NOW)
    assert applied.read(cluster.settings)["math-app"].state == "revoked"
    cluster.refuses = False
    assert revoke(cluster.settings, "math-app", "again", NOW).why == "a breach"
    assert cluster.done == OUT


def test_a_renewal_that_has_begun_keeps_the_users(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.vendors.applied.today", lambda: date(2027, 8, 1))
    later = {"from": date(2027, 8, 1), "until": date(2028, 7, 31), "renews": "math-app"}
    renewal = replace(an_applied("math-2", **later), ids_name="math-app")
    applied.write(cluster.settings, renewal)
    close(cluster.settings, an_applied(), date(2027, 8, 1), NOW, MagicMock())
    assert cluster.done == []
    revoke(cluster.settings, "math-2", "a breach", NOW)
    assert cluster.done == OUT


def test_on_a_cluster_without_users_nobody_is_shut_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bus = Bus(monkeypatch, home=tmp_path)
    applied.write(bus.settings, an_applied())
    monkeypatch.delattr("bus.kafka.access.deny_all")
    assert revoke(bus.settings, "math-app", "a breach", NOW).state == "revoked"


def test_a_secure_embedded_bus_has_users(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, kafka=KafkaSettings())
    assert not vendor_access.protected(settings)
    (tmp_path / "tls").mkdir()
    assert vendor_access.protected(settings)
