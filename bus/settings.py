"""All settings, in one typed object that is made at the edge and passed in.

Where a value comes from, the first that has it: the environment (`BUS_KAFKA__BOOTSTRAP`), a file
of secrets (`BUS_SECRETS_DIR`, one file a value: `bus_kafka__sasl_password`), `bus.toml` (the file
named by `BUS_CONFIG`, else `bus.toml` in the current folder), the default here.

With no `[kafka] bootstrap` the embedded bus in `BUS_HOME` is meant. A secret is a `SecretStr`: it
shows as stars wherever it is printed.
"""

from __future__ import annotations

import os
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from bus.errors import Stop


class Model(BaseModel):
    """A group of settings: an unknown name is an error, as it is most often a misspelt one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("not a time zone of the IANA database, such as America/Chicago")
    return name


TimeZone = Annotated[str, AfterValidator(_zone)]
"""The name of an IANA time zone, such as America/Chicago: a product's day is its district's."""


class KafkaSettings(Model):
    """The cluster. Names follow Kafka's own client settings.

    bootstrap:   host:port[,host:port]; empty: the embedded bus.
    client:      any other librdkafka setting, by its own name, passed on as it is.
    partitions:  of every topic of the standard; the same for all, so that one student's events of
                 every kind have the same partition number. Fixed once topics exist.
    oauth_ca_file: the authorities with which `oauth_token_url` is checked; empty: the system's, as
                 the cluster's own authority seldom signs for the identity provider.
    """

    bootstrap: str = ""
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = ""
    sasl_username: str = ""
    sasl_password: SecretStr = SecretStr("")
    oauth_token_url: str = ""
    oauth_client_id: str = ""
    oauth_client_secret: SecretStr = SecretStr("")
    oauth_scope: str = ""
    oauth_ca_file: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    key_password: SecretStr = SecretStr("")
    client: dict[str, str | int | bool | float] = Field(default_factory=dict)
    partitions: int = Field(default=4, ge=1)
    replication: int = Field(default=0, ge=0, description="0: the cluster's own default")


class RegistrySettings(Model):
    """The schema registry; any that speaks Confluent's API. Empty url: the embedded one."""

    url: str = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    bearer_token: SecretStr = SecretStr("")
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""


class ConsumerSettings(Model):
    """How the loop behaves; times in seconds.

    hold_seconds:      how long a record waits for what it refers to, before the dead letters.
    hold_records:      how many records may wait at once; more: reading pauses.
    retry_first, retry_most: the first and the longest wait between tries of a delivery.
    circuit_failures:  failed tries in a row after which the circuit is open.
    drain_seconds:     how long a SIGTERM waits for the batch in hand.
    http_host, http_port: where readiness, liveness and metrics are served; port 0: nowhere.
    """

    hold_seconds: float = Field(default=30.0, ge=0)
    hold_records: int = Field(default=100_000, ge=1)
    retry_first: float = Field(default=0.5, gt=0)
    retry_most: float = Field(default=60.0, gt=0)
    circuit_failures: int = Field(default=3, ge=1)
    drain_seconds: float = Field(default=30.0, ge=0)
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=0, ge=0, le=65535)


class RetentionSettings(Model):
    """How long history is kept, in days; see `bus topics plan`.

    history_days:    every change of a record; after that its latest state stays, for ever.
    attendance_days: attendance.
    deadletter_days: dead letters, and notes of who looked at one.
    tiered:          whether attendance and dead letters lie in the cluster's tiered storage.
    local_days:      how many days of those are on the brokers' disks as well.
    """

    history_days: int = Field(default=365, ge=1)
    attendance_days: int = Field(default=730, ge=1)
    deadletter_days: int = Field(default=365, ge=1)
    tiered: bool = False
    local_days: int = Field(default=7, ge=1)


class MassWithdrawalSettings(Model):
    """When an extract that withdraws much of a kind is stopped; counts are of one kind of record.

    share, records: more than this share of the records that stood, 0 to 1, would go, and more than
                    so many.
    all_of:         all would go, and more than so many stood.
    half_of:        half of them or more would go, and more than so many stood.
    """

    share: float = Field(default=0.10, ge=0, le=1)
    records: int = Field(default=20, ge=0)
    all_of: int = Field(default=3, ge=0)
    half_of: int = Field(default=20, ge=0)


class TelemetrySettings(Model):
    """Logs, traces. `otlp_endpoint` empty: traces are carried on, not exported."""

    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    otlp_endpoint: str = ""


class Settings(BaseSettings):
    """Everything. `products` and `producers` hold a table for each, checked by its own model."""

    model_config = SettingsConfigDict(
        env_prefix="BUS_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = Path(".bus")
    topic_prefix: str = Field(default="schoolbus", pattern=r"^[a-zA-Z0-9.-]+$")
    kafka: KafkaSettings = KafkaSettings()
    registry: RegistrySettings = RegistrySettings()
    consumer: ConsumerSettings = ConsumerSettings()
    retention: RetentionSettings = RetentionSettings()
    mass_withdrawal: MassWithdrawalSettings = MassWithdrawalSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    products: dict[str, dict[str, Any]] = Field(default_factory=dict)
    producers: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def embedded(self) -> bool:
        """Whether the embedded bus is meant."""
        return not self.kafka.bootstrap

    def topic(self, name: str) -> str:
        """The full name of a topic: `schoolbus.student` for "student"."""
        return f"{self.topic_prefix}.{name}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = [init_settings, env_settings]
        if secrets := os.environ.get("BUS_SECRETS_DIR"):
            sources.append(
                NestedSecretsSettingsSource(
                    file_secret_settings, secrets_dir=secrets, secrets_dir_missing="error"
                )
            )
        sources.append(
            TomlConfigSettingsSource(settings_cls, Path(os.environ.get("BUS_CONFIG", "bus.toml")))
        )
        return tuple(sources)


def load() -> Settings:
    """The settings of this process, read once at the edge.

    Raises `Stop` that names the setting and what is wrong with it, never its value.
    """
    if (named := os.environ.get("BUS_CONFIG")) and not Path(named).is_file():
        raise Stop(f"BUS_CONFIG names {named}, which is not there; correct it or unset it")
    if (named := os.environ.get("BUS_SECRETS_DIR")) and not Path(named).is_dir():
        raise Stop(f"BUS_SECRETS_DIR names {named}, which is no folder; correct it or unset it")
    try:
        return Settings()
    except ValidationError as error:
        raise Stop(explain(error)) from None
    except SettingsError as error:  # names the setting or the folder, never a value
        raise Stop(
            f"settings cannot be read: {error}; correct BUS_… in the environment or the folder "
            "of secret files (BUS_SECRETS_DIR)"
        ) from None
    except TOMLDecodeError as error:
        name = os.environ.get("BUS_CONFIG", "bus.toml")
        raise Stop(f"{name} is not TOML ({error}); correct it") from None
    except PermissionError as error:
        raise Stop(
            f"{error.filename} cannot be read: let the user that bus runs as "
            f"(id {os.getuid()}) read it"
        ) from None


def explain(error: ValidationError) -> str:
    """What is wrong with settings, a line each, without any value."""
    lines = [
        f"  {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    return "these settings are wrong (bus.toml or BUS_… in the environment):\n" + "\n".join(lines)
