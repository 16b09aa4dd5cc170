"""Vendors' users, files and tokens, on a fake cluster. Integration tests use a secure bus."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bus.errors import RetryLater, Stop
from bus.kafka import access
from bus.kafka.access import AccessNotManaged, Rule
from bus.settings import KafkaSettings, Settings
from bus.vendors import registry_tokens, vendor_access
from bus.vendors.vendor_access import PASSWORD, TOKEN, USERNAME, Grant

MATH = Grant("math", ("s.vendor.math.student",), "s.vendor.math.")


class Cluster:
    """A cluster with users and rules. It notes each call in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.users: dict[str, str] = {}
        self.known: dict[str, set[Rule]] = {}
        self.done: list[tuple[str, str]] = []
        self.limited: list[list[str]] = []
        self.fails = ""
        self.managed = True

        def create(_: Any, user: str, password: SecretStr) -> None:
            self.users[user] = password.get_secret_value()

        def act(name: str, effect: Any) -> None:
            def called(_: Any, user: str, *more: Any, **named: Any) -> None:
                self.done.append((name, user))
                if not self.managed:
                    raise AccessNotManaged("could not do it")
                if self.fails == name:
                    raise RetryLater("Kafka does not answer")
                effect(user, *more, **named)

            monkeypatch.setattr(access, name, called)

        def listed(_: Any) -> set[str]:
            if not self.managed:
                raise AccessNotManaged("could not list the users")
            return set(self.users)

        monkeypatch.setattr(access, "users", listed)
        monkeypatch.setattr(access, "create_user", create)

        def set_quotas(_: Any, users: list[str], **__: Any) -> str:
            self.limited.append(list(users))
            return ""

        def all_rules(_: Any) -> dict[str, set[Rule]]:
            self.done.append(("all_rules", ""))
            return {user: set(rules) for user, rules in self.known.items()}

        def rules(_: Any, user: str) -> list[Rule]:
            self.done.append(("rules", user))
            return sorted(self.known.get(user, set()))

        monkeypatch.setattr(access, "all_rules", all_rules)
        monkeypatch.setattr(access, "rules", rules)
        monkeypatch.setattr(access, "set_quotas", set_quotas)
        denial = Rule("deny", "topic", "literal", "*", "all")
        act("deny_all", lambda user: self.known.setdefault(user, set()).add(denial))
        act("delete_user", lambda user: self.users.pop(user, None))
        act("remove_rules", lambda user: self.known.pop(user, None))

        def allow(
            user: str, topics: Any, group: str, known: Any = None, closed: Any = False
        ) -> None:
            denied = {rule for rule in self.known.get(user, ()) if rule.permission == "deny"}
            self.known[user] = denied | access.reading_rules(topics, group, closed=closed)

        act("allow", allow)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        kafka=KafkaSettings(bootstrap="k:1", security_protocol="sasl_ssl", sasl_username="own"),
    )


def test_a_file_is_written_once(cluster: Cluster, settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = vendor_access.provide(settings, [MATH], folder)["math"]
    file = folder / "math.env"
    assert (made.username, made.credentials) == ("vendor-math-a", file)
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    text = file.read_text()
    assert f"{PASSWORD}={cluster.users['vendor-math-a']}\n" in text
    assert vendor_access.provide(settings, [MATH], folder)["math"] == made
    assert file.read_text() == text
    file.unlink()
    (note,) = vendor_access.provide(settings, [MATH], folder)["math"].notes
    assert "bus vendors rotate math" in note and not file.exists()


def test_without_a_folder_no_user_is_made(cluster: Cluster, settings: Settings) -> None:
    made = vendor_access.provide(settings, [MATH], None)["math"]
    assert made.username is None and "--credentials" in made.notes[0] and not cluster.users


def test_a_folder_that_others_can_read(
    cluster: Cluster, settings: Settings, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(Stop, match="chmod 700"):
        vendor_access.provide(settings, [MATH], tmp_path)
    assert not cluster.users


def test_a_rotation(cluster: Cluster, settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    with pytest.raises(Stop, match="no user yet"):
        vendor_access.rotate(settings, MATH, folder)
    vendor_access.provide(settings, [MATH], folder)
    old = dict(
        line.split("=", 1) for line in (folder / "math.env").read_text().split("\n") if "=" in line
    )
    assert vendor_access.rotate(settings, MATH, folder).username == "vendor-math-b"
    assert cluster.users.keys() == {"vendor-math-a", "vendor-math-b"}
    assert registry_tokens.owner_of(settings, old[TOKEN])
    with pytest.raises(Stop, match="not finished"):
        vendor_access.rotate(settings, MATH, folder)
    assert vendor_access.finish(settings, MATH, folder).username == "vendor-math-b"
    assert cluster.users.keys() == {"vendor-math-b"}
    assert registry_tokens.owner_of(settings, old[TOKEN]) is None and old[USERNAME]


def test_many_vendors_need_one_reading_of_the_rules_and_one_change_of_the_quotas(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path / "home", kafka=KafkaSettings())
    monkeypatch.setattr(vendor_access, "protected", lambda _: True)
    monkeypatch.setattr(vendor_access, "addresses", lambda _: ("k:1", "https://gate"))
    monkeypatch.setattr(vendor_access, "_authority", lambda *_: None)
    names = ["math", "art", "music"]
    grants = [Grant(name, (f"s.vendor.{name}.student",), f"s.vendor.{name}.") for name in names]
    vendor_access.provide(settings, grants, tmp_path / "secrets")
    first = [f"vendor-{name}-a" for name in names]
    assert cluster.limited == [[], *([user] for user in first)]
    cluster.limited.clear()
    cluster.done.clear()
    # One vendor was denied everything, and then its closing was interrupted.
    access.deny_all(settings, "vendor-art-a")
    made = vendor_access.provide(settings, grants, tmp_path / "secrets")
    assert [user for name, user in cluster.done if name in ("all_rules", "rules")] == [""]
    assert cluster.limited == [["vendor-math-a", "vendor-music-a"], ["vendor-art-a"]]
    allowed = [user for name, user in cluster.done if name == "allow"]
    assert allowed == ["vendor-math-a", "vendor-art-a", "vendor-music-a"]
    assert [made[name].username for name in names] == first
    assert cluster.known["vendor-art-a"] == access.reading_rules(grants[1].topics, grants[1].group)


def test_shutting_out_takes_all_steps_in_order(
    cluster: Cluster, settings: Settings, tmp_path: Path
) -> None:
    vendor_access.provide(settings, [MATH], tmp_path / "secrets")
    cluster.done.clear()
    cluster.fails = "deny_all"
    with pytest.raises(RetryLater):
        vendor_access.shut_out(settings, "math")
    assert not cluster.users and registry_tokens.remove_tokens(settings, "math") == 0
    assert [name for name, _ in cluster.done] == ["deny_all"] * 2 + ["delete_user"] * 2
    cluster.fails = ""
    assert vendor_access.shut_out(settings, "math") == []


def test_a_closed_grant_takes_the_right_to_read_the_topics(
    cluster: Cluster, settings: Settings, tmp_path: Path
) -> None:
    folder, user, closed = tmp_path / "secrets", "vendor-math-a", replace(MATH, closed=True)

    def reads() -> set[str]:
        rules = cluster.known[user]
        return {one.name for one in rules if (one.resource, one.operation) == ("topic", "read")}

    vendor_access.provide(settings, [closed], folder)
    assert reads() == set() and user in cluster.users
    vendor_access.restrict(settings, MATH)
    assert reads() == set(MATH.topics)
    vendor_access.provide(settings, [closed], folder)
    assert reads() == set()
    vendor_access.provide(settings, [MATH], folder)
    vendor_access.restrict(settings, closed)
    assert reads() == set()
    vendor_access.rotate(settings, closed, folder)
    assert cluster.known["vendor-math-b"] == cluster.known[user]


def test_a_cluster_whose_users_somebody_else_manages(
    cluster: Cluster, settings: Settings, tmp_path: Path
) -> None:
    cluster.managed = False
    made = vendor_access.provide(settings, [MATH], tmp_path / "secrets")["math"]
    assert "kafka-acls.sh" in made.notes[0] and "4 of the rules are missing" in made.notes[0]
    assert PASSWORD + "=" not in (tmp_path / "secrets" / "math.env").read_text()
    vendor_access.restrict(settings, replace(MATH, closed=True))
    cluster.known["vendor-math-a"] = access.reading_rules(MATH.topics, MATH.group)
    assert vendor_access.provide(settings, [MATH], None)["math"].notes == ()
    assert "--deny-principal User:vendor-math-b" in vendor_access.shut_out(settings, "math")[0]
