"""Authenticates clients and decides which kinds of record they may write.

A client authenticates in one of two ways:

* With an API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`. The service keeps only the
  SHA-256 of a key. This is safe because a key is 256 random bits, not a password that a person
  chose.
* With an OAuth 2.0 access token, as `Authorization: Bearer TOKEN`. The token is a JWT of the
  configured issuer (RFC 9068, section 4; RFC 8725, section 3).

A refusal says whether the key or the token was refused and why, as RFC 6750, section 3 requires. It
contains no part of the key or token.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from bus.errors import BusError, RetryLater, Stop
from bus.standard import KINDS
from producers.http.problems import Problem, unavailable
from producers.http.settings import HttpSettings, OAuthSettings

KEYS_STALE = 3600.0
"""Seconds after which an issuer's keys are fetched again, so that a withdrawn key is noticed."""
KEYS_REST = 30.0
"""Minimum number of seconds between two fetches, however many tokens name an unknown key."""


@dataclass(frozen=True, slots=True)
class Client:
    """A sender: its name and the kinds that it may write."""

    name: str
    kinds: frozenset[str]


class Clients:
    """All clients that may send. `issuer` is None when the service accepts no tokens."""

    def __init__(self, http: HttpSettings, issuer: Issuer | None = None) -> None:
        self._keys = [
            (bytes.fromhex(digest), Client(name, frozenset(client.scopes)))
            for name, client in http.clients.items()
            for digest in client.key_sha256
        ]
        self._issuer = issuer

    async def authenticate(self, headers: Mapping[str, str]) -> Client:
        """Return the client that sent these headers.

        Raises a 401 `Problem` when the headers hold no valid credentials.
        """
        key = headers.get("x-api-key", "")
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        bearer = bearer.strip() if scheme.lower() == "bearer" else ""
        if not key and not bearer:
            raise _unauthorized(
                "the request has no credentials; send an API key as X-API-Key, or an API key "
                "or access token as Authorization: Bearer"
            )
        if client := self._with_key(key or bearer):
            return client
        if not key and self._issuer is not None and bearer.count(".") == 2:
            return await self._issuer.client(bearer)
        raise _unauthorized(
            "the service does not know this API key; ask the district's operator for a new one",
            "invalid_token",
        )

    def _with_key(self, key: str) -> Client | None:
        digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        # Compares with all keys, so that the time taken does not reveal which one matches.
        for known, client in self._keys:
            if hmac.compare_digest(digest, known):
                found = client
        return found


class Issuer:
    """An OAuth 2.0 issuer. Checks access tokens against the keys that the issuer publishes.

    fetch: returns the issuer's JWK set. It is called in a thread and raises a `BusError`.
    """

    def __init__(
        self,
        settings: OAuthSettings,
        fetch: Callable[[], KeySet],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._fetch = fetch
        self._clock = clock
        self._keys = fetch()
        self._fetched = self._tried = clock()
        self._fetching = asyncio.Lock()
        self._claims = jwt.JWTClaimsRegistry(
            leeway=settings.leeway,
            iss={"essential": True, "value": settings.issuer},
            aud={"essential": True, "value": settings.audience},
            exp={"essential": True},
        )

    async def client(self, token: str) -> Client:
        """Return the client that the token was issued to.

        Raises a 401 `Problem` when the token is not valid.
        """
        if self._clock() - self._fetched > KEYS_STALE:
            await self._refresh()
        try:
            return self._checked(token)
        except InvalidKeyIdError:
            await self._refresh()
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise _refused(error) from None
        try:
            return self._checked(token)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise _refused(error) from None

    def _checked(self, token: str) -> Client:
        claims = jwt.decode(token, self._keys, algorithms=list(self._settings.algorithms)).claims
        self._claims.validate(claims)
        name = claims[self._settings.client_claim]
        if not isinstance(name, str) or not 0 < len(name) <= 200:
            raise ValueError(f"claim {self._settings.client_claim} does not name a client")
        granted = claims.get(self._settings.scope_claim, "")
        scopes = set(granted.split() if isinstance(granted, str) else granted)
        prefix = self._settings.scope_prefix
        return Client(name, frozenset(kind for kind in KINDS if prefix + kind in scopes))

    async def _refresh(self) -> None:
        async with self._fetching:
            if self._clock() - self._tried < KEYS_REST:
                return
            self._tried = self._clock()
            try:
                self._keys = await asyncio.to_thread(self._fetch)
                self._fetched = self._clock()
            except BusError as error:
                # The known keys are used for another KEYS_STALE seconds. After that the service
                # can neither accept nor refuse a token.
                if self._clock() - self._fetched > 2 * KEYS_STALE:
                    raise unavailable(str(error), KEYS_REST) from None


def key_set(location: str) -> KeySet:
    """Return the JWK set from a file or an https URL.

    Raises `Stop` when the file is missing or is not a JWK set, and `RetryLater` when the issuer
    does not answer.
    """
    try:
        if location.startswith("https://"):
            answer = httpx2.get(location, timeout=10, follow_redirects=False)
            answer.raise_for_status()
            found: Any = answer.json()
        else:
            found = json.loads(Path(location).read_text("utf-8"))
    except httpx2.HTTPError as error:
        raise RetryLater(
            f"the OAuth issuer's keys could not be fetched from {location} "
            f"({type(error).__name__}); check [producers.http.oauth] jwks"
        ) from None
    except OSError as error:
        raise Stop(
            f"the OAuth issuer's keys could not be read from {location} ({error.strerror}); "
            "check [producers.http.oauth] jwks"
        ) from None
    except ValueError:
        raise Stop(
            f"{location} does not contain JSON; [producers.http.oauth] jwks must name a JWK set"
        ) from None
    try:
        return KeySet.import_key_set(found)
    except (JoseError, ValueError, TypeError, KeyError):
        raise Stop(
            f"{location} does not contain a JWK set (RFC 7517, section 5); check "
            "[producers.http.oauth] jwks"
        ) from None


def new_key() -> tuple[str, str]:
    """Return a new API key and its SHA-256. The prefix lets scanners find a key that leaked."""
    key = "bus_" + secrets.token_urlsafe(32)
    return key, sha256(key.encode()).hexdigest()


def _refused(error: Exception) -> Problem:
    expired = isinstance(error, ExpiredTokenError)
    why = "has expired" if expired else f"is not accepted ({type(error).__name__})"
    return _unauthorized(f"the access token {why}; ask the issuer for a new one", "invalid_token")


def _unauthorized(detail: str, error: str = "") -> Problem:
    challenge = 'Bearer realm="schoolbus"' + (f', error="{error}"' if error else "")
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})
