"""Creates the registry's client from the settings, and turns its errors into the bus's own.

Source: Confluent, "Schema Registry API Reference" (error codes).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from bus.errors import RetryLater, Stop
from bus.settings import Settings

TIMEOUT = httpx2.Timeout(10.0, connect=4.0)
"""Seconds that one request may take. By default the client waits forever."""

NOT_THERE = frozenset({40401, 40402, 40403})
"""The error codes for no such subject, version or schema. A 404 with another code does not come
from this API."""


def client(settings: Settings) -> SchemaRegistryClient:
    """Return a client of the registry, or of the embedded one if the settings name no other.

    Close it after use. Raises `Stop` if the settings give no working client.
    """
    registry = settings.registry
    config: dict[str, Any] = {
        "url": registry.url,
        "timeout": TIMEOUT,
        "max.retries": 2,
        "retries.wait.ms": 200,
        "retries.max.wait.ms": 1000,
        "ssl.ca.location": registry.ca_file,
        "ssl.certificate.location": registry.certificate_file,
        "ssl.key.location": registry.key_file,
    }
    if registry.username:
        password = registry.password.get_secret_value()
        config["basic.auth.user.info"] = f"{registry.username}:{password}"
    if token := registry.bearer_token.get_secret_value():
        # The client requires a logical cluster, which exists only in Confluent Cloud.
        config |= {
            "bearer.auth.credentials.source": "STATIC_TOKEN",
            "bearer.auth.token": token,
            "bearer.auth.logical.cluster": "_",
        }
    config = {name: value for name, value in config.items() if value}
    if not registry.url:
        from bus.local import reach

        # It has no TLS, and loading the system's certificates takes longer than a request.
        config |= {"url": reach(settings.home).registry, "ssl.ca.location": False}
    try:
        found = SchemaRegistryClient(config)
    except (OSError, ValueError) as error:
        raise Stop(
            f"cannot create the registry's client ({type(error).__name__}); check url, ca_file, "
            "certificate_file, key_file and the credentials in [registry] of bus.toml"
        ) from None
    if not registry.url:
        # Requests to loopback must not use the user's proxy, and the client has no setting.
        found._rest_client.session.close()
        found._rest_client.session = httpx2.Client(
            verify=found._rest_client.verify, trust_env=False, timeout=TIMEOUT
        )
    return found


@contextmanager
def answered() -> Iterator[None]:
    """Turn the errors of the registry's client into the bus's own.

    Raises `RetryLater` if the registry does not answer or reports a temporary error. Raises `Stop`
    if it refuses, or if it is not a schema registry. No message contains credentials, nor the
    registry's URL, which may contain some.
    """
    try:
        yield
    except SchemaRegistryError as error:
        raise _rejection(error) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _unreachable(error) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Stop(
            f"the answer is not that of a schema registry ({type(error).__name__}); check "
            "[registry] url. The URL of Apicurio ends in /apis/ccompat/v7"
        ) from None


def _rejection(error: SchemaRegistryError) -> RetryLater | Stop:
    status = error.http_status_code
    if status in (401, 403):
        return Stop(
            f"the registry rejects these credentials (HTTP {status}); check [registry] username "
            "and password, or bearer_token, in bus.toml, and their rights in the registry"
        )
    if status >= 500 or status in (408, 429):
        return RetryLater(f"the registry answers HTTP {status}; try again when it is available")
    if status == 404 and error.error_code not in NOT_THERE:
        return Stop(
            "there is no schema registry at this address (HTTP 404); check [registry] url. The URL "
            "of Apicurio ends in /apis/ccompat/v7"
        )
    # Without a code the message is the page that came instead of an answer.
    details = f": {str(error.error_message)[:500]}" if (error.error_code or 0) > 0 else ""
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
