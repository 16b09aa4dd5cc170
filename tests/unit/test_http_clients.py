"""Which client may write what, with API keys and OAuth 2.0 access tokens."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from bus.errors import RetryLater, Stop
from producers.http.clients import Client, Clients, Issuer, key_set, new_key
from producers.http.problems import Problem
from producers.http.settings import HttpSettings, OAuthSettings

SIGNING = RSAKey.generate_key(2048, {"kid": "2026"})
OAUTH = OAuthSettings(issuer="https://id.example", audience="schoolbus", jwks="keys.json")


def public(*keys: RSAKey) -> KeySet:
    return KeySet.import_key_set(KeySet(list(keys)).as_dict(private=False))  # type: ignore[arg-type]


def token(key: RSAKey = SIGNING, header: dict[str, Any] | None = None, **claims: Any) -> str:
    reported = {
        "iss": "https://id.example",
        "aud": "schoolbus",
        "exp": int(time.time()) + 60,
        "client_id": "classroom-app",
        "scope": "openid bus:write:attendance bus:write:unheard-of",
    } | claims
    header = {"alg": "RS256", "kid": key.kid} | (header or {})
    claims = {name: value for name, value in reported.items() if value is not None}
    return jwt.encode(header, claims, key, algorithms=[header["alg"]])


def who(clients: Clients, **headers: str) -> Client:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.run(clients.authenticate(named))


def clients(issuer: Issuer | None = None, **keys: str) -> Clients:
    tables = {name: {"key_sha256": sha256(key.encode()).hexdigest()} for name, key in keys.items()}
    return Clients(HttpSettings.model_validate({"clients": tables}), issuer)


def test_a_new_key_lets_in_the_client_whose_table_has_its_hash() -> None:
    key, digest = new_key()
    http = HttpSettings.model_validate({"clients": {"sis": {"key_sha256": digest}}})
    assert who(Clients(http), x_api_key=key) == Client("sis", frozenset({"attendance"}))


def test_each_client_has_its_own_key() -> None:
    both = clients(sis="one", app="two")
    assert who(both, authorization="Bearer two").name == "app"
    assert who(both, x_api_key="one").name == "sis"


def test_two_keys_count_while_one_is_replaced() -> None:
    hashes = [sha256(key).hexdigest() for key in (b"old", b"new")]
    http = HttpSettings.model_validate({"clients": {"sis": {"key_sha256": hashes}}})
    assert who(Clients(http), x_api_key="old") == who(Clients(http), x_api_key="new")


def test_a_token_of_the_issuer_says_who_and_what() -> None:
    found = who(clients(Issuer(OAUTH, lambda: public(SIGNING))), authorization=f"Bearer {token()}")
    assert found == Client("classroom-app", frozenset({"attendance"}))


@pytest.mark.parametrize(
    "bad",
    [
        token(exp=int(time.time()) - 3600),
        token(exp=None),
        token(aud="another-service"),
        token(iss="https://elsewhere.example"),
        token(nbf=int(time.time()) + 3600),
        token(client_id=None),
        token(client_id=""),
        token(RSAKey.generate_key(2048, {"kid": "2026"})),
        token(header={"alg": "RS384"}),
        "a.b.c",
        "é.é.é",
    ],
)
def test_a_token_that_proves_nothing_is_refused(bad: str) -> None:
    issuer = Issuer(OAUTH, lambda: public(SIGNING))
    with pytest.raises(Problem) as refused:
        who(clients(issuer), authorization=f"Bearer {bad}")
    assert refused.value.status == 401
    assert 'error="invalid_token"' in refused.value.headers["WWW-Authenticate"]
    assert bad not in refused.value.detail


def test_the_public_key_is_no_shared_secret() -> None:
    parts = [
        {"alg": "HS256", "kid": "2026"},
        json.loads(urlsafe_b64decode(token().split(".")[1] + "==")),
    ]
    signed = b".".join(urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    mac = hmac.digest(SIGNING.as_pem(private=False), signed, "sha256")
    forged = (signed + b"." + urlsafe_b64encode(mac).rstrip(b"=")).decode()
    with pytest.raises(Problem):
        who(clients(Issuer(OAUTH, lambda: public(SIGNING))), authorization=f"Bearer {forged}")


def test_a_new_key_of_the_issuer_is_fetched_but_not_at_every_strange_token() -> None:
    later = RSAKey.generate_key(2048, {"kid": "2027"})
    fetched = []
    now = [0.0]

    def fetch() -> KeySet:
        fetched.append(now[0])
        return public(SIGNING, later) if len(fetched) > 1 else public(SIGNING)

    issuer = Issuer(OAUTH, fetch, clock=lambda: now[0])
    now[0] = 100.0
    assert who(clients(issuer), authorization=f"Bearer {token(later)}").name == "classroom-app"
    for _ in range(3):
        with pytest.raises(Problem):
            strange = RSAKey.generate_key(2048, {"kid": "unknown"})
            who(clients(issuer), authorization=f"Bearer {token(strange)}")
    assert fetched == [0.0, 100.0]


def test_known_keys_outlast_an_issuer_that_is_away_for_a_while() -> None:
    now = [0.0]
    away = [False]

    def fetch() -> KeySet:
        if away[0]:
            raise RetryLater("the issuer does not answer")
        return public(SIGNING)

    issuer = Issuer(OAUTH, fetch, clock=lambda: now[0])
    away[0], now[0] = True, 4000.0
    assert who(clients(issuer), authorization=f"Bearer {token()}")
    now[0] = 8000.0
    with pytest.raises(Problem) as refused:
        who(clients(issuer), authorization=f"Bearer {token()}")
    assert refused.value.status == 503


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(public(SIGNING).as_dict()))
    assert [key.kid for key in key_set(str(file)).keys] == ["2026"]
    for rubbish in ("{", "[]", '{"keys": [{"kty": "RSA"}]}'):
        file.write_text(rubbish)
        with pytest.raises(Stop, match="JWK set"):
            key_set(str(file))
    with pytest.raises(Stop, match="jwks"):
        key_set(str(tmp_path / "missing.json"))
