"""A copy of deploy/ with test settings and secrets, on a real engine.

One command starts it, as its README says, in a separate project. At the end, everything is removed.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container
from testcontainers.core.container import DockerContainer

from bus.local.machine import free_port
from bus.settings import KafkaSettings, RegistrySettings, Settings
from tests.integration import containers
from tests.integration.commands import Commands

TOP = Path(__file__).parents[2]
BUILT_FROM = ("bus", "producers", "consumers", "schemas", "deploy")
FILES = (".dockerignore", "pyproject.toml", "requirements.lock", "README.md")
PASSED_ON = ("BASE", "KAFKA_IMAGE", "REGISTRY_IMAGE")
"""Settings of deploy/ that a machine may need to get the images; the test sets the others."""
UP_SECONDS = 900.0
"""The time limit of the first start, which builds the image."""

VENDOR_PORT = 9999
VENDOR = """
import os, time
with Receiver(os.environ["SECRET"], port=int(os.environ["PORT"])) as receiver:
    printed = 0
    while True:
        time.sleep(0.2)
        for one in receiver.received[printed:]:
            printed += 1
            print(json.dumps([one.id, one.event["type"], one.verified]), flush=True)
"""
"""The end of the vendor's program, which prints a line for each request.

The first part is the source of tests/webhook_receiver.py.
"""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A running project.

    folder: its copy of deploy/.
    key:    the key of the HTTP client.
    """

    client: docker.DockerClient
    command: tuple[str, ...]
    folder: Path
    project: str
    image: str
    port: int
    key: str
    secret: str

    def compose(self, *arguments: str, seconds: float = 120.0) -> str:
        """Run compose in the folder, as a person does; return its output."""
        engine = {k: v for k, v in os.environ.items() if k.startswith("DOCKER_")}
        env = {k: os.environ[k] for k in ("PATH", "HOME") if k in os.environ} | engine
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def containers(self) -> dict[str, Container]:
        """Return all containers by service, also those that have ended."""
        mine = {"label": f"com.docker.compose.project={self.project}"}
        found = self.client.containers.list(all=True, filters=mine)
        return {one.labels["com.docker.compose.service"]: one for one in found}

    def states(self) -> dict[str, str]:
        """Return the state of each service: healthy, unhealthy, starting, or such as `exited 0`."""
        found = {}
        for service, one in self.containers().items():
            state = one.attrs["State"]
            if state["Status"] == "running":
                found[service] = state.get("Health", {}).get("Status", "running")
            else:
                found[service] = f"{state['Status']} {state['ExitCode']}"
        return found

    def bus(self, *arguments: str) -> dict[str, Any]:
        """Run `docker-compose exec canvas bus … --json`."""
        line = ["bus", *arguments, "--json"]
        code, (out, err) = self.containers()["canvas"].exec_run(line, demux=True)
        assert code == 0, f"{arguments}: {out!r} {err!r}"
        found: dict[str, Any] = json.loads(out)
        return found

    def put(self, extract: Path) -> None:
        """Run `docker cp EXTRACT …:/drop/`, with a file that everyone can read."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            entry = tarfile.TarInfo(extract.name)
            entry.size, entry.mode = extract.stat().st_size, 0o644
            entry.mtime = int(extract.stat().st_mtime)
            with extract.open("rb") as file:
                archive.addfile(entry, file)
        assert self.containers()["oneroster-csv"].put_archive("/drop", packed.getvalue())

    def dropped(self, folder: str) -> set[str]:
        """Return the files in /drop/taken or /drop/refused."""
        _, out = self.containers()["oneroster-csv"].exec_run(
            ["ls", f"/drop/{folder}"], stderr=False
        )
        return set(out.decode().split())

    def out(self, service: str, to: Path) -> Path:
        """Run `docker cp SERVICE:/out TO`, which copies what a product received."""
        shutil.rmtree(to, ignore_errors=True)
        stream, _ = self.containers()[service].get_archive("/out")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            archive.extractall(to, filter="data")
        return to / "out"


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """Yield a copy of deploy/ in this folder, ready for `compose up -d`."""
    with containers.engine() as client:
        command = _compose()
        base = containers.variable(containers.services()["schemas"]["build"]["args"]["BASE"])
        containers.have(client, containers.image("kafka-1"), containers.image("registry"), base)
        for name in BUILT_FROM:
            private = shutil.ignore_patterns("__pycache__", ".env", "secrets")
            shutil.copytree(TOP / name, folder / name, ignore=private)
        for name in FILES:
            shutil.copy(TOP / name, folder / name)
        run = uuid.uuid4().hex[:8]
        key, digest = _client(folder)
        secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
        _secret(folder, "bus_producers__http__clients__frontoffice__key_sha256", digest)
        _secret(folder, "bus_products__webhook__secret", secret)
        found = Deployment(
            client=client,
            command=command,
            folder=folder / "deploy",
            project=f"schoolbus-test-{run}",
            image=f"schoolbus-test:{run}",
            port=free_port([]),
            key=key,
            secret=secret,
        )
        own = {
            "COMPOSE_PROJECT_NAME": found.project,
            "KAFKA_CLUSTER_ID": base64.urlsafe_b64encode(b"bus" + os.urandom(13)).decode()[:22],
            "KAFKA_HEAP": "512m",
            "TIME_ZONE": "America/Chicago",
            "WEBHOOK_URL": f"http://127.0.0.1:{VENDOR_PORT}/events",
            "BUS_IMAGE": found.image,
            "HTTP_PORT": str(found.port),
        }
        own |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        (found.folder / ".env").write_text("".join(f"{k}={v}\n" for k, v in own.items()))
        try:
            yield found
        finally:
            found.compose("down", "--volumes", "--remove-orphans")
            with suppress(docker.errors.ImageNotFound):  # the image was not built
                client.images.remove(found.image, force=True)


@contextmanager
def vendor(deployed: Deployment) -> Iterator[DockerContainer]:
    """Run a vendor on the loopback of the webhook consumer, where a URL needs no TLS."""
    program = (TOP / "tests" / "webhook_receiver.py").read_text("utf-8") + VENDOR
    container = DockerContainer(
        deployed.image,
        env={"SECRET": deployed.secret, "PORT": str(VENDOR_PORT)},
        entrypoint="python3",
        network_mode=f"container:{deployed.containers()['webhook'].id}",
    ).with_command(["-c", program])
    with containers.taken_away(deployed.client), container as running:
        yield running


def _compose() -> tuple[str, ...]:
    """Return `docker compose` or `docker-compose`, whichever is installed."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                return command
    pytest.skip("neither `docker compose` nor `docker-compose` is here")


def _client(folder: Path) -> tuple[str, str]:
    """Create a key for an HTTP client; return it and its SHA-256."""
    settings = Settings(home=folder, kafka=KafkaSettings(), registry=RegistrySettings())
    made = Commands(settings, folder).run("produce", "http", "--new-key", "frontoffice")
    return made["key"], made["toml"].partition('key_sha256 = "')[2].partition('"')[0]


def _secret(folder: Path, name: str, value: str) -> None:
    """Write a file that the user of the containers can read, in a folder closed to other users."""
    secrets = folder / "deploy" / "secrets"
    secrets.mkdir(mode=0o700, exist_ok=True)
    (secrets / name).write_text(value)
    (secrets / name).chmod(0o444)
