"""Kafka as one node: its configuration, its data folder, its command, when it is ready.

KRaft combined mode, see Apache Kafka's documentation, "KRaft" and "Broker Configs".
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

from bus.errors import Stop
from bus.local import machine, process
from bus.local.download import Programs
from bus.local.home import read_text

PROPERTIES = """\
# Written anew by each `bus up`.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=BUS://127.0.0.1:{kafka},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=BUS://127.0.0.1:{kafka}
listener.security.protocol.map=BUS:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BUS
log.dirs={data}

# Topics are made by the bus with their own settings, never by a misspelt name.
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

# One node with a few groups: few internal partitions make the start and the first group quick.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=2
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000

# A summer without a run must not lose a consumer's place: 400 days.
offsets.retention.minutes=576000
# The longest transaction that a producer may ask for: 15 minutes.
transaction.max.timeout.ms=900000

# After a kill the broker is not let in again before its old session is over; with the default of
# 9 s a restart would take 13 s. Broker and controller are one process here, so it is safe.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500

num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
background.threads=2
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=33554432
"""

META = "meta.properties"
ID = r"[A-Za-z0-9_-]{22}"
"""Kafka's own form of an id: URL-safe base64 of a UUID."""

DATA = "kafka"
"""The data folder, relative to the home in which Kafka runs: no character of the home's path can
then upset the properties file, and a home may be moved."""


def formatted(home: Path) -> bool:
    """Whether the data folder is made; what was begun and never held data counts for nothing."""
    return holds_data(home) or says_whose(home / DATA / META)


def holds_data(home: Path) -> bool:
    """Whether Kafka has run in this home."""
    folder = home / DATA
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())


def says_whose(meta: Path) -> bool:
    """Whether this is a whole `meta.properties`: Kafka takes no data without one."""
    lines = dict(line.partition("=")[::2] for line in read_text(meta).splitlines())
    return (
        lines.get("version") == "1"
        and lines.get("node.id") == "1"
        and all(re.fullmatch(ID, lines.get(name, "")) for name in ("cluster.id", "directory.id"))
    )


def format_data(
    java: str, programs: Programs, home: Path, ports: dict[str, int], quicker: Sequence[str] = ()
) -> None:
    """Make the data folder, whole or not at all. `quicker`: see `bus.local.sharing`."""
    for left in home.glob(f"{DATA}.part*"):
        shutil.rmtree(left, ignore_errors=True)
    # names of its own, as the tool of a killed `bus up` may still be at work
    part = Path(mkdtemp(prefix=f"{DATA}.part", dir=home))
    config = home / "run" / "tmp" / f"{part.name}.properties"
    config.write_text(PROPERTIES.format(data=part.name, **ports), "utf-8")
    cluster = "-"  # with a dash at its beginning the tool would take it for an option
    while cluster.startswith("-"):
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    options = [*quicker, *_jvm(programs, "-Xmx128m")]
    arguments = ["format", "-t", cluster, "-c", str(config.relative_to(home))]
    try:
        done = subprocess.run(
            [java, *options, "kafka.tools.StorageTool", *arguments],
            cwd=home,
            env=process.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except OSError:
        machine.java_version(java)  # raises with the cause
        raise
    if done.returncode:
        said = process.gist(done.stderr or done.stdout)
        raise Stop(
            f"Kafka could not make its data folder {home / DATA}:\n  {said}\n`bus doctor` checks "
            "this machine; run `bus up` again"
        )
    config.unlink()
    shutil.rmtree(home / DATA, ignore_errors=True)  # half-made: `formatted` saw no data in it
    part.rename(home / DATA)


def command(
    java: str, programs: Programs, home: Path, ports: dict[str, int], quicker: Sequence[str] = ()
) -> list[str]:
    """How Kafka is started (in the home as its folder); writes its configuration."""
    config = home / "run" / "server.properties"
    config.write_text(PROPERTIES.format(data=DATA, **ports), "utf-8")
    options = [*quicker, *_jvm(programs, "-Xms128m", "-Xmx256m")]
    return [java, *options, "kafka.Kafka", str(config.relative_to(home))]


def _jvm(programs: Programs, *heap: str) -> list[str]:
    """Java's options. With its first compiler alone Kafka starts sooner, in less memory, and as
    measured with 1.5 million records takes and gives them just as fast."""
    config = Path(__file__).with_name("log4j2.xml").as_uri()
    return [
        *heap,
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=ALL-UNNAMED",
        "-Djava.awt.headless=true",
        "-Djava.io.tmpdir=run/tmp",
        f"-Dlog4j2.configurationFile={config}",
        "-Dschoolbus.logs=logs",
        "-cp",
        f"{programs.kafka}/*",
    ]


def answers(port: int) -> bool:
    """Whether Kafka takes requests (its port is known to be open)."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    try:
        return bool(client.list_topics(timeout=1).brokers)
    except KafkaException:
        return False
