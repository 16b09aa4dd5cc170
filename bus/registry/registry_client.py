"""The registry's client: made from the settings, and its failures turned into ours.

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
"""Seconds that one request may take; the client's own default is for ever."""

NOT_THERE = frozenset({40401, 40402, 40403})
"""Error codes: no such subject, version, schema. Any other 404 is not this API's."""


def client(settings: Settings) -> SchemaRegistryClient:
    """A client of the registry; of the embedded one where no other is set. Close it after use."""
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
        # The client asks for a logical cluster, which only Confluent Cloud knows.
        config |= {
            "bearer.auth.credentials.source": "STATIC_TOKEN",
            "bearer.auth.token": token,
            "bearer.auth.logical.cluster": "_",
        }
    config = {name: value for name, value in config.items() if value}
    if not registry.url:
        from bus.local import reach

        # It speaks no TLS: to read all the world's certificates would take longer than to ask it.
        config |= {"url": reach(settings.home).registry, "ssl.ca.location": False}
    try:
        found = SchemaRegistryClient(config)
    except (OSError, ValueError) as error:
        raise Stop(
            f"the registry's client cannot be made ({type(error).__name__}): look at url, ca_file, "
            "certificate_file, key_file and the credentials of [registry] in bus.toml"
        ) from None
    if not registry.url:
        # A proxy of the user's must not be asked for loopback, and the client has no setting.
        found._rest_client.session.close()
        found._rest_client.session = httpx2.Client(
            verify=found._rest_client.verify, trust_env=False, timeout=TIMEOUT
        )
    return found


@contextmanager
def answered() -> Iterator[None]:
    """Turn what the registry's client raises into ours.

    `RetryLater` when it does not answer or is not well, `Stop` when it refuses or is no registry.
    No message holds credentials, nor the registry's URL, which may hold some.
    """
    try:
        yield
    except SchemaRegistryError as error:
        raise _refusal(error) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _silence(error) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Stop(
            f"what answers is no schema registry ({type(error).__name__}); is [registry] url "
            "right? Apicurio's ends in /apis/ccompat/v7"
        ) from None


def _refusal(error: SchemaRegistryError) -> RetryLater | Stop:
    status = error.http_status_code
    if status in (401, 403):
        return Stop(
            f"the registry refuses these credentials (HTTP {status}); check [registry] username "
            "and password, or bearer_token, in bus.toml, and what they may do there"
        )
    if status >= 500 or status in (408, 429):
        return RetryLater(f"the registry answers HTTP {status}; try again when it is up")
    if status == 404 and error.error_code not in NOT_THERE:
        return Stop(
            "there is no schema registry at this address (HTTP 404); is [registry] url right? "
            "Apicurio's ends in /apis/ccompat/v7"
        )
    # Without a code the message is the page that came instead of an answer.
    said = f": {str(error.error_message)[:500]}" if (error.error_code or 0) > 0 else ""
    return Stop(f"the registry answers HTTP {status}{said}")


def _silence(error: BaseException) -> RetryLater | Stop:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Stop(
                f"the registry's certificate is not trusted ({cause.verify_message}); set "
                "[registry] ca_file to the authority that signed it"
            )
        cause = cause.__cause__ or cause.__context__
    return RetryLater(
        f"the registry does not answer ({type(error).__name__}); is it up, and is [registry] url "
        "right? `bus doctor` says more"
    )
