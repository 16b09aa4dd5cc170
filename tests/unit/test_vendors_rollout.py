"""Each run of `apply` gives the same result. An agreement that is over stays over."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from bus.errors import RetryLater, Stop
from bus.kafka import topics
from bus.vendors import (
    applied,
    expiry,
    master_key,
    pseudonyms,
    revocation,
    vendor_access,
    written_editions,
)
from bus.vendors.applied import Applied
from bus.vendors.district_counts import CohortCounts
from bus.vendors.plan import plan
from bus.vendors.rollout import VendorAccess, apply
from bus.vendors.scope import Scope, compile_scope
from bus.vendors.vendor_access import Grant, Provided
from bus.vendors.vendor_topics import topics_by_kind
from tests.agreements import DAY, an_agreement
from tests.fakes.harness import Bus

NOW = datetime(2026, 11, 28, 4, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 29, 4, 0, tzinfo=UTC)


class District:
    """A bus on the fakes, and the schemas that were registered."""

    def __init__(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bus = bus
        self.settings = bus.settings
        self.registered: list[tuple[str, str]] = []
        self.fails = False
        self.recorded: list[tuple[str, str]] = []

        def register(_: Any, ids_name: str, scope: Scope) -> dict[str, int]:
            if self.fails:
                raise RetryLater("the registry does not answer")
            self.registered += [(ids_name, kind) for kind in scope.kinds]
            return dict.fromkeys(scope.kinds, 1)

        def lookup(_: Any, ids_name: str, scope: Scope) -> dict[str, int]:
            if missing := {(ids_name, kind) for kind in scope.kinds} - set(self.registered):
                raise Stop(f"{len(missing)} schemas are missing")
            return {}

        monkeypatch.setattr("bus.vendors.vendor_schema.register", register)
        monkeypatch.setattr("bus.vendors.vendor_schema.lookup", lookup)

    def apply(self, *files: Any, day: date = DAY, now: datetime = NOW) -> dict[str, VendorAccess]:
        def count(changes: Any) -> Any:
            return dict.fromkeys(changes, CohortCounts())

        changes = plan(files, self.applied, day, count)
        found = apply(self.settings, changes, now, self)  # type: ignore[arg-type]
        expiry.settle_all(self.settings, day, now, self, print)  # type: ignore[arg-type]
        return found

    def scope_changed(self, one: Applied, scope: Scope, at: datetime) -> None:
        """Note what the record of disclosures would get."""
        self.recorded.append(("scope", one.name))

    def ended(self, name: str, at: datetime, why: str = "") -> None:
        """Note what the record of disclosures would get."""
        self.recorded.append(("ended", name))

    @property
    def applied(self) -> dict[str, Applied]:
        return applied.read(self.settings)

    @property
    def topics(self) -> set[str]:
        return {
            name for name in self.bus.broker.topics if topics.is_vendor_topic(self.settings, name)
        }


@pytest.fixture
def district(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> District:
    return District(Bus(monkeypatch, partitions=3, home=tmp_path / "home"), monkeypatch)


def key_of(district: District, name: str) -> bytes:
    return pseudonyms.unwrapped(
        district.applied[name].wrapped_key, master_key.read(district.settings)
    )


def test_a_new_agreement_gets_topics_schemas_and_a_key(district: District) -> None:
    access = district.apply(an_agreement())["math-app"]
    scope = compile_scope(an_agreement())
    assert access.topics == topics_by_kind(district.settings, scope, "math-app")
    assert access.topics["student"] == "schoolbus.vendor.math-app.student"
    assert access.group == "schoolbus.vendor.math-app."
    assert access.bootstrap == "fake:9092"
    assert access.as_json()["username"] is None
    assert set(access.topics.values()) == district.topics
    wide = {len(district.bus.broker.places([name])) for name in district.topics}
    assert wide == {3}
    assert set(district.registered) == {("math-app", kind) for kind in scope.kinds}
    one = district.applied["math-app"]
    assert (one.state, one.ids_name, one.applied_at) == ("active", "math-app", NOW)
    assert one.fingerprint == applied.fingerprint(an_agreement())
    assert len(key_of(district, "math-app")) == pseudonyms.KEY_BYTES


def test_applying_again_changes_nothing(district: District) -> None:
    first = district.apply(an_agreement())
    stored, registered = district.applied, list(district.registered)
    assert district.apply(an_agreement(), now=LATER) == first
    assert district.applied == stored
    assert district.registered == registered


def test_a_lost_topic_or_schema_is_made_again(district: District) -> None:
    first = district.apply(an_agreement())
    lost = district.registered.pop()
    del district.bus.broker.topics[first["math-app"].topics["student"]]
    assert district.apply(an_agreement()) == first
    assert lost in district.registered
    assert set(first["math-app"].topics.values()) == district.topics


def test_the_next_run_completes_a_run_that_crashed(district: District) -> None:
    district.fails = True
    with pytest.raises(RetryLater):
        district.apply(an_agreement())
    assert district.applied == {}
    district.fails = False
    assert district.apply(an_agreement())["math-app"].topics
    assert district.applied["math-app"].state == "active"


def test_a_changed_agreement_keeps_ids_and_what_was_confirmed(district: District) -> None:
    district.apply(an_agreement())
    key = key_of(district, "math-app")
    applied.write(district.settings, replace(district.applied["math-app"], confirmed=3))
    changed = an_agreement(roles=["teacher"])
    access = district.apply(changed, now=LATER)["math-app"]
    one = district.applied["math-app"]
    assert one.agreement == changed and one.fingerprint == applied.fingerprint(changed)
    assert (one.applied_at, one.confirmed) == (LATER, 3)
    assert key_of(district, "math-app") == key
    assert "staff" in access.topics


def test_two_agreements_have_keys_of_their_own(district: District) -> None:
    district.apply(an_agreement(), an_agreement("other"))
    assert key_of(district, "math-app") != key_of(district, "other")


def test_a_renewal_takes_over_topics_and_ids(district: District) -> None:
    renewal = an_agreement(
        "a-renewal", renews="math-app", **{"from": date(2027, 8, 1), "until": date(2028, 7, 31)}
    )
    again = an_agreement(
        "third", renews="a-renewal", **{"from": date(2028, 8, 1), "until": date(2029, 7, 31)}
    )
    found = district.apply(again, renewal, an_agreement())
    assert found["a-renewal"].topics == found["math-app"].topics == found["third"].topics
    assert {one.ids_name for one in district.applied.values()} == {"math-app"}
    assert (
        key_of(district, "a-renewal") == key_of(district, "math-app") == key_of(district, "third")
    )


def test_a_missing_file_does_not_end_an_agreement(district: District) -> None:
    first = district.apply(an_agreement())
    assert district.apply() == first
    assert district.applied["math-app"].state == "active"


def test_an_agreement_ends_on_the_day_after_its_last_day(district: District) -> None:
    district.apply(an_agreement())
    late = datetime(2027, 8, 1, 6, tzinfo=UTC)
    assert district.apply(an_agreement(), day=late.date(), now=late) == {}
    one = district.applied["math-app"]
    assert (one.state, one.ended_at) == ("ended", late)
    assert district.recorded == [("scope", "math-app"), ("ended", "math-app")]
    assert district.apply(an_agreement(), day=late.date(), now=LATER) == {}
    assert district.applied["math-app"] == one


def test_a_revoked_agreement_stays_revoked(district: District) -> None:
    district.apply(an_agreement())
    revoked = revocation.revoke(district.settings, "math-app", "a breach", LATER)
    assert (revoked.state, revoked.why, revoked.ended_at) == ("revoked", "a breach", LATER)
    assert not revoked.active(DAY)
    again = revocation.revoke(district.settings, "math-app", "another", NOW)
    assert again == revoked == district.applied["math-app"]
    assert district.apply(an_agreement(roles=["teacher"])) == {}
    # `apply` records the end, because the revocation was not complete.
    assert district.applied["math-app"] == replace(revoked, closed="revoked")
    assert district.recorded == [("scope", "math-app"), ("ended", "math-app")]
    assert district.apply(an_agreement()) == {}
    assert district.recorded == [("scope", "math-app"), ("ended", "math-app")]


def test_an_agreement_that_was_never_applied_cannot_be_revoked(district: District) -> None:
    district.apply(an_agreement())
    with pytest.raises(Stop, match="the applied ones are: math-app"):
        revocation.revoke(district.settings, "math", "a breach", NOW)


def test_another_master_key_stops_it_before_anything_changes(district: District) -> None:
    district.apply(an_agreement())
    stored, file = district.applied, master_key.path(district.settings)
    file.write_text("00" * 32)
    with pytest.raises(Stop, match="does not open the key"):
        district.apply(an_agreement(), an_agreement("other"))
    file.unlink()
    with pytest.raises(Stop, match="restore it from the backup"):
        district.apply(an_agreement(), an_agreement("other"))
    assert not file.exists() and district.applied == stored


def test_without_kafka_among_its_ways_it_has_no_topics(district: District) -> None:
    assert district.apply(an_agreement(ways=[]))["math-app"].topics == {}
    assert district.topics == set() and district.registered == []


# ---- changes after which the topics show more than the agreement says ----------------------------

LESS = {"share": {"categories": ["Enrollment"]}}
YEAR = {"from": date(2027, 8, 1), "until": date(2028, 7, 31)}


class Users:
    """The users that Schoolbus manages. It notes whether they may read, and what was stored then."""

    def __init__(self, district: District, monkeypatch: pytest.MonkeyPatch) -> None:
        self.district = district
        self.open: dict[str, bool] = {}
        self.steps: list[tuple[bool, bool]] = []
        self.killed = False
        monkeypatch.setattr(vendor_access, "protected", lambda _: True)
        monkeypatch.setattr(vendor_access, "addresses", lambda _: ("fake:9092", ""))
        monkeypatch.setattr(vendor_access, "provide", self.provide)
        monkeypatch.setattr(vendor_access, "restrict", self.restrict)

    def provide(self, _: Any, grants: list[Grant], __: Any) -> dict[str, Provided]:
        for one in grants:
            self.restrict(_, one)
        if self.killed:
            raise KeyboardInterrupt
        return {}

    def restrict(self, _: Any, grant: Grant) -> None:
        self.open[grant.ids_name] = not grant.closed
        stored = self.district.applied.get("math-app")
        self.steps.append((not grant.closed, stored is not None and stored.narrowed))

    def write(self, name: str = "math-app") -> None:
        """Note that the topics hold the agreement whole."""
        settings = self.district.settings
        written_editions.note(settings, name, self.district.applied[name].edition)


@pytest.fixture
def users(district: District, monkeypatch: pytest.MonkeyPatch) -> Users:
    monkeypatch.setattr("bus.vendors.applied.today", lambda: DAY)
    return Users(district, monkeypatch)


def test_the_access_is_closed_before_a_narrower_agreement_is_stored(
    district: District, users: Users
) -> None:
    district.apply(an_agreement())
    users.write()
    district.apply(an_agreement(), now=LATER)
    assert users.open == {"math-app": True} and not district.applied["math-app"].narrowed
    users.steps.clear()
    district.apply(an_agreement(**LESS), now=LATER)
    assert users.steps == [(False, False), (False, True)]
    district.apply(an_agreement(**LESS), now=LATER)
    assert users.open == {"math-app": False}
    # A wider agreement stays closed until something is written whole.
    district.apply(an_agreement(), now=LATER)
    assert users.open == {"math-app": False} and district.applied["math-app"].narrowed
    users.write()
    district.apply(an_agreement(), now=LATER)
    assert users.open == {"math-app": True}


def test_a_wider_agreement_closes_nothing(district: District, users: Users) -> None:
    district.apply(an_agreement(**LESS))
    users.steps.clear()
    district.apply(an_agreement(), now=LATER)
    assert [is_open for is_open, _ in users.steps] == [True]
    # But some of it may be written already when the agreement gets narrower again.
    users.write()
    district.apply(an_agreement(**LESS), now=datetime(2026, 11, 30, tzinfo=UTC))
    assert users.open == {"math-app": False}


def test_a_second_apply_repairs_one_that_was_killed(district: District, users: Users) -> None:
    district.apply(an_agreement())
    users.write()
    for wanted in (an_agreement(), an_agreement(**LESS)):
        users.killed = True
        with pytest.raises(KeyboardInterrupt):
            district.apply(an_agreement(**LESS), now=LATER)
        assert users.open == {"math-app": False} and not district.applied["math-app"].narrowed
        users.killed = False
        district.apply(wanted, now=LATER)
        assert users.open["math-app"] is not district.applied["math-app"].narrowed
    assert users.open == {"math-app": False}


def test_what_is_written_during_an_apply_is_open_after_it(
    district: District, users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    district.apply(an_agreement())
    district.apply(an_agreement(**LESS), now=LATER)

    def provide(settings: Any, grants: list[Grant], folder: Any) -> dict[str, Provided]:
        users.write()
        return users.provide(settings, grants, folder)

    monkeypatch.setattr(vendor_access, "provide", provide)
    district.apply(an_agreement(**LESS), now=LATER)
    assert users.open == {"math-app": True}


def test_a_renewal_of_an_agreement_that_shows_more(district: District, users: Users) -> None:
    less = {"categories": ["Enrollment"]}
    renewal = an_agreement("two", renews="math-app", share=less, **YEAR)
    district.apply(an_agreement(**LESS), renewal)
    assert not district.applied["two"].narrowed
    recorded = len(district.recorded)
    district.apply(an_agreement(), renewal, now=LATER)
    assert district.applied["two"].narrowed and not district.applied["math-app"].narrowed
    assert district.recorded[recorded:] == [("scope", "math-app")]
    assert users.open == {"math-app": True}, "it has not begun"
    stored = district.applied
    district.apply(an_agreement(), renewal, now=LATER)
    assert district.applied == stored
