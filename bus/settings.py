"""All settings, in one typed object that is made at the edge and passed in.

Where a value comes from, the first that has it: the environment (`BUS_KAFKA__BOOTSTRAP`), a file
of secrets (`BUS_SECRETS_DIR`, one file a value: `bus_kafka__sasl_password`), `bus.toml` (the file
named by `BUS_CONFIG`, else `bus.toml` in the current folder), the default here.

With no `[kafka] bootstrap` the embedded bus in `BUS_HOME` is meant. A secret is a `SecretStr`: it
shows as stars wherever it is printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
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
        sources.append(TomlConfigSettingsSource(settings_cls, config_file()))
        return tuple(sources)


class Tables(BaseSettings):
    """The tables of products and sources alone, whatever else is set."""

    model_config = SettingsConfigDict(
        env_prefix="BUS_", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    products: dict[str, dict[str, Any]] = Field(default_factory=dict)
    producers: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @classmethod
    def load(cls) -> Tables:
        """Those of this process; none where they cannot be read, which `load` tells."""
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
        return Settings.settings_customise_sources(
            settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
        )


OF_THE_ENVIRONMENT = ("BUS_CONFIG", "BUS_SECRETS_DIR", "BUS_CACHE_DIR", "BUS_MAVEN_REPOSITORY")
"""What is read from the environment alone, and is no part of `Settings`."""


def config_file() -> Path:
    """The file of settings: as `BUS_CONFIG` says, else `bus.toml` in the current folder."""
    return Path(os.environ.get("BUS_CONFIG", "bus.toml"))


NAME = r"[a-z0-9]+([-_][a-z0-9]+)*"
LONGEST_NAME = 60


def registered_name(what: str, name: str) -> None:
    """Raise ValueError when this cannot be the name of a product or a source.

    It is a part of topics, groups and transactional ids (Kafka, "Topic": letters, digits, dots,
    dashes, underscores), of a table in bus.toml, and of variables, which have no capitals to tell
    and part their names by two underscores.

    what: "product" or "source".
    """
    if not re.fullmatch(NAME, name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"{name!r} cannot be the name of a {what}: it has small letters and digits, in parts "
            f"with a dash or an underscore between them, {LONGEST_NAME} characters at most"
        )


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
        raise Stop(explain(error, Settings)) from None
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


def load_home() -> Path:
    """The home alone, whatever is wrong with the other settings: for what must work in any case.

    Raises `Stop`, as `load` does, when the wrong setting is the one that names the home.
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
    """The home as bus.toml has it, also where the rest is no TOML; "" when it is no text.

    Raises `OSError` when the file cannot be read.
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
    """What is wrong with the environment's `BUS_…` names, a sentence each.

    A name that is like none of the settings' is let be, as it may be another program's.
    """
    ours = {_variable(name) for name in _dotted(Settings)}
    groups = {name.upper() for name in Settings.model_fields}
    wrong = []
    for name in sorted(os.environ):
        if not name.upper().startswith("BUS_") or name.upper() in OF_THE_ENVIRONMENT:
            continue
        first, _, rest = name.upper().removeprefix("BUS_").partition("__")
        if first in groups:  # what comes after it is checked when the settings are made
            continue
        known = [*ours, *OF_THE_ENVIRONMENT]
        group = next((group for group in sorted(groups) if first.startswith(f"{group}_")), "")
        if close := get_close_matches(name.upper(), known, 1, 0.85):
            wrong.append(f"{name} is no setting; {close[0]} may have been meant")
        elif group:
            meant = f"BUS_{group}__{first.removeprefix(f'{group}_')}" + (rest and f"__{rest}")
            wrong.append(f"{name} is no setting; {meant} may have been meant (two underscores)")
    return wrong


def _variable(dotted: str) -> str:
    return f"BUS_{dotted.replace('.', '__').upper()}"


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with settings, a line each, without any value.

    model: whose settings they are; it says which one may have been meant by one that it has not.
    """
    lines = [
        f"  {'.'.join(map(str, problem['loc']))}: {_problem(problem, model)}"
        for problem in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    return "these settings are wrong (bus.toml or BUS_… in the environment):\n" + "\n".join(lines)


def _problem(problem: Any, model: type[BaseModel]) -> str:
    if problem["type"] != "extra_forbidden":
        return str(problem["msg"])
    *path, name = map(str, problem["loc"])
    group = model_at(model, path)
    names = list(group.model_fields) if group else []
    if meant := meant_by(name, names):
        return f"there is no such setting; {meant} may have been meant"
    if elsewhere := [one for one in _dotted(model) if one.rpartition(".")[2] == name]:
        return f"there is no such setting here; {elsewhere[0]} may have been meant"
    return f"there is no such setting; there are: {', '.join(names)}"


def meant_by(name: str, names: list[str]) -> str:
    """The one of these names that may have been meant by a wrong one, or ""."""
    plain = {one.lower().replace("-", "_"): one for one in names}
    close = get_close_matches(name.lower().replace("-", "_"), plain, 1)
    return plain[close[0]] if close else ""


def model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """The model of a group of settings within another, or None when there is none."""
    found: Any = model
    for part in path:
        if (inner := _model(found)) is not None:
            field = inner.model_fields.get(part)
            found = field.annotation if field else None
        else:  # a table with a group for each name
            found = get_args(found)[1] if get_origin(found) is dict else None
    return _model(found)


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation names, alone or beside None."""
    if get_origin(annotation) is dict:
        return None
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _dotted(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """All settings of a model, each with its groups: `kafka.bootstrap`."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _dotted(inner, f"{before}{name}.")
        else:
            yield before + name
