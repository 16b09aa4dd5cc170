"""All settings, in one typed object that the command line creates and passes on.

The first place that has a value wins: the environment (`BUS_KAFKA__BOOTSTRAP`), a folder of secrets
(`BUS_SECRETS_DIR`, with one file for each value: `bus_kafka__sasl_password`), `bus.toml` (the file
that `BUS_CONFIG` names, or `bus.toml` in the current folder), the default in this module.

Without `[kafka] bootstrap`, the settings mean the embedded bus in `BUS_HOME`. A secret is a
`SecretStr`, which prints as stars.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from tomllib import TOMLDecodeError, loads
from typing import Annotated, Any, Literal, get_args, get_origin
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
    """A group of settings; an unknown name is an error, as it is usually misspelled."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("not a time zone of the IANA database, such as America/Chicago")
    return name


TimeZone = Annotated[str, AfterValidator(_zone)]
"""The name of an IANA time zone, such as America/Chicago. A product's day is the district's day."""


class KafkaSettings(Model):
    """The Kafka cluster; names follow Kafka's own client settings.

    bootstrap:     host:port[,host:port]; empty for the embedded bus.
    client:        any other librdkafka settings, by their own names, passed on unchanged.
    partitions:    the number of partitions of each topic of the standard. It is the same for all,
                   so that one student's events of every kind have the same partition number. It
                   cannot change once topics exist.
    oauth_ca_file: the certificate authorities that check `oauth_token_url`; empty for the system's.
                   The cluster's own authority seldom signs for the identity provider.
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
    """The schema registry; any registry with Confluent's API. An empty url: the embedded one."""

    url: str = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    bearer_token: SecretStr = SecretStr("")
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""


class ConsumerSettings(Model):
    """How a consumer behaves; times are in seconds.

    hold_seconds:            how long a record waits for the records that it refers to, before it
                             becomes a dead letter.
    hold_records:            how many records may wait at one time. Beyond that, the consumer stops
                             reading.
    retry_first, retry_most: the first and the longest wait between attempts to deliver.
    circuit_failures:        the number of failed attempts in a row after which the circuit is open.
    drain_seconds:           how long a SIGTERM waits for the current batch.
    http_host, http_port:    where readiness, liveness and metrics are served; port 0: not served.
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
    """How many days Kafka keeps history; see `bus topics plan`.

    history_days:    every change of a record. After that, its latest state remains forever.
    attendance_days: attendance.
    deadletter_days: dead letters, and the audit topic, which says who looked at one.
    tiered:          whether attendance and dead letters are in the cluster's tiered storage.
    local_days:      how many days of those are also on the brokers' disks.
    """

    history_days: int = Field(default=365, ge=1)
    attendance_days: int = Field(default=730, ge=1)
    deadletter_days: int = Field(default=365, ge=1)
    tiered: bool = False
    local_days: int = Field(default=7, ge=1)


class MassWithdrawalSettings(Model):
    """The limits above which the guard stops an extract; all counts are per kind.

    share, records: more than this share (0 to 1) of the active records would be withdrawn, and more
                    than this many records.
    all_of:         all records would be withdrawn, and there were more than this many.
    half_of:        half of the records or more would be withdrawn, and there were more than this
                    many.
    """

    share: float = Field(default=0.10, ge=0, le=1)
    records: int = Field(default=20, ge=0)
    all_of: int = Field(default=3, ge=0)
    half_of: int = Field(default=20, ge=0)


class VendorsSettings(Model):
    """Vendors that subscribe under agreements.

    agreements:      the folder of the agreement files.
    master_key_file: the file with the key that wraps the keys of all agreements; empty for
                     `BUS_HOME/vendors/master.key`.
    webhook_secrets: for each agreement with a webhook, the secret that signs its events.
    webhook_old_secrets: the secrets before a change. They also sign, until each vendor uses the new
                     secret.
    internal_networks: networks in which no vendor's endpoint may be, such as public addresses of
                     the district. Private networks are always refused.
    loopback_endpoints: whether a vendor's endpoint may be on this machine, for tests.
    bootstrap:       Kafka's address for vendors. If it is empty: `kafka.bootstrap`, or on a secure
                     embedded bus the address of the listener for vendors.
    gate_url:        the address of `bus vendors gate` for vendors. If it is empty: the address at
                     which the gate last started with this home.
    quota_bytes_out: the bytes a second that Kafka sends to one user of a vendor, at most, for each
                     broker.
    quota_bytes_in:  the bytes a second that one user of a vendor may send.
    quota_request_percent: the share of one request thread that one user of a vendor may take.
    shards:          into how many parts the students are divided, so that several instances of
                     `bus vendors run` work at the same time. 1: one instance works, others wait.
    """

    agreements: Path = Path("agreements")
    master_key_file: str = ""
    webhook_secrets: dict[str, SecretStr] = Field(default_factory=dict)
    webhook_old_secrets: dict[str, SecretStr] = Field(default_factory=dict)
    internal_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    loopback_endpoints: bool = False
    bootstrap: str = ""
    gate_url: str = ""
    quota_bytes_out: int = Field(default=10_000_000, ge=1)
    quota_bytes_in: int = Field(default=100_000, ge=1)
    quota_request_percent: float = Field(default=25.0, gt=0)
    shards: int = Field(default=1, ge=1, le=100)


class TelemetrySettings(Model):
    """Logs and traces; without `otlp_endpoint`, traces are passed on but not exported."""

    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    otlp_endpoint: str = ""


class Settings(BaseSettings):
    """All settings.

    `products` and `producers` hold a table for each name. The product's or source's own model
    checks it.
    """

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
    vendors: VendorsSettings = VendorsSettings()
    products: dict[str, dict[str, Any]] = Field(default_factory=dict)
    producers: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def embedded(self) -> bool:
        """Whether these settings mean the embedded bus."""
        return not self.kafka.bootstrap

    def topic(self, name: str) -> str:
        """Return the full name of a topic: `schoolbus.student` for "student"."""
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
        """Read arguments, the environment, secrets and bus.toml, in this order."""
        sources = [init_settings, env_settings]
        if secrets := os.environ.get("BUS_SECRETS_DIR"):
            sources.append(
                NestedSecretsSettingsSource(
                    file_secret_settings, secrets_dir=secrets, secrets_dir_missing="error"
                )
            )
        sources.append(TomlConfigSettingsSource(settings_cls, config_file()))
        return tuple(sources)


class Tables(BaseSettings):
    """The tables of products and sources only, whatever the other settings are."""

    model_config = SettingsConfigDict(
        env_prefix="BUS_", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    products: dict[str, dict[str, Any]] = Field(default_factory=dict)
    producers: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @classmethod
    def load(cls) -> Tables:
        """Return the tables of this process; empty if they cannot be read, which `load` reports."""
        try:
            return cls()
        except (ValidationError, SettingsError, TOMLDecodeError, OSError):
            return cls.model_construct()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the same places as `Settings`."""
        return Settings.settings_customise_sources(
            settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
        )


OF_THE_ENVIRONMENT = ("BUS_CONFIG", "BUS_SECRETS_DIR", "BUS_CACHE_DIR", "BUS_MAVEN_REPOSITORY")
"""Variables that only the environment has; they are not part of `Settings`."""


def config_file() -> Path:
    """Return the settings file: the one that `BUS_CONFIG` names, or `bus.toml` in this folder."""
    return Path(os.environ.get("BUS_CONFIG", "bus.toml"))


NAME = r"[a-z0-9]+([-_][a-z0-9]+)*"
LONGEST_NAME = 60


def registered_name(what: str, name: str) -> None:
    """Raise ValueError if this cannot be the name of a product or a source.

    The name is part of topics, consumer groups and transactional ids, which have letters, digits,
    dots, dashes and underscores (Kafka, "Topic"). It is also part of a table name in bus.toml and
    of environment variables, which ignore case and use two underscores as a separator.

    what: "product" or "source".
    """
    if not re.fullmatch(NAME, name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"{name!r} cannot be the name of a {what}: use lowercase letters and digits, with "
            f"single dashes or underscores between them, and at most {LONGEST_NAME} characters"
        )


def load() -> Settings:
    """Return the settings of this process.

    Raises `Stop`, which names the setting and what is wrong with it, but never its value.
    """
    if (named := os.environ.get("BUS_CONFIG")) and not Path(named).is_file():
        raise Stop(f"BUS_CONFIG names {named}, which does not exist; correct it or unset it")
    if (named := os.environ.get("BUS_SECRETS_DIR")) and not Path(named).is_dir():
        raise Stop(f"BUS_SECRETS_DIR names {named}, which is not a folder; correct it or unset it")
    try:
        return Settings()
    except ValidationError as error:
        raise Stop(explain(error, Settings)) from None
    except SettingsError as error:  # names the setting or the folder, never a value
        raise Stop(
            f"the settings cannot be read: {error}; correct BUS_… in the environment or the folder "
            "of secrets (BUS_SECRETS_DIR)"
        ) from None
    except TOMLDecodeError as error:
        name = os.environ.get("BUS_CONFIG", "bus.toml")
        raise Stop(f"{name} is not valid TOML ({error}); correct it") from None
    except PermissionError as error:
        raise Stop(
            f"{error.filename} cannot be read: give the user that runs bus "
            f"(id {os.getuid()}) permission to read it"
        ) from None


def load_home() -> Path:
    """Return the home, even if other settings are wrong, for commands that must always work.

    Raises `Stop`, as `load` does, if the wrong setting is the one that names the home.
    """
    try:
        return load().home
    except Stop as wrong:
        fault = wrong
    if home := os.environ.get("BUS_HOME"):
        return Path(home)
    secret = Path(os.environ.get("BUS_SECRETS_DIR", os.devnull)) / "bus_home"
    try:
        home = secret.read_text("utf-8").strip() if secret.is_file() else _home_in_file()
    except OSError:
        raise fault from None
    if not home:
        raise fault
    return Path(home)


def _home_in_file() -> str:
    """Return the home that bus.toml names, even if the rest is not TOML; "" if it is not text.

    Raises `OSError` if the file cannot be read.
    """
    home: Any = str(Settings.model_fields["home"].default)
    path = config_file()
    if not path.exists() and "BUS_CONFIG" not in os.environ:
        return str(home)
    for line in path.read_text("utf-8", errors="replace").splitlines():
        if line.lstrip().startswith("["):
            break
        try:
            home = loads(line).get("home", home)
        except TOMLDecodeError:
            continue
    return home if isinstance(home, str) else ""


def misspelt_variables() -> list[str]:
    """Return a sentence for each misspelled `BUS_…` variable of the environment.

    A name that resembles no setting is ignored, as it may belong to another program.
    """
    ours = {_variable(name) for name in _dotted(Settings)}
    groups = {name.upper() for name in Settings.model_fields}
    wrong = []
    for name in sorted(os.environ):
        if not name.upper().startswith("BUS_") or name.upper() in OF_THE_ENVIRONMENT:
            continue
        first, _, rest = name.upper().removeprefix("BUS_").partition("__")
        if first in groups:  # pydantic checks the rest of the name
            continue
        known = [*ours, *OF_THE_ENVIRONMENT]
        group = next((group for group in sorted(groups) if first.startswith(f"{group}_")), "")
        if close := get_close_matches(name.upper(), known, 1, 0.85):
            wrong.append(f"{name} is not a setting; did you mean {close[0]}?")
        elif group:
            meant = f"BUS_{group}__{first.removeprefix(f'{group}_')}" + (rest and f"__{rest}")
            wrong.append(f"{name} is not a setting; did you mean {meant} (two underscores)?")
    return wrong


def _variable(dotted: str) -> str:
    return f"BUS_{dotted.replace('.', '__').upper()}"


def explain(
    error: ValidationError,
    model: type[BaseModel],
    source: str = "bus.toml or BUS_… in the environment",
) -> str:
    """Return what is wrong with settings, one line each, without any value.

    model:  the model of the settings. It suggests a name for each unknown one.
    source: where the settings come from.
    """
    lines = [
        f"  {'.'.join(map(str, problem['loc']))}: {_problem(problem, model)}"
        for problem in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    return f"these settings are wrong ({source}):\n" + "\n".join(lines)


def _problem(problem: Any, model: type[BaseModel]) -> str:
    if problem["type"] != "extra_forbidden":
        return str(problem["msg"])
    *path, name = map(str, problem["loc"])
    group = model_at(model, path)
    names = list(group.model_fields) if group else []
    if meant := meant_by(name, names):
        return f"this setting does not exist; did you mean {meant}?"
    if elsewhere := [one for one in _dotted(model) if one.rpartition(".")[2] == name]:
        return f"this setting does not exist here; did you mean {elsewhere[0]}?"
    return f"this setting does not exist; the settings are: {', '.join(names)}"


def meant_by(name: str, names: list[str]) -> str:
    """Return the name that a wrong name probably means, or ""."""
    plain = {one.lower().replace("-", "_"): one for one in names}
    close = get_close_matches(name.lower().replace("-", "_"), plain, 1)
    return plain[close[0]] if close else ""


def model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """Return the model of a group of settings within another, or None if there is none."""
    found: Any = model
    for part in path:
        if (inner := _model(found)) is not None:
            field = inner.model_fields.get(part)
            found = field.annotation if field else None
        else:  # a dict: any name has the same group of settings
            found = get_args(found)[1] if get_origin(found) is dict else None
    return _model(found)


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation names, alone or as `Model | None`; else None."""
    if get_origin(annotation) is dict:
        return None
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _dotted(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings of a model, such as `kafka.bootstrap`."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _dotted(inner, f"{before}{name}.")
        else:
            yield before + name
