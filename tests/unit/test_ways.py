"""The way out of an agreement: what its consumer reads, and what its product may do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from bus import plugins
from bus.consume import deadletters
from bus.delivery import AgreementOver, Position
from bus.errors import RetryLater, Stop
from bus.settings import KafkaSettings, Settings, VendorsSettings
from bus.standard import KINDS
from bus.vendors import ways
from bus.vendors.applied import Applied
from bus.vendors.way_retry import retry
from bus.vendors.ways import Way, open_way, stored_consumer_name
from consumers.webhook import PRODUCT, WebhookSettings
from tests.agreements import DAY, an_agreement
from tests.fakes.harness import PRODUCT as LUNCH
from tests.unit.test_feed import NAME, Vendor
from tests.unit.test_vendors_applied import an_applied

SECRET = "whsec_" + "c2Nob29sYnVz" * 3
HOOK: dict[str, Any] = {"webhook": {"url": "https://vendor.example/hook"}}


def settings(**vendors: Any) -> Settings:
    vendors = {"webhook_secrets": {"math-app": SECRET}, **vendors}
    return Settings(
        kafka=KafkaSettings(bootstrap="fake:9092"),
        vendors=VendorsSettings.model_validate(vendors),
        products={"webhook": {"url": "https://district.example", "secret": "of the district"}},
    )


class FakeReader:
    """Kafka has the topics of two kinds of the agreement, even if it shares fewer now."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> FakeReader:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def places(self, names: Collection[str]) -> list[Position]:
        there = [f"schoolbus.vendor.math-app.{kind}" for kind in ("student", "guardian")]
        return [Position(name, part) for name in names if name in there for part in range(2)]


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, Applied]:
    """The applied agreements."""
    found = {"math-app": an_applied(**HOOK)}
    monkeypatch.setattr(ways.store, "read", lambda _: found)
    monkeypatch.setattr(ways.store, "today", lambda: DAY)
    monkeypatch.setattr(ways, "Reader", FakeReader)
    return found


def test_it_reads_the_agreements_topics_under_a_name_that_the_vendor_cannot_use(
    stored: dict[str, Applied],
) -> None:
    way = open_way(settings(), PRODUCT, "math-app")
    assert way.feed.name == "way.math-app.webhook"
    assert set(way.feed.topics.values()) == set(way.terms.fields)
    assert all(name.startswith("schoolbus.vendor.math-app.") for name in way.feed.topics)
    assert way.feed.permission is way.watch and way.terms.permission is way.watch
    fields = way.terms.fields["student"]
    assert "sourcedId" in fields and "familyName" not in fields
    schema = way.feed.schemas["student"]
    assert tuple(field["name"] for field in schema["fields"]) == fields


def test_a_kind_that_was_shared_before_is_read_for_its_deletions(
    stored: dict[str, Applied],
) -> None:
    way = open_way(settings(), PRODUCT, "math-app")
    assert way.feed.ended == {"guardian"}
    assert way.feed.topics["schoolbus.vendor.math-app.guardian"] == "guardian"
    assert way.terms.fields["guardian"] == ("sourcedId",)
    assert "guardian" not in way.feed.schemas


def test_the_products_own_table_does_not_count(stored: dict[str, Applied]) -> None:
    loaded = settings(loopback_endpoints=True, internal_networks=["203.0.113.0/24"])
    way = open_way(loaded, PRODUCT, "math-app")
    own = plugins.settings_under(PRODUCT, loaded, way.settings, way.terms)
    assert isinstance(own, WebhookSettings)
    assert own.url == "https://vendor.example/hook"
    assert own.secret.get_secret_value() == SECRET
    assert own.old_secret.get_secret_value() == ""
    assert own.terms is way.terms
    assert way.terms.loopback and str(way.terms.networks[0]) == "203.0.113.0/24"
    district = plugins.product_settings(PRODUCT, loaded)
    assert (district.url, district.terms) == ("https://district.example", None)


def test_a_wrong_setting_is_one_of_the_agreement(stored: dict[str, Applied]) -> None:
    loaded = settings()
    stored["math-2"] = replace(stored["math-app"], agreement=an_agreement("math-2", **HOOK))
    loaded.vendors.webhook_secrets["math-2"] = loaded.vendors.webhook_secrets["math-app"]
    way = open_way(loaded, PRODUCT, "math-2")
    assert (way.terms.agreement, way.terms.name) == ("math-app", "math-2")
    with pytest.raises(
        Stop, match=r"^webhook under the agreement math-2: .*agreement's file, or .*:\n  kinds: "
    ):
        plugins.settings_under(PRODUCT, loaded, way.settings | {"kinds": ["pupil"]}, way.terms)
    with pytest.raises(Stop, match=r"^\[products\.webhook\]: "):
        plugins.product_settings(PRODUCT, loaded, kinds=["pupil"])


def test_while_the_secret_changes_both_sign(stored: dict[str, Applied]) -> None:
    way = open_way(settings(webhook_old_secrets={"math-app": "old"}), PRODUCT, "math-app")
    assert way.settings["old_secret"].get_secret_value() == "old"


def test_a_renewal_goes_on_under_the_first_name_with_a_secret_of_its_own(
    stored: dict[str, Applied],
) -> None:
    stored["math-27"] = replace(an_applied("math-27", **HOOK), ids_name="math-app")
    with pytest.raises(Stop, match="bus_vendors__webhook_secrets__math-27"):
        open_way(settings(), PRODUCT, "math-27")
    way = open_way(settings(webhook_secrets={"math-27": SECRET}), PRODUCT, "math-27")
    assert way.feed.name == "way.math-app.webhook"
    assert stored_consumer_name(settings(), "webhook", "math-27") == "way.math-app.webhook"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"agreement": an_applied(**HOOK, **{"from": date(2027, 1, 1)}).agreement}, "begins on"),
        ({"agreement": an_applied().agreement}, r"has no \[webhook\]"),
    ],
)
def test_an_agreement_that_does_not_hold_has_no_way_out(
    stored: dict[str, Applied], changed: dict[str, Any], why: str
) -> None:
    stored["math-app"] = replace(stored["math-app"], **changed)
    with pytest.raises(Stop, match=why):
        open_way(settings(), PRODUCT, "math-app")


@pytest.mark.parametrize(
    ("state", "why"), [("revoked", "was revoked"), ("ended", "ended on 2027-07-31")]
)
def test_the_way_of_an_agreement_that_is_over_says_so(
    stored: dict[str, Applied], state: str, why: str
) -> None:
    stored["math-app"] = replace(stored["math-app"], state=state)
    way = open_way(settings(), PRODUCT, "math-app")
    assert isinstance(way.over, AgreementOver) and why in str(way.over)
    with pytest.raises(AgreementOver, match=why):
        way.terms.permission.check()


def test_what_cannot_be_a_way_out_is_said(stored: dict[str, Applied]) -> None:
    with pytest.raises(Stop, match="no agreement other was applied"):
        open_way(settings(), PRODUCT, "other")
    with pytest.raises(Stop, match="lunch cannot deliver under an agreement; these products can"):
        open_way(settings(), LUNCH, "math-app")
    with pytest.raises(Stop, match="has no secret") as caught:
        open_way(settings(webhook_secrets={}), PRODUCT, "math-app")
    assert "vendors.webhook_secrets" in str(caught.value)


# ---- a retry of dead letters ---------------------------------------------------------------------


def way_of(vendor: Vendor) -> Way:
    """Return the way of the fake bus; its watch is the permission of the test."""
    return Way(vendor.feed, None, {}, vendor.permission)  # type: ignore[arg-type]


def test_a_retry_delivers_the_present_state(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = Vendor(monkeypatch)
    monkeypatch.setattr("bus.vendors.way_retry.schema_lookup", lambda _: schema)
    product = replace(LUNCH, tells_time=True)
    for name in ("first", "second"):
        vendor.write("student", "s1", givenName=name)
    vendor.write("student", "s2")
    vendor.delete("student", "s2")
    vendor.write("student", "s3")
    records = {"student": {"s1", "s2", "withdrawn"}}
    retry(vendor.bus.settings, product, way_of(vendor), vendor.product, records)
    assert vendor.records() == [("student", "s1", "active"), ("student", "s2", "tobedeleted")]
    assert vendor.product.delivered_rows[0][2]["givenName"] == "second"
    assert deadletters.read(vendor.bus.settings, NAME) == []


def test_a_retry_ends_with_the_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = Vendor(monkeypatch)
    monkeypatch.setattr("bus.vendors.way_retry.schema_lookup", lambda _: schema)
    vendor.write("student", "s1")
    vendor.product.before = lambda _: setattr(vendor.permission, "error", Stop("revoked"))
    vendor.product.failures = [RetryLater("down")]
    with pytest.raises(Stop, match="revoked"):
        retry(
            vendor.bus.settings,
            replace(LUNCH, tells_time=True),
            way_of(vendor),
            vendor.product,
            {"student": {"s1"}},
        )
    assert vendor.records() == []


def test_a_product_that_cannot_recognize_older_states_gets_no_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vendor = Vendor(monkeypatch)
    with pytest.raises(Stop, match="cannot be retried under an agreement"):
        retry(vendor.bus.settings, LUNCH, way_of(vendor), vendor.product, {})


def schema(schema_id: int) -> dict[str, Any]:
    return KINDS[list(KINDS)[schema_id - 1]].schema
