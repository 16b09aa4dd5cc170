"""A cluster of three: a broker and controller in each process, on loopback.

The replication factor is 3, and 2 replicas must acknowledge a message, as in a district's
own cluster (Apache Kafka, "Broker Configs", `min.insync.replicas`; "KRaft"). The programs, Java's
options and the form of the configuration are those of the embedded bus.
"""

from __future__ import annotations

import base64
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bus.local import kafka_process, machine, process, sharing
from bus.local.download import Programs, programs

IDS = (1, 2, 3)
READY_SECONDS = 120.0
OFFSETS, TRANSACTIONS = "__consumer_offsets", "__transaction_state"
PARTITIONS = 4
"""The number of partitions of each of the two internal topics."""


@dataclass(slots=True)
class Brokers:
    """The three brokers; `running` has those that run."""

    folder: Path
    ports: dict[int, tuple[int, int]]
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    @property
    def bootstrap(self) -> str:
        """The addresses of all three, as a district writes them in `bus.toml`."""
        return ",".join(f"127.0.0.1:{port}" for port, _ in self.ports.values())

    def start(self, number: int) -> None:
        """Start a broker; `settled` returns whether it has joined."""
        home = self.folder / str(number)
        command = [*_java(), *kafka_process._jvm(_programs(), "-Xms96m", "-Xmx320m")]
        with (home / "logs" / "kafka.out").open("ab") as out:
            self.running[number] = subprocess.Popen(
                [*command, "kafka.Kafka", "server.properties"],
                cwd=home,
                env=process.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def kill(self, number: int, why: str) -> None:
        """Kill a broker without warning."""
        running = self.running.pop(number)
        running.kill()
        running.wait()
        self.killed.append(why)

    def settled(self) -> bool:
        """Return whether three brokers run and every replica of every partition is in sync."""
        with suppress(KafkaException):
            there = self._admin().list_topics(timeout=5)
            return len(there.brokers) == len(IDS) and all(
                len(partition.isrs) == len(partition.replicas)
                for topic in there.topics.values()
                for partition in topic.partitions.values()
            )
        return False

    def wait(self) -> None:
        """Wait until the cluster is settled."""
        until = time.monotonic() + READY_SECONDS
        while not self.settled():
            ended = [number for number, one in self.running.items() if one.poll() is not None]
            assert not ended, f"brokers {ended} have ended: see {self.folder}"
            assert time.monotonic() < until, f"not settled within {READY_SECONDS:.0f} s"
            time.sleep(0.2)

    def leader(self, topic: str, partition: int) -> int:
        """Return the broker that leads a partition."""
        found: int = (
            self._admin().list_topics(timeout=20).topics[topic].partitions[partition].leader
        )
        return found

    def coordinator(self, topic: str, name: str) -> int:
        """Return the broker for a group (`OFFSETS`) or a transactional id (`TRANSACTIONS`)."""
        return self.leader(topic, abs(_java_hash(name)) % PARTITIONS)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})


@contextmanager
def three_brokers(folder: Path) -> Iterator[Brokers]:
    """Run the brokers in a folder while the block runs."""
    taken: list[int] = []
    for _ in range(2 * len(IDS)):
        taken.append(machine.free_port(taken))
    ports = dict(zip(IDS, zip(taken[::2], taken[1::2], strict=True), strict=True))
    brokers = Brokers(folder, ports)
    cluster = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
    for number in IDS:
        home = folder / str(number)
        (home / "logs").mkdir(parents=True)
        (home / "run" / "tmp").mkdir(parents=True)
        (home / "server.properties").write_text(_properties(number, ports))
        tool = [
            *_java(),
            *kafka_process._jvm(_programs(), "-Xmx128m"),
            "kafka.tools.StorageTool",
        ]
        subprocess.run(
            [*tool, "format", "-t", cluster, "-c", "server.properties"],
            cwd=home,
            env=process.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )
    try:
        for number in IDS:
            brokers.start(number)
        brokers.wait()
        yield brokers
    finally:
        for one in brokers.running.values():
            one.kill()
        for one in brokers.running.values():
            one.wait()


def _java() -> list[str]:
    """Return Java with the archive of classes of the embedded bus, to start sooner."""
    java = machine.java()
    options = sharing.options(java, "kafka", kafka_process.FLAGS, _programs().kafka)
    return [java, *sharing.reading(options)]


def _programs() -> Programs:
    return programs(lambda _: None)


def _properties(number: int, ports: dict[int, tuple[int, int]]) -> str:
    own, controller = ports[number]
    text = kafka_process.PROPERTIES.format(
        kafka=own, controller=controller, data=kafka_process.DATA
    )
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    voters = ",".join(f"{one}@127.0.0.1:{port}" for one, (_, port) in ports.items())
    three = {name: "3" for name in lines if name.endswith("replication.factor")}
    two = {name: "2" for name in lines if name.endswith((".isr", "insync.replicas"))}
    own_lines = {
        "node.id": str(number),
        "controller.quorum.voters": voters,
        # A killed broker is fenced and another one leads within about 2 s, not 9 s.
        "broker.session.timeout.ms": "2000",
        "controller.quorum.fetch.timeout.ms": "1000",
        "controller.quorum.election.timeout.ms": "500",
        "offsets.topic.num.partitions": str(PARTITIONS),
        "transaction.state.log.num.partitions": str(PARTITIONS),
    }
    found = lines | three | two | own_lines
    return "\n".join(f"{name}={value}" for name, value in found.items())


def _java_hash(text: str) -> int:
    """Return `String.hashCode`, by which Kafka finds a name's partition (`Utils.abs`)."""
    found = 0
    for character in text:
        found = (31 * found + ord(character)) & 0xFFFFFFFF
    return found - (1 << 32) if found >= 1 << 31 else found
