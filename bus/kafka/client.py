"""The settings that every Kafka client of the bus shares."""

from __future__ import annotations

import logging
import ssl
from typing import Any

from bus.extras import missing_extra
from bus.settings import KafkaSettings, Settings

LOGGER = logging.getLogger("bus.librdkafka")
"""Receives librdkafka's log lines. `bus.observe.telemetry` sets its level."""

COMMON: dict[str, Any] = {
    "logger": LOGGER,
    # librdkafka opens its first connection only after half of this time. With its default of
    # 100 ms, a client's first answer takes 54 ms instead of 13. After a failed connection the time
    # doubles, up to 10 s.
    "reconnect.backoff.ms": 20,
}
"""The librdkafka settings of every client, on every cluster."""


def group_settings(settings: Settings, group: str, *, fetch_wait_ms: int = 100) -> dict[str, Any]:
    """Return librdkafka's settings for one instance of a consumer.

    The consumer group is `PREFIX.GROUP`.

    fetch_wait_ms: for how long the broker holds back an empty response, which reports the ends of
                   partitions.
    """
    return {
        "session.timeout.ms": 10_000,
        "fetch.wait.max.ms": fetch_wait_ms,
        "fetch.queue.backoff.ms": 20,
        "queued.max.messages.kbytes": 65_536,
        **client_settings(settings),
        "group.id": f"{settings.topic_prefix}.{group}",
        "partition.assignment.strategy": "cooperative-sticky",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "max.poll.interval.ms": 900_000,
    }


def client_settings(settings: Settings) -> dict[str, Any]:
    """Return the librdkafka settings that every client of the cluster needs.

    The embedded bus writes its bootstrap address to its home when it starts, and this function
    reads the address there, and the credentials if the home is secure. Raises `Stop` if the
    embedded bus is not running and this process has not reached it before.
    """
    kafka = settings.kafka
    if settings.embedded:
        try:
            from bus.local import reach
            from bus.local.credentials import client_options
        except ModuleNotFoundError as error:  # a vendor who names no cluster
            raise missing_extra(error) or error from None
        there = reach(settings.home)
        return {
            **COMMON,
            "bootstrap.servers": there.bootstrap,
            **(client_options(settings.home) if there.secure else {}),
            **kafka.client,
        }
    config: dict[str, Any] = {
        **COMMON,
        "bootstrap.servers": kafka.bootstrap,
        "security.protocol": kafka.security_protocol,
        **kafka.client,
    }
    optional = {
        "sasl.mechanism": kafka.sasl_mechanism,
        "sasl.username": kafka.sasl_username,
        "sasl.password": kafka.sasl_password.get_secret_value(),
        "ssl.ca.location": kafka.ca_file,
        "ssl.certificate.location": kafka.certificate_file,
        "ssl.key.location": kafka.key_file,
        "ssl.key.password": kafka.key_password.get_secret_value(),
    }
    if kafka.sasl_mechanism == "OAUTHBEARER":
        optional |= {
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.token.endpoint.url": kafka.oauth_token_url,
            "sasl.oauthbearer.client.id": kafka.oauth_client_id,
            "sasl.oauthbearer.client.secret": kafka.oauth_client_secret.get_secret_value(),
            "sasl.oauthbearer.scope": kafka.oauth_scope,
            "https.ca.location": kafka.oauth_ca_file or _authorities(kafka),
        }
    return config | {name: value for name, value in optional.items() if value}


def _authorities(kafka: KafkaSettings) -> str:
    """Return the path of this system's trusted certificate authorities, for the token endpoint.

    The librdkafka build that pip installs looks for them in places that only some systems have.
    Returns an empty string if `[kafka] client` names the authorities or if there is no such path.
    """
    if {"https.ca.location", "https.ca.pem"} & kafka.client.keys():
        return ""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or ""
