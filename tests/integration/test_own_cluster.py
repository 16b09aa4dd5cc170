"""A district's own cluster and registry, which require TLS and credentials.

With the right settings, all commands work. With a wrong setting they soon fail, name the setting,
and print no secret.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bus.demo.sample import District as Sample
from bus.registry import subjects
from bus.settings import KafkaSettings, RegistrySettings, Settings
from tests.integration.commands import Commands
from tests.integration.conftest import Bus
from tests.integration.in_process import Done
from tests.secured_cluster import (
    CLIENT,
    CLIENT_SECRET,
    HALF,
    HALFS_PASSWORD,
    PASSWORD,
    PREFIX,
    REGISTRY_PASSWORD,
    REGISTRY_TOKEN,
    REGISTRY_USER,
    STRANGER,
    STRANGERS_PASSWORD,
    USER,
    District,
    district,
)

STUDENTS = 50
GUESS = "wrong-guess-4711"
SECRETS = (
    PASSWORD,
    HALFS_PASSWORD,
    STRANGERS_PASSWORD,
    CLIENT_SECRET,
    REGISTRY_PASSWORD,
    REGISTRY_TOKEN,
)
GUESS = "wrong-guess-4711"
SOON = 90.0
"""A time limit in seconds; an idle machine takes half as long."""

PASSWORDS = {
    "BUS_KAFKA__SASL_PASSWORD": PASSWORD,
    "BUS_REGISTRY__PASSWORD": REGISTRY_PASSWORD,
}
TOKENS = {
    "BUS_KAFKA__OAUTH_CLIENT_SECRET": CLIENT_SECRET,
    "BUS_REGISTRY__BEARER_TOKEN": REGISTRY_TOKEN,
}


@pytest.fixture(scope="module")
def there(bus: Bus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[District]:
    with district(tmp_path_factory.mktemp("district"), bus.registry) as found:
        yield found


@dataclass(frozen=True, slots=True)
class Said:
    """What a command printed, its exit status, and how many seconds it took."""

    status: int
    result: dict[str, Any]
    seconds: float


@dataclass(slots=True)
class Operator:
    """A person at the district, with a folder, a `bus.toml` in it, and variables."""

    bus: Bus
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def settings(self, text: str) -> None:
        (self.folder / "bus.toml").write_text(text)

    def commands(self) -> Commands:
        settings = Settings(
            home=self.folder / "home",
            topic_prefix=PREFIX,
            kafka=KafkaSettings(),  # `bus.toml` names the cluster
            registry=RegistrySettings(),
        )
        variables = {"BUS_TELEMETRY__LOG_LEVEL": "debug", **self.variables}
        return Commands(settings, self.folder, variables)

    def starts(self, *arguments: str) -> subprocess.Popen[str]:
        return self.commands().start(*arguments)

    def types(self, *arguments: str) -> Said:
        began = time.monotonic()
        done = self.commands().ended(*arguments)
        return said(str(arguments), done, time.monotonic() - began)

    def succeeds(self, *arguments: str) -> dict[str, Any]:
        said = self.types(*arguments)
        assert said.status == 0, f"{arguments}: {said.result}"
        return said.result


def said(name: str, done: Done, seconds: float) -> Said:
    """Return the result of a command, and check that it printed no secret."""
    assert not [secret for secret in SECRETS if secret in done.stdout + done.stderr], name
    assert done.stdout.count("\n") == 1, f"{name}: not one line of JSON: {done}"
    return Said(done.returncode, json.loads(done.stdout), seconds)


def answers(started: dict[str, subprocess.Popen[str]]) -> dict[str, Said]:
    """Return the results of commands that run together; check that none printed a secret."""
    began = time.monotonic()
    found = {}
    try:
        for name, process in started.items():
            out, err = process.communicate(timeout=60)
            done = Done(process.returncode, out, err)
            found[name] = said(name, done, time.monotonic() - began)
    finally:
        for process in started.values():
            process.kill()
            process.communicate()
    return found


@pytest.fixture
def operator(bus: Bus, tmp_path: Path) -> Operator:
    return Operator(bus, tmp_path)


def with_passwords(there: District, **other: str) -> str:
    """Return a `bus.toml` for SCRAM and a registry password; the passwords come from elsewhere."""
    kafka = {
        "bootstrap": there.scram,
        "security_protocol": "sasl_ssl",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": USER,
        "ca_file": str(there.ca),
    }
    registry = {"url": there.registry, "username": REGISTRY_USER, "ca_file": str(there.ca)}
    return toml({"kafka": kafka, "registry": registry}, other)


def with_tokens(there: District, **other: str) -> str:
    """Return a `bus.toml` for OAuth 2 client credentials and a bearer token for the registry."""
    kafka = {
        "bootstrap": there.oauth,
        "security_protocol": "sasl_ssl",
        "sasl_mechanism": "OAUTHBEARER",
        "oauth_token_url": there.token_url,
        "oauth_client_id": CLIENT,
        "oauth_ca_file": str(there.ca),
        "ca_file": str(there.ca),
    }
    registry = {"url": there.registry, "ca_file": str(there.ca)}
    return toml({"kafka": kafka, "registry": registry}, other)


def toml(groups: dict[str, dict[str, str]], other: dict[str, str]) -> str:
    """Return the text of the file; `other` replaces values by `GROUP__NAME`."""
    lines = []
    for name, group in groups.items():
        mine = {
            k.removeprefix(f"{name}__"): v for k, v in other.items() if k.startswith(f"{name}__")
        }
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in (group | mine).items())]
    return "\n".join(lines) + "\n"


def secret_files(operator: Operator, variables: dict[str, str]) -> None:
    """Write secrets as a container platform mounts them: a file each, with a line end."""
    folder = operator.folder / "secrets"
    folder.mkdir()
    for name, value in variables.items():
        (folder / name.lower()).write_text(f"{value}\n")
    operator.variables["BUS_SECRETS_DIR"] = str(folder)


def main_job(operator: Operator, day: int) -> dict[str, int]:
    """Run every command in the order of the main job; return what the product received."""
    extract = operator.folder / "extract.zip"
    Sample(students=STUDENTS).write(extract, day=day)
    assert operator.succeeds("doctor")["ok"]
    operator.succeeds("schemas", "apply")
    records = operator.succeeds("produce", "oneroster-csv", str(extract))["records"]
    out = str(operator.folder / "canvas")
    reported = operator.succeeds("consume", "canvas", "--out", out, "--until-caught-up")
    status = operator.succeeds("status")
    assert status["groups"] == {f"{PREFIX}.canvas": {"lag": 0}}
    assert status["topics"][f"{PREFIX}.student"]["partitions"] == 4
    assert operator.succeeds("deadletters", "list", "canvas")["deadLetters"] == []
    assert operator.succeeds("quarantine", "list")["faults"] == []
    found: dict[str, int] = {
        "created": records["student"]["created"],
        "delivered": reported["delivered"]["student"],
    }
    return found


def test_the_main_job_with_passwords_then_with_tokens(operator: Operator, there: District) -> None:
    operator.settings(with_passwords(there))
    operator.variables |= PASSWORDS
    assert main_job(operator, day=1) == {"created": STUDENTS, "delivered": STUDENTS}

    operator.variables.clear()
    operator.settings(with_tokens(there))
    secret_files(operator, TOKENS)
    assert main_job(operator, day=2)["created"] == 1


def test_passwords_from_files(operator: Operator, there: District) -> None:
    operator.settings(with_passwords(there))
    secret_files(operator, PASSWORDS)
    assert operator.succeeds("doctor")["ok"]


def test_the_token_endpoint_is_checked_with_the_systems_authorities(
    operator: Operator, there: District
) -> None:
    operator.settings(with_tokens(there, kafka__oauth_ca_file=""))
    operator.variables |= TOKENS | {"SSL_CERT_FILE": str(there.ca)}
    # a process reads the authorities that the system trusts only once
    assert answers({"": operator.starts("doctor")})[""].result["ok"]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong setting, and which part `bus doctor` then reports, with which text.

    setting: a setting of `bus.toml`; the value `OTHER` is an authority that has signed nothing.
    tokens:  whether the other settings use tokens instead of passwords.
    """

    part: str
    says: tuple[str, ...]
    setting: dict[str, str] = field(default_factory=dict)
    variable: dict[str, str] = field(default_factory=dict)
    tokens: bool = False


MISTAKES = {
    "password": Mistake(
        "Kafka",
        ("Authentication failed", "[kafka] sasl_username and sasl_password"),
        variable={"BUS_KAFKA__SASL_PASSWORD": GUESS},
    ),
    "authority": Mistake("Kafka", ("verif", "[kafka] ca_file"), {"kafka__ca_file": "OTHER"}),
    "host": Mistake(
        "Kafka",
        ("nobody.invalid", "[kafka] bootstrap"),
        {"kafka__bootstrap": "nobody.invalid:9093"},
    ),
    "mechanism": Mistake(
        "Kafka",
        ("SCRAM-SHA-512", "[kafka] sasl_mechanism"),
        {"kafka__sasl_mechanism": "PLAIN"},
    ),
    "no TLS": Mistake(
        "Kafka",
        ("does not answer", "[kafka] bootstrap and security_protocol"),
        {"kafka__security_protocol": "plaintext"},
    ),
    "client's secret": Mistake(
        "Kafka",
        ("gives no token", "oauth_client_secret"),
        variable={"BUS_KAFKA__OAUTH_CLIENT_SECRET": GUESS},
        tokens=True,
    ),
    "token endpoint's authority": Mistake(
        "Kafka",
        ("not trusted", "[kafka] oauth_ca_file"),
        {"kafka__oauth_ca_file": "OTHER"},
        tokens=True,
    ),
    "token endpoint's authority, which the system has not": Mistake(
        "Kafka", ("not trusted", "[kafka] oauth_ca_file"), {"kafka__oauth_ca_file": ""}, tokens=True
    ),
    "registry's password": Mistake(
        "registry",
        ("HTTP 401", "[registry] username and password"),
        variable={"BUS_REGISTRY__PASSWORD": GUESS},
    ),
    "registry's token": Mistake(
        "registry",
        ("HTTP 401", "bearer_token"),
        variable={"BUS_REGISTRY__BEARER_TOKEN": GUESS},
        tokens=True,
    ),
    "registry's authority": Mistake(
        "registry", ("not trusted", "[registry] ca_file"), {"registry__ca_file": "OTHER"}
    ),
    "registry's host": Mistake(
        "registry",
        ("does not answer", "[registry] url"),
        {"registry__url": "https://nobody.invalid"},
    ),
}

SHUT_OUT = {
    "produce": ("produce", "oneroster-csv", "extract.zip"),
    "consume": ("consume", "canvas", "--out", "canvas", "--until-caught-up"),
    "status": ("status",),
    "deadletters": ("deadletters", "list", "canvas"),
    "schemas": ("schemas", "apply"),
}
"""Commands of an operator with a wrong password."""


def register(bus: Bus) -> None:
    """Register the schemas in the embedded registry directly, as `bus schemas apply` does."""
    subjects.apply(bus.settings.model_copy(update={"topic_prefix": PREFIX}))


@pytest.fixture(scope="module")
def mistaken(
    bus: Bus, there: District, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Said]:
    """The results of `bus doctor` after each mistake, and of other commands with wrong passwords.

    All run at the same time, because they mostly wait.
    """
    register(bus)
    started = {}
    for name, mistake in MISTAKES.items():
        one = Operator(
            bus, tmp_path_factory.mktemp("mistaken"), TOKENS if mistake.tokens else PASSWORDS
        )
        one.variables = one.variables | mistake.variable
        ca = str(there.other_ca)
        wrong = {key: ca if value == "OTHER" else value for key, value in mistake.setting.items()}
        one.settings((with_tokens if mistake.tokens else with_passwords)(there, **wrong))
        started[name] = one.starts("doctor")
    guessed = dict.fromkeys(PASSWORDS, GUESS)
    one = Operator(bus, tmp_path_factory.mktemp("shut-out"), guessed)
    one.settings(with_passwords(there))
    started["schemas"] = one.starts(*SHUT_OUT["schemas"])
    one = Operator(bus, one.folder, PASSWORDS | {"BUS_KAFKA__SASL_PASSWORD": GUESS})
    Sample(students=STUDENTS).write(one.folder / "extract.zip")
    started |= {name: one.starts(*line) for name, line in SHUT_OUT.items() if name != "schemas"}
    return answers(started)


@pytest.mark.parametrize("name", MISTAKES)
def test_the_doctor_names_the_wrong_setting(mistaken: dict[str, Said], name: str) -> None:
    said, mistake = mistaken[name], MISTAKES[name]
    assert said.status == 1
    assert said.seconds < SOON
    checks = {check["name"]: check for check in said.result["checks"]}
    assert [part for part, check in checks.items() if not check["ok"]] == [mistake.part]
    for words in mistake.says:
        assert words in checks[mistake.part]["says"]


@pytest.mark.parametrize("name", SHUT_OUT)
def test_every_command_ends_soon_when_it_is_not_let_in(
    mistaken: dict[str, Said], name: str
) -> None:
    said = mistaken[name]
    assert said.status == 1
    assert said.seconds < SOON
    if name == "schemas":
        assert "[registry] username and password, or" in said.result["error"]
    else:
        assert "Kafka" in said.result["error"]


def test_what_a_user_may_not_do_is_named(operator: Operator, there: District) -> None:
    Sample(students=STUDENTS).write(operator.folder / "extract.zip")
    operator.variables |= PASSWORDS
    register(operator.bus)

    operator.settings(with_passwords(there, kafka__sasl_username=STRANGER))
    operator.variables["BUS_KAFKA__SASL_PASSWORD"] = STRANGERS_PASSWORD
    for line in ("produce", "consume"):
        said = operator.types(*SHUT_OUT[line])
        assert said.status == 1
        assert "TOPIC_AUTHORIZATION_FAILED" in said.result["error"]
        assert "the right to create topics" in said.result["error"]

    operator.settings(with_passwords(there, kafka__sasl_username=HALF))
    operator.variables["BUS_KAFKA__SASL_PASSWORD"] = HALFS_PASSWORD
    said = operator.types(*SHUT_OUT["produce"])
    assert said.status == 1
    assert "TRANSACTIONAL_ID_AUTHORIZATION_FAILED" in said.result["error"]
    assert "ACLs of this user" in said.result["error"]
