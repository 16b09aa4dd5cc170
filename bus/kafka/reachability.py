"""Checks whether the cluster can be reached, and if not, names the setting to correct.

librdkafka retries for as long as the caller lets it. A failed request reports only that it failed.
librdkafka reports the cause separately, as an error of the client.
"""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from bus.errors import RetryLater, Stop
from bus.kafka.client import client_settings
from bus.settings import Settings

SECONDS = 5.0
"""Seconds that a cluster may take to answer when a command starts."""

PERMANENT = {KafkaError._AUTHENTICATION, KafkaError._SSL}
"""The errors after which waiting does not help."""


def check_reachable(settings: Settings, seconds: float = SECONDS) -> int:
    """Return the number of brokers.

    Raises `Stop` if Kafka does not accept these settings, and `RetryLater` if it does not answer
    within `seconds`.
    """
    errors: list[KafkaError] = []
    try:
        admin = AdminClient(client_settings(settings) | {"log_level": 0, "error_cb": errors.append})
    except KafkaException as error:
        refused_setting(error)
        raise Stop(
            f"cannot create a Kafka client ({error.args[0].name()}); check [kafka]"
        ) from None
    for timeout in (seconds / 10, seconds):  # a short attempt finds most errors
        try:
            return len(admin.list_topics(timeout=timeout).brokers)
        except KafkaException:
            admin.poll(0)
            if any(error.code() in PERMANENT for error in errors):
                break
    permanent = any(error.code() in PERMANENT for error in errors)
    reason = f"cannot connect to Kafka at {settings.kafka.bootstrap}: {_cause(settings, errors)}"
    raise Stop(reason) if permanent else RetryLater(reason)


def refused_setting(error: KafkaException) -> None:
    """Raise `Stop` if this error means that the client library rejects a setting."""
    if error.args[0].code() == KafkaError._INVALID_ARG:
        raise Stop(
            f"the Kafka client rejects its settings ({error.args[0].str()}); correct [kafka] or "
            "[kafka] client in bus.toml"
        ) from None


def _cause(settings: Settings, errors: list[KafkaError]) -> str:
    """Describe why the cluster cannot be reached, and which setting to check.

    The text quotes librdkafka and the brokers. It does not quote the identity provider, because any
    server may have sent that answer.
    """
    first = {error.code(): error.str().partition(" (after")[0][:300] for error in reversed(errors)}
    kafka = settings.kafka
    if reason := first.get(KafkaError._SSL):
        return (
            f"{reason}. Check [kafka] ca_file: it must contain the authority that signed the "
            "brokers' certificates. Also, bootstrap must name the brokers as their certificates do"
        )
    if (reason := first.get(KafkaError._AUTHENTICATION)) and "OAUTHBEARER token" in reason:
        if "trust anchors" in reason:
            return "the certificate authorities cannot be read; check [kafka] oauth_ca_file"
        if "certificate" in reason:
            return (
                f"the certificate of {kafka.oauth_token_url} is not trusted; check [kafka] "
                "oauth_ca_file"
            )
        return (
            f"{kafka.oauth_token_url} gives no token; check [kafka] oauth_token_url, "
            "oauth_client_id, oauth_client_secret and oauth_scope"
        )
    if reason and "mechanism handshake" in reason:
        return f"{reason}. Check [kafka] sasl_mechanism"
    if reason and kafka.sasl_mechanism == "OAUTHBEARER":
        return f"{reason}. Check [kafka] oauth_scope and oauth_client_id"
    if reason:
        return f"{reason}. Check [kafka] sasl_username and sasl_password"
    if reason := first.get(KafkaError._RESOLVE):
        return f"it does not answer ({reason}). Check [kafka] bootstrap"
    reason = first.get(KafkaError._TRANSPORT, "no reason given")
    return (
        f"it does not answer ({reason}). Check [kafka] bootstrap and security_protocol; a broker "
        "that requires TLS or SASL does not answer a client without it"
    )
