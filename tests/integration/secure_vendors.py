"""A secure bus with vendors, whose projection and gate run, for the tests of vendors' access."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from bus import local
from bus.demo.sample import District as SampleDistrict
from bus.kafka.client import client_settings
from bus.local import kafka_process
from bus.registry import subjects
from bus.settings import Settings
from tests.integration.commands import Commands, until
from tests.integration.conftest import settings_of
from tests.integration.test_vendors import write_agreement

PREFIX = "wire"
STUDENTS = 60
REAUTH_SECONDS = 4
NAMES = ("math", "library", "ended", "revoked", "rotated")
PROGRAM = """
import json
from bus import subscribe
found = subscribe("student", agreement="{name}", group="app", until_caught_up=True)
print(json.dumps(sorted(event.key for event in found)))
"""


@dataclass(slots=True)
class Wire:
    """A secure bus with vendors, whose projection and gate run."""

    commands: Commands
    folder: Path
    vendors: dict[str, Any]
    gate: str
    projection: subprocess.Popen[str]

    @property
    def settings(self) -> Settings:
        return self.commands.settings

    def file(self, name: str) -> dict[str, str]:
        """The settings in a vendor's file of credentials."""
        lines = (self.folder / f"{name}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    def program(
        self, name: str, topic_of: str = "", text: str = PROGRAM
    ) -> subprocess.CompletedProcess[str]:
        """A vendor's program, which knows its credentials and nothing else."""
        return subprocess.run(
            [sys.executable, "-c", text.format(name=topic_of or name)],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], **self.file(name)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def client(self, name: str) -> dict[str, Any]:
        return options(self.file(name), self.folder)


def options(file: dict[str, str], folder: Path) -> dict[str, Any]:
    """Return librdkafka's settings that a file of credentials means."""
    return {
        "bootstrap.servers": file["BUS_KAFKA__BOOTSTRAP"],
        "security.protocol": file["BUS_KAFKA__SECURITY_PROTOCOL"],
        "sasl.mechanism": file["BUS_KAFKA__SASL_MECHANISM"],
        "sasl.username": file["BUS_KAFKA__SASL_USERNAME"],
        "sasl.password": file["BUS_KAFKA__SASL_PASSWORD"],
        "ssl.ca.location": str(folder / file["BUS_KAFKA__CA_FILE"]),
        "log_level": 0,
    }


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    folder = tmp_path_factory.mktemp("wire")
    settings = settings_of(folder / "home").model_copy(update={"topic_prefix": PREFIX})
    commands = Commands(settings, folder)
    processes: list[subprocess.Popen[str]] = []
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kafka_process, "REAUTH_SECONDS", REAUTH_SECONDS)
            local.up(settings.home, secure=True)
        subjects.apply(settings)
        path = SampleDistrict(students=STUDENTS, opt_outs=0.05).write(folder / "day-1.zip")
        commands.run("produce", "oneroster-csv", str(path))
        for name in NAMES:
            write_agreement(folder / "agreements", name)
        gate = commands.start("vendors", "gate")
        processes.append(gate)
        assert gate.stdout is not None
        url = json.loads(gate.stdout.readline())["url"]
        made = commands.run("vendors", "apply", "--credentials", "secrets")["vendors"]
        found = Wire(commands, folder / "secrets", made, url, commands.start("vendors", "run"))
        processes.append(found.projection)
        until(lambda: _students(found, NAMES[-1]), "the last vendor's topic has records")
        yield found
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=30)
            process.kill()
        local.down(settings.home)


def _students(wire: Wire, name: str) -> int:
    topic = wire.vendors[name]["topics"]["student"]
    reader = Consumer(client_settings(wire.settings) | {"group.id": "test"})
    try:
        parts = reader.list_topics(topic, 10).topics[topic].partitions
        marks = [reader.get_watermark_offsets(TopicPartition(topic, part), 10) for part in parts]
        return sum(high for _, high in marks)
    finally:
        reader.close()


def logs_in(client: dict[str, Any]) -> bool:
    try:
        AdminClient(client).list_topics(timeout=3)
    except KafkaException:
        return False
    return True


def subjects_seen(wire: Wire, file: dict[str, str]) -> int:
    with httpx2.Client(verify=tls_context(wire), trust_env=False) as client:
        token = file["BUS_REGISTRY__BEARER_TOKEN"]
        return client.get(
            f"{wire.gate}/subjects", headers={"Authorization": f"Bearer {token}"}
        ).status_code


def tls_context(wire: Wire) -> Any:
    import ssl

    return ssl.create_default_context(cafile=str(wire.folder / "ca.pem"))
