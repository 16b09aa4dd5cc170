"""A client of the schema registry, and its errors turned into the bus's own.

It makes the few requests that the bus needs. Confluent's own client would bring seven more
packages, and would add a quarter of a second to the start of every command (docs/decisions/23).

Source: Confluent, "Schema Registry API Reference" (subjects, schemas, compatibility, config,
content types, error codes).
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from urllib.parse import quote

import httpx2
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from bus.errors import RetryLater, Stop
from bus.settings import RegistrySettings, Settings

TIMEOUT = httpx2.Timeout(10.0, connect=4.0)
"""Seconds that one request may take."""

ATTEMPTS = 3
TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses after which a request is sent again at once."""

NOT_THERE = frozenset({40401, 40402, 40403})
"""The error codes for no such subject, version or schema. A 404 with another code does not come
from this API."""

SOFT_DELETED = 40404
"""The error code for a subject that is soft-deleted already."""

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


class RegistryError(Exception):
    """The registry answered a request with an error.

    status:  the HTTP status.
    code:    the registry's error code; 0 if the answer has none, so it is not the registry's.
    message: the registry's text.
    """

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(f"HTTP {status}, code {code}")
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A version of a subject's schema. `text` is the schema's JSON."""

    id: int
    version: int
    text: str


class RegistryClient:
    """Sends requests to one registry. A context manager: it closes its connections at the end.

    urls: the registry's addresses. After a temporary error, the next one is tried.
    http: the HTTP client, with credentials and certificates.

    Methods raise `RegistryError`, `httpx2.HTTPError`, or what a wrong answer causes; use them
    inside `answered`.
    """

    def __init__(self, urls: Sequence[str], http: httpx2.Client) -> None:
        self._urls = urls
        self._http = http

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def subjects(self, *, deleted: bool = False) -> list[str]:
        """Return the names of all subjects.

        deleted: also return subjects that are soft-deleted.
        """
        path = "/subjects?deleted=true" if deleted else "/subjects"
        return [str(name) for name in self._ask("GET", path)]

    def delete_subject(self, subject: str, *, permanent: bool = False) -> None:
        """Delete a subject with all its versions, if it exists.

        permanent: delete a soft-deleted subject for good. Otherwise, soft-delete the subject, which
                   keeps its schemas.
        """
        path = f"/subjects/{_part(subject)}{'?permanent=true' if permanent else ''}"
        try:
            self._ask("DELETE", path)
        except RegistryError as error:
            if error.code not in (*NOT_THERE, SOFT_DELETED):
                raise

    def versions(self, subject: str) -> list[int]:
        """Return the version numbers of a subject."""
        return [int(number) for number in self._ask("GET", f"/subjects/{_part(subject)}/versions")]

    def version(self, subject: str, number: int | None = None) -> RegisteredSchema:
        """Return a version of a subject; the latest without a number."""
        return _registered(
            self._ask("GET", f"/subjects/{_part(subject)}/versions/{number or 'latest'}")
        )

    def schema(self, schema_id: int) -> str:
        """Return the text of the schema with an id."""
        return str(self._ask("GET", f"/schemas/ids/{schema_id:d}")["schema"])

    def lookup(self, subject: str, text: str) -> RegisteredSchema:
        """Return the version of a subject that has this schema. Code 40403 if there is none."""
        return _registered(self._ask("POST", f"/subjects/{_part(subject)}", _avro(text)))

    def register_schema(self, subject: str, text: str) -> int:
        """Register a schema for a subject. Return its id."""
        return int(self._ask("POST", f"/subjects/{_part(subject)}/versions", _avro(text))["id"])

    def is_compatible(self, subject: str, text: str) -> bool:
        """Return whether the registry would accept a schema, compared with all versions."""
        path = f"/compatibility/subjects/{_part(subject)}/versions"
        return bool(self._ask("POST", path, _avro(text))["is_compatible"])

    def set_compatibility(self, subject: str, level: str) -> None:
        """Set the compatibility level of a subject, such as FULL_TRANSITIVE."""
        self._ask("PUT", f"/config/{_part(subject)}", {"compatibility": level})

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        """Send a request until it is answered, and return the JSON of the answer."""
        urls = cycle(self._urls)

        def attempt() -> Any:
            answer = self._http.request(method, next(urls) + path, json=body)
            if answer.status_code >= 400:
                raise _error(answer)
            return answer.json()

        retries = Retrying(
            retry=retry_if_exception(_is_temporary),
            stop=stop_after_attempt(ATTEMPTS * len(self._urls)),
            wait=wait_random_exponential(multiplier=0.2, max=1),
            reraise=True,
        )
        return retries(attempt)


def client(settings: Settings) -> RegistryClient:
    """Return a client of the registry, or of the embedded one if the settings name no other.

    Close it after use. Raises `Stop` if the settings give no working client.
    """
    registry = settings.registry
    if not registry.url:
        from bus.local import credentials, reach

        there = reach(settings.home)
        # Without TLS, loading the system's certificates would take longer than a request.
        options: dict[str, Any] = {"verify": False}
        if there.secure:
            known = credentials(settings.home)
            options["verify"] = ssl.create_default_context(cafile=str(known.ca_file))
            options["auth"] = (known.username, known.registry_password.get_secret_value())
        # A proxy of the user's must not be asked for loopback.
        return RegistryClient([there.registry], _http(trust_env=False, **options))
    urls = [one.strip().rstrip("/") for one in registry.url.split(",")]
    try:
        schemes = {httpx2.URL(one).scheme for one in urls}
        if not schemes <= {"http", "https"}:
            raise ValueError("not HTTP")
        # Without TLS there is nothing to verify, and loading the authorities takes time.
        verify = _authorities(registry) if "https" in schemes else False
        return RegistryClient(urls, _http(verify=verify, **_credentials(registry, urls)))
    except (OSError, ValueError, httpx2.InvalidURL) as error:
        raise Stop(
            f"cannot create the registry's client ({type(error).__name__}); check url, ca_file, "
            "certificate_file, key_file and the credentials in [registry] of bus.toml"
        ) from None


@contextmanager
def answered() -> Iterator[None]:
    """Turn the errors of the registry's client into the bus's own.

    Raises `RetryLater` if the registry does not answer or reports a temporary error. Raises `Stop`
    if it refuses, or if it is not a schema registry. No message contains credentials, nor the
    registry's URL, which may contain some.
    """
    try:
        yield
    except RegistryError as error:
        raise _rejection(error) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _unreachable(error) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Stop(
            f"the answer is not that of a schema registry ({type(error).__name__}); check "
            "[registry] url. The URL of Apicurio ends in /apis/ccompat/v7"
        ) from None


def _http(**options: Any) -> httpx2.Client:
    headers = {"Accept": f"{CONTENT_TYPE}, application/json", "Content-Type": CONTENT_TYPE}
    headers |= options.pop("headers", {})
    return httpx2.Client(timeout=TIMEOUT, headers=headers, **options)


def _credentials(registry: RegistrySettings, urls: Sequence[str]) -> dict[str, Any]:
    """Return the options of the HTTP client for a user and password, or a bearer token."""
    if token := registry.bearer_token.get_secret_value():
        return {"headers": {"Authorization": f"Bearer {token}"}}
    if registry.username:
        if any(httpx2.URL(one).userinfo for one in urls):
            raise ValueError("two users")
        return {"auth": (registry.username, registry.password.get_secret_value())}
    return {}


def _authorities(registry: RegistrySettings) -> ssl.SSLContext:
    """Return what checks the registry's certificate, with the client's own certificate if any."""
    context = ssl.create_default_context(cafile=registry.ca_file or None)
    if registry.certificate_file:
        context.load_cert_chain(registry.certificate_file, registry.key_file or None)
    return context


def _part(subject: str) -> str:
    return quote(subject, safe="")


def _avro(text: str) -> dict[str, str]:
    return {"schema": text, "schemaType": "AVRO"}


def _registered(answer: Any) -> RegisteredSchema:
    return RegisteredSchema(int(answer["id"]), int(answer["version"]), str(answer["schema"]))


def _error(answer: httpx2.Response) -> RegistryError:
    try:
        found = json.loads(answer.text)
        return RegistryError(answer.status_code, int(found["error_code"]), str(found["message"]))
    except (ValueError, KeyError, TypeError):
        return RegistryError(answer.status_code, 0, "")


def _is_temporary(error: BaseException) -> bool:
    if isinstance(error, RegistryError):
        return error.status in TEMPORARY
    return isinstance(error, httpx2.TransportError)


def _rejection(error: RegistryError) -> RetryLater | Stop:
    status = error.status
    if status in (401, 403):
        return Stop(
            f"the registry rejects these credentials (HTTP {status}); check [registry] username "
            "and password, or bearer_token, in bus.toml, and their rights in the registry"
        )
    if status >= 500 or status in (408, 429):
        return RetryLater(f"the registry answers HTTP {status}; try again when it is available")
    if status == 404 and error.code not in NOT_THERE:
        return Stop(
            "there is no schema registry at this address (HTTP 404); check [registry] url. The URL "
            "of Apicurio ends in /apis/ccompat/v7"
        )
    # Without a code the message is the page that came instead of an answer.
    details = f": {error.message[:500]}" if error.code > 0 else ""
    return Stop(f"the registry answers HTTP {status}{details}")


def _unreachable(error: BaseException) -> RetryLater | Stop:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Stop(
                f"the registry's certificate is not trusted ({cause.verify_message}); set "
                "[registry] ca_file to the authority that signed it"
            )
        cause = cause.__cause__ or cause.__context__
    return RetryLater(
        f"the registry does not answer ({type(error).__name__}); check that it is running, and "
        "that [registry] url is correct. `bus doctor` gives details"
    )
