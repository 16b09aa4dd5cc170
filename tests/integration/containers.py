"""Kafka and the Apicurio Registry in containers, for `pytest --bus=testcontainers`.

The images are those of deploy/compose.yaml; `KAFKA_IMAGE` and `REGISTRY_IMAGE` name others, as they
do there. If there is no Docker engine on this machine, or an image is not available, the tests that
need them are skipped with that reason. Ports are on 127.0.0.1 only. The run removes its containers
itself. The helper container of testcontainers for that (Ryuk) would need one more image, so it is
used only if `TESTCONTAINERS_RYUK_DISABLED=false` is set.
"""

from __future__ import annotations

import gc
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
import pytest
import yaml

from bus.local import kafka_process, registry_process
from bus.local.machine import free_port
from tests.integration.commands import until

os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

from testcontainers.core.container import DockerContainer  # reads the variable once
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose.yaml"
READY_SECONDS = 120.0

Addresses = tuple[str, str]
"""The addresses of Kafka (`bootstrap`) and of the registry's Confluent API (`url`)."""


@contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """Yield a client of this machine's Docker engine; skip the test if there is none."""
    client, why = _client()
    if client is None:
        pytest.skip(f"no Docker engine: {why}")
    with closing(client):
        if urlsplit(client.api.base_url).hostname not in ("localhost", "127.0.0.1"):
            pytest.skip(f"the Docker engine is not on this machine: {client.api.base_url}")
        yield client


def _client() -> tuple[docker.DockerClient | None, str]:
    """Return the engine's client, or the reason why there is none."""
    with warnings.catch_warnings():
        # without an engine, the library leaves its socket to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = DockerClient().client
            client.ping()
            return client, ""
        except docker.errors.DockerException as error:
            why = str(error)
        gc.collect()
    return None, why


def services() -> dict[str, Any]:
    """Return the services of the compose file."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    return found


def image(service: str) -> str:
    """Return the image of a service, from the environment or by default."""
    return variable(services()[service]["image"])


def variable(text: str) -> str:
    """Replace `${NAME:-default}` in a value of the compose file."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: os.environ.get(found[1]) or found[2], text)


def have(client: docker.DockerClient, *images: str) -> None:
    """Pull the images that are missing; skip the test if one is not available."""
    for name in images:
        try:
            client.images.get(name)
        except docker.errors.ImageNotFound:
            try:
                client.images.pull(name)
            except docker.errors.APIError as error:
                pytest.skip(f"the image {name} cannot be had: {error.explanation}")


@contextmanager
def cluster() -> Iterator[Addresses]:
    """Run one broker and one registry while the block runs."""
    with engine() as client, taken_away(client), ExitStack() as stack:
        have(client, image("kafka-1"), image("registry"))
        ports = [free_port([])]
        ports.append(free_port(ports))
        broker = stack.enter_context(_kafka(ports[0]))
        schemas = stack.enter_context(_registry(ports[1]))
        _wait(broker, lambda: kafka_process.answers(ports[0]))
        _wait(schemas, lambda: registry_process.answers(ports[1]))
        yield f"127.0.0.1:{ports[0]}", registry_process.url(ports[1])


@contextmanager
def taken_away(client: docker.DockerClient) -> Iterator[None]:
    """Remove all containers of this run, also after an interrupted start."""
    try:
        yield
    finally:
        mine = {"label": f"{LABEL_SESSION_ID}={SESSION_ID}"}
        for left in client.containers.list(all=True, filters=mine):
            left.remove(force=True, v=True)


def _kafka(port: int) -> DockerContainer:
    """Return a broker as a district has it, with defaults except where one broker needs others.

    It listens on the same port inside and outside of the container. The address that it advertises
    is then right for clients on this machine and for the broker itself, which uses it to write the
    ends of transactions.
    """
    container = DockerContainer(
        image("kafka-1"),
        env={
            "CLUSTER_ID": "MkU3OEVBNTcwNTJENDM2Qg",
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@127.0.0.1:9093",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_LISTENERS": f"BUS://:{port},CONTROLLER://127.0.0.1:9093",
            "KAFKA_ADVERTISED_LISTENERS": f"BUS://127.0.0.1:{port}",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "BUS:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "KAFKA_INTER_BROKER_LISTENER_NAME": "BUS",
            "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
            "KAFKA_HEAP_OPTS": "-Xmx512m",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        },
    )
    return _published(container, port, port)


def _registry(port: int) -> DockerContainer:
    """Return a registry that keeps its state in memory."""
    container = DockerContainer(
        image("registry"),
        env={"QUARKUS_LOG_LEVEL": "WARN", "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false"},
    )
    return _published(container, 8080, port)


def _published(container: DockerContainer, inside: int, outside: int) -> DockerContainer:
    """Publish a port on 127.0.0.1 only; `with_bind_ports` would open it to other machines."""
    container.ports[f"{inside}/tcp"] = ("127.0.0.1", outside)  # type: ignore[assignment]
    return container


def _wait(container: DockerContainer, answers: Callable[[], bool]) -> None:
    """Wait until a container answers; fail with its log if it does not."""
    running = container.get_wrapped_container()

    def answered() -> bool:
        running.reload()
        assert running.status == "running", f"{running.status}"
        return answers()

    try:
        until(answered, f"{container.image} answers", READY_SECONDS)
    except AssertionError as error:
        error.add_note(running.logs(tail=50).decode(errors="replace"))
        raise
