"""What deploy/ promises: it is pinned and checked, and has no secrets and no rights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bus.settings import Settings

TOP = Path(__file__).parents[2]
COMPOSE = (TOP / "deploy" / "compose.yaml").read_text("utf-8")
DOCKERFILE = (TOP / "deploy" / "Dockerfile").read_text("utf-8")
BUS = {"schemas", "oneroster-csv", "http", "canvas", "microsoft-sds", "webhook"}
BROKERS = {"kafka-1", "kafka-2", "kafka-3"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE)
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments, without comments and line ends."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines())]


def last_stage() -> list[tuple[str, str]]:
    steps = instructions()
    begins = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    return steps[begins:]


def test_three_brokers_a_registry_two_sources_and_three_products(
    services: dict[str, dict[str, Any]],
) -> None:
    assert services.keys() == BROKERS | {"registry"} | BUS


def test_each_service_is_checked_or_runs_once(services: dict[str, dict[str, Any]]) -> None:
    of_the_image = {"canvas", "microsoft-sds", "webhook"}  # consumers; see the Dockerfile
    for name, service in services.items():
        if name == "schemas":
            assert service["restart"] == "no"
        else:
            assert service["restart"] == "unless-stopped"
            assert name in of_the_image or service["healthcheck"]["test"][0] == "CMD", name
    assert [word for word, _ in last_stage()].count("HEALTHCHECK") == 1


def test_nothing_starts_before_what_it_depends_on(services: dict[str, dict[str, Any]]) -> None:
    needs = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert needs["registry"] == {name: {"condition": "service_healthy"} for name in BROKERS}
    assert needs["schemas"] == {"registry": {"condition": "service_healthy"}}
    for name in BUS - {"schemas"}:
        assert needs[name] == {"schemas": {"condition": "service_completed_successfully"}}


def test_images_are_pinned_by_version(services: dict[str, dict[str, Any]]) -> None:
    images = {service["image"] for service in services.values()}
    base = re.search(r"^ARG BASE=(.+)$", DOCKERFILE, re.M)
    assert base
    for image in [re.sub(r"^\$\{\w+:-(.+)\}$", r"\1", image) for image in images] + [base[1]]:
        assert re.search(r":\d+\.\d+", image), image


def test_the_versions_are_those_that_the_embedded_bus_is_tested_with() -> None:
    from bus.local.download import fetched

    programs, _ = fetched(TOP)
    assert f"apache/kafka:{programs.kafka_version}}}" in COMPOSE
    assert f"apicurio/apicurio-registry:{programs.registry_version}}}" in COMPOSE


def test_the_base_is_the_same_in_both_files(services: dict[str, dict[str, Any]]) -> None:
    named = services["schemas"]["build"]["args"]["BASE"].removeprefix("${BASE:-").removesuffix("}")
    assert f"ARG BASE={named}\n" in DOCKERFILE


def test_a_record_is_on_three_brokers_before_it_counts(
    services: dict[str, dict[str, Any]],
) -> None:
    for number, name in enumerate(sorted(BROKERS), 1):
        reported = services[name]["environment"]
        assert reported["KAFKA_NODE_ID"] == number
        assert reported["KAFKA_MIN_INSYNC_REPLICAS"] == 2
        assert reported["KAFKA_TRANSACTION_STATE_LOG_MIN_ISR"] == 2
        replicas = [value for key, value in reported.items() if key.endswith("REPLICATION_FACTOR")]
        assert replicas == [3] * 4
    for name in BUS:
        assert services[name]["environment"]["BUS_KAFKA__REPLICATION"] == 3


def test_secrets_are_files_that_are_named_like_settings(compose: dict[str, Any]) -> None:
    services, secrets = compose["services"], compose["secrets"]
    used = {secret for service in services.values() for secret in service.get("secrets", ())}
    assert used == secrets.keys()
    for name, secret in secrets.items():
        assert secret == {"file": f"secrets/{name}"}
    for name, service in services.items():
        mounted = service.get("environment", {}).get("BUS_SECRETS_DIR")
        assert mounted == ("/run/secrets" if service.get("secrets") else None), name


def test_no_secret_is_in_the_files() -> None:
    for text in (COMPOSE, DOCKERFILE, (TOP / "deploy" / "README.md").read_text("utf-8")):
        assert not re.search(r"whsec_[A-Za-z0-9+/]{8}|\b[0-9a-f]{64}\b", text)
    named = re.findall(r"^\s*\w*(?:PASSWORD|SECRET|TOKEN|KEY\w*): *(.*)$", COMPOSE, re.M)
    assert named == []
    ignored = (TOP / "deploy" / ".gitignore").read_text("utf-8").split()
    assert {".env", "secrets/"} <= set(ignored)


def test_settings_in_the_file_are_ones_that_the_bus_knows(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from bus.plugins import product, product_settings
    from producers.http.settings import http_settings

    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if name.startswith("BUS_") and name != "BUS_SECRETS_DIR":
                monkeypatch.setenv(name, re.sub(r"^\$\{\w+:[-?](.*)\}$", r"\1", str(value)))
    digest = "BUS_PRODUCERS__HTTP__CLIENTS__FRONTOFFICE__KEY_SHA256"
    monkeypatch.setenv(digest, "ab" * 32)
    monkeypatch.setenv("BUS_PRODUCTS__WEBHOOK__URL", "https://vendor.example")
    monkeypatch.setenv("BUS_CONFIG", str(tmp_path / "none"))
    settings = Settings()
    assert not settings.embedded
    assert settings.registry.url and settings.kafka.replication == 3
    assert http_settings(settings).clients["frontoffice"].scopes == ("attendance",)
    for name in ("canvas", "microsoft-sds", "webhook"):
        assert product_settings(product(name), settings)
    assert settings.products.keys() == {"canvas", "microsoft-sds", "webhook"}


def test_only_the_http_source_is_reached_from_outside_and_from_this_machine_alone(
    services: dict[str, dict[str, Any]],
) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports.keys() == {"http"}
    assert all(port.startswith("127.0.0.1:") for port in ports["http"])


def test_the_image_ends_as_a_user_without_rights() -> None:
    stage = dict(last_stage())
    assert stage["USER"] == "10001:10001"
    assert stage["ENTRYPOINT"] == '["bus"]'
    assert {"/var/lib/schoolbus", "/out"} <= set(yaml.safe_load(stage["VOLUME"]))


def test_the_image_installs_only_what_the_lock_names() -> None:
    installs = [rest for word, rest in instructions() if word == "RUN" and "pip" in rest]
    commands = [part for rest in installs for part in rest.split("&&") if "/pip " in part]
    commands = [part for part in commands if " uninstall " not in part]
    assert len(commands) == 3
    for command in commands:
        assert "--no-index" in command or "--require-hashes" in command


def test_the_image_is_built_from_code_alone() -> None:
    listed = [
        line
        for line in (TOP / ".dockerignore").read_text("utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert listed[0] == "*"
    copied = {name for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]}
    let_in = {line.removeprefix("!") for line in listed if line.startswith("!")}
    assert let_in == {name for name in copied if not name.startswith(("/", "--"))}
