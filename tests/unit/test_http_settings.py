"""The settings of the HTTP source, and those with which it refuses to start."""

from __future__ import annotations

from typing import Any

import pytest

from bus.errors import RetryLater, Stop
from bus.registry import subjects
from bus.settings import Settings, load
from producers.http import service
from producers.http.settings import http_settings

HASH = "ab" * 32


def settings(**table: Any) -> Settings:
    return Settings(producers={"http": table})


def test_a_service_that_would_let_nobody_in_does_not_start() -> None:
    with pytest.raises(Stop, match="--new-key"):
        http_settings(settings())


def test_a_service_with_a_client_of_a_kind_without_a_schema_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subjects, "lookup", lambda _: {"attendance": 1})
    client = {"key_sha256": HASH, "scopes": ["attendance", "optOut"]}
    insecure = settings(clients={"sis": client})
    with pytest.raises(RetryLater, match=r"schoolbus\.optOut-value .* `bus schemas apply`"):
        service.serve(insecure, http_settings(insecure, port=0), lambda _: None)


def test_options_go_before_settings() -> None:
    reported = settings(port=9000, clients={"sis": {"key_sha256": HASH}})
    assert http_settings(reported, host=None, port=0).port == 0
    assert http_settings(reported, host=None, port=None).port == 9000


def test_all_of_it_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = "BUS_PRODUCERS__HTTP__CLIENTS__SIS__"
    monkeypatch.setenv(prefix + "KEY_SHA256", HASH)
    monkeypatch.setenv(prefix + "SCOPES", '["attendance", "student"]')
    monkeypatch.setenv("BUS_PRODUCERS__HTTP__BODY_RECORDS", "10")
    http = http_settings(load())
    assert http.clients["sis"].scopes == ("attendance", "student")
    assert http.body_records == 10


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"clients": {"sis": {"key_sha256": "the key itself"}}}, "clients.sis.key_sha256"),
        ({"clients": {"sis": {"key_sha256": HASH, "scopes": ["grades"]}}}, "scopes"),
        ({"clients": {"a b": {"key_sha256": HASH}}}, "clients"),
        ({"clients": {"sis": {"key_sha256": HASH}}, "prot": 1}, "prot"),
        ({"clients": {"a": {"key_sha256": HASH}, "b": {"key_sha256": HASH}}}, "same key"),
        ({"clients": {"sis": {"key_sha256": HASH}}, "key_file": "k.pem"}, "certificate_file"),
        ({"oauth": {"issuer": "i", "audience": "a", "jwks": "http://i/keys"}}, "https"),
        ({"oauth": {"issuer": "i", "audience": "a", "jwks": "k", "algorithms": "HS256"}}, "oauth"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(Stop) as stop:
        http_settings(settings(**wrong))
    assert named in str(stop.value)
    assert "the key itself" not in str(stop.value) and HASH not in str(stop.value)
