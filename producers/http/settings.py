"""The settings of the source `http`: the table `[producers.http]` of bus.toml.

Each client that sends with an API key has a table:

    [producers.http.clients.frontoffice]
    key_sha256 = "9f86d0…"              # printed by `bus produce http --new-key frontoffice`
    scopes = ["attendance", "student"]   # the kinds that it may write

Clients that send OAuth 2.0 access tokens need no table. The token names the client and what it may
do (`OAuthSettings`). Each value can also come from the environment, for example as
`BUS_PRODUCERS__HTTP__CLIENTS__FRONTOFFICE__KEY_SHA256`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic import model_validator as check

from bus.errors import Stop
from bus.settings import Model, Settings, explain
from bus.standard import KINDS

CLIENT_NAME = r"^[a-zA-Z0-9._-]{1,64}$"

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519"
]
"""Only signatures with a key pair. With a shared secret, anyone who can check tokens could also
create them.
"""


def _listed(value: object) -> object:
    """Split a text at its commas, so that a list can come from the environment."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _hash(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError(
            "must be the SHA-256 of a key (64 hexadecimal digits); create one with --new-key"
        )
    return value.lower()


def _kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"must be a kind of record: {', '.join(KINDS)}")
    return value


class ClientSettings(Model):
    """A client with an API key.

    key_sha256: the SHA-256 of its key, in hexadecimal. Two while a key is being replaced.
    scopes:     the kinds of record that it may write.
    """

    key_sha256: Annotated[
        tuple[Annotated[str, AfterValidator(_hash)], ...],
        BeforeValidator(_listed),
        Field(min_length=1),
    ]
    scopes: Annotated[
        tuple[Annotated[str, AfterValidator(_kind)], ...], BeforeValidator(_listed)
    ] = ("attendance",)


class OAuthSettings(Model):
    """Which access tokens the service accepts, and which claims say who may do what.

    issuer, audience: the required `iss` and `aud` of a token (RFC 9068, section 4).
    jwks:             the issuer's keys: an https URL, or the path of a file (RFC 7517, section 5).
    scope_prefix:     the text before a kind in a scope. With "bus:write:", the scope
                      "bus:write:attendance" lets a client write attendance.
    scope_claim:      the claim with the scopes: a text separated by spaces, or a list.
    client_claim:     the claim that names the client. Some issuers use "azp" or "sub".
    algorithms:       the accepted signature algorithms.
    leeway:           seconds by which the issuer's clock may differ.
    """

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    jwks: str = Field(min_length=1)
    scope_prefix: str = "bus:write:"
    scope_claim: str = "scope"
    client_claim: str = "client_id"
    algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(_listed)] = ("RS256", "ES256")
    leeway: int = Field(default=30, ge=0, le=600)

    @check(mode="after")
    def _over_tls(self) -> OAuthSettings:
        if self.jwks.startswith("http://"):
            raise ValueError(
                "jwks must be an https URL or a file; keys fetched over http can be replaced on "
                "the way"
            )
        return self


class HttpSettings(Model):
    """The service. Times are in seconds unless the name says otherwise.

    host, port:        the address on which the service listens. Port 0 chooses a free port.
    instance:          the name of this service. Each of several services on one cluster needs
                       another name; two with the same name would fence each other off in Kafka.
    certificate_file, key_file, key_password: TLS, in PEM. Without them the service uses plain HTTP.
    clients:           the clients with API keys, by name.
    oauth:             the issuer of access tokens, if tokens are accepted.
    body_bytes, body_seconds, body_records: the maximum size of a request's body, the time in which
                       it must arrive, and the maximum number of records in it.
    requests_in_hand, queue_records: how many requests may be in progress, and how many records may
                       wait for Kafka, at once.
    rate, burst:       how many requests each client may send a second, and how many at once.
    interval:          under load, the time from the beginning of one transaction to the next. Fewer
                       and larger transactions cost Kafka much less. When there are few requests,
                       they do not wait.
    commit_seconds:    how long a request waits for Kafka before it is answered with 503.
    idempotency_hours: how long an Idempotency-Key is remembered.
    idempotency_keys:  how many keys are remembered at most, about 250 bytes of memory each. Beyond
                       that number the oldest are forgotten.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    instance: str = Field(default="0", pattern=r"^[a-zA-Z0-9._-]+$")
    certificate_file: str = ""
    key_file: str = ""
    key_password: SecretStr = SecretStr("")
    clients: dict[Annotated[str, Field(pattern=CLIENT_NAME)], ClientSettings] = Field(
        default_factory=dict
    )
    oauth: OAuthSettings | None = None
    body_bytes: int = Field(default=1_000_000, ge=1)
    body_seconds: float = Field(default=30.0, gt=0)
    body_records: int = Field(default=1_000, ge=1)
    requests_in_hand: int = Field(default=500, ge=1)
    queue_records: int = Field(default=20_000, ge=1)
    rate: float = Field(default=500.0, gt=0)
    burst: int = Field(default=1_000, ge=1)
    interval: float = Field(default=0.05, ge=0, le=1)
    commit_seconds: float = Field(default=10.0, gt=0)
    idempotency_hours: float = Field(default=24.0, gt=0)
    idempotency_keys: int = Field(default=1_000_000, ge=1)

    @check(mode="after")
    def _keys_differ(self) -> HttpSettings:
        hashes = [digest for client in self.clients.values() for digest in client.key_sha256]
        if len(set(hashes)) < len(hashes):
            raise ValueError("two clients have the same key; create one for each with --new-key")
        if bool(self.certificate_file) != bool(self.key_file):
            raise ValueError(
                "TLS needs certificate_file and key_file, but only one is set; set both"
            )
        return self


def http_settings(settings: Settings, **options: object) -> HttpSettings:
    """Return the settings of the service. Options of the command line take precedence.

    Options that are None are ignored. Raises `Stop` that names what is wrong, or when no client
    could be authenticated at all.
    """
    table = settings.producers.get("http", {})
    given = {name: value for name, value in options.items() if value is not None}
    try:
        http = HttpSettings.model_validate(table | given)
    except ValidationError as error:
        raise Stop(f"in [producers.http]: {explain(error, HttpSettings)}") from None
    if not http.clients and http.oauth is None:
        raise Stop(
            "no client may write, because the service has neither API keys nor an OAuth issuer. "
            "`bus produce http --new-key NAME` creates a key and prints what to add to bus.toml. "
            "For access tokens, set issuer, audience and jwks in [producers.http.oauth]"
        )
    return http
