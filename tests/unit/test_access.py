"""What access.py refuses, and the rules it asks for; the secured bus itself is in test_secure_bus."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import KafkaError
from pydantic import SecretStr

from bus.errors import RetryLater, Stop
from bus.kafka import access
from bus.kafka.access import Rule
from bus.settings import KafkaSettings, Settings

EMBEDDED = Settings(home=Path("none"), kafka=KafkaSettings())
DISTRICT = Settings(kafka=KafkaSettings(bootstrap="kafka.example:9093", sasl_username="schoolbus"))


@pytest.mark.parametrize("name", ["", "ANONYMOUS", "CN=schoolbus-node", "a;b", "*", "a:b", "-a"])
def test_names_that_could_be_somebody_elses(name: str) -> None:
    for settings in (EMBEDDED, DISTRICT):
        with pytest.raises(Stop, match="cannot be the name of a user"):
            access.create_user(settings, name, SecretStr("x"))


def test_schoolbus_keeps_its_own_access() -> None:
    for settings, own in ((EMBEDDED, "bus"), (DISTRICT, "schoolbus")):
        for act in (access.deny_all, access.delete_user, access.remove_rules):
            with pytest.raises(Stop, match="must keep its access"):
                act(settings, own)


def test_a_password_is_not_empty() -> None:
    with pytest.raises(Stop, match="not empty"):
        access.create_user(DISTRICT, "acme", SecretStr(""))


def test_a_prefix_must_not_be_the_beginning_of_another_vendors() -> None:
    for prefix in ("", "vendor.math"):
        with pytest.raises(ValueError, match="must end in a dot or a dash"):
            access.allow(DISTRICT, "math", [], prefix)
    with pytest.raises(ValueError, match="single topics"):
        access.allow(DISTRICT, "math", ["*"], "vendor.math.")


class Cluster:
    """The rules that a cluster keeps for one user, and what was done to them, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *known: Rule) -> None:
        self.known, self.done = set(known), list[str]()
        monkeypatch.setattr(access, "rules", lambda *_: sorted(self.known))
        monkeypatch.setattr(access, "_create", self._create)
        monkeypatch.setattr(access, "_delete", self._delete)

    def _create(self, _: Settings, __: str, new: set[Rule]) -> None:
        self.done.append("create")
        self.known |= new

    def _delete(self, _: Settings, __: str, old: set[Rule]) -> None:
        self.done.append("delete")
        self.known -= old


def test_allow_leaves_exactly_what_it_names_and_denials(monkeypatch: pytest.MonkeyPatch) -> None:
    denial = Rule("deny", "topic", "literal", "*", "all")
    old = Rule("allow", "topic", "literal", "old", "read")
    cluster = Cluster(monkeypatch, denial, old)
    access.allow(DISTRICT, "acme", ["a"], "vendor.acme.", ["back"])
    assert cluster.done == ["create", "delete"], "a reader is never interrupted"
    assert cluster.known == {
        denial,
        Rule("allow", "topic", "literal", "a", "read"),
        Rule("allow", "topic", "literal", "a", "describe"),
        Rule("allow", "topic", "literal", "back", "write"),
        Rule("allow", "topic", "literal", "back", "describe"),
        Rule("allow", "group", "prefixed", "vendor.acme.", "read"),
        Rule("allow", "group", "prefixed", "vendor.acme.", "describe"),
    }
    access.deny_all(DISTRICT, "acme")
    assert {rule.resource for rule in cluster.known if rule.permission == "deny"} == {
        "topic",
        "group",
        "cluster",
        "transactional_id",
    }


def test_denials_are_removed_last(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[set[str]] = []
    denial = Rule("deny", "topic", "literal", "*", "all")
    Cluster(monkeypatch, denial, Rule("allow", "topic", "literal", "a", "read"))
    monkeypatch.setattr(
        access, "_delete", lambda *call: removed.append({rule.permission for rule in call[2]})
    )
    access.remove_rules(DISTRICT, "acme")
    assert removed == [{"allow"}, {"deny"}]


def test_a_rule_survives_the_way_to_kafka_and_back() -> None:
    for rule in (
        Rule("deny", "cluster", "literal", "kafka-cluster", "all"),
        Rule("allow", "group", "prefixed", "vendor.acme.", "read"),
        Rule("allow", "transactional_id", "literal", "x", "idempotent_write", "10.0.0.1"),
    ):
        assert access._rule(access._binding("acme", rule)) == rule


def test_what_a_person_must_do_when_kafka_refuses() -> None:
    said = {
        KafkaError.SECURITY_DISABLED: "bus up --secure",
        KafkaError.UNSUPPORTED_VERSION: "ask who runs the cluster",
        KafkaError.CLUSTER_AUTHORIZATION_FAILED: "ALTER and DESCRIBE on the cluster",
    }
    for code, text in said.items():
        found = access._failure("create user acme", KafkaError(code))
        assert isinstance(found, Stop)
        assert text in str(found)
    assert isinstance(access._failure("x", KafkaError(KafkaError._TIMED_OUT)), RetryLater)


def test_the_administrators_command_for_a_quota() -> None:
    said = access.set_quotas(
        DISTRICT,
        ["acme"],
        bytes_per_second_in=1000,
        bytes_per_second_out=None,
        request_percentage=12.5,
    )
    start = (
        "kafka-configs.sh --bootstrap-server kafka.example:9093 --command-config "
        "admin.properties --alter --entity-type users --entity-name acme "
    )
    assert said.splitlines() == [
        f"{start}--add-config producer_byte_rate=1000,request_percentage=12.5",
        f"{start}--delete-config consumer_byte_rate",
    ]
