"""Runs Kafka as a single node: configuration, data folder, command, readiness.

The node is broker and controller in one (KRaft combined mode).

Source: Apache Kafka documentation, "KRaft" and "Broker Configs".
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
# `bus up` writes this file at each start.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=BUS://127.0.0.1:{kafka},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=BUS://127.0.0.1:{kafka}
listener.security.protocol.map=BUS:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BUS
log.dirs={data}

# The bus creates topics with their own settings. A misspelled name must not create one.
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

# There are few groups. With few internal partitions, Kafka and the first group start faster.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=2
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000

# 400 days, so that consumer groups keep their offsets over a summer without a run.
offsets.retention.minutes=576000
# The longest transaction timeout that a producer may request: 15 minutes.
transaction.max.timeout.ms=900000

# After a kill, the controller admits the broker only when its old session has ended. With the
# default of 9 s a restart takes 13 s. Broker and controller are one process, so 3 s are safe.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500

num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
background.threads=2
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=33554432
"""

FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)
"""Java's options that an archive of classes depends on.

With the first compiler alone (C1), Kafka starts faster and needs less memory. With 1.5 million
records it was measured to be as fast."""

META = "meta.properties"
ID = r"[A-Za-z0-9_-]{22}"
"""The form of Kafka's ids: a UUID in URL-safe base64."""

DATA = "kafka"
"""The data folder, relative to the home, which is Kafka's working folder.

So no character of the home's path can break the properties file, and a home can be moved."""


def formatted(home: Path) -> bool:
    """Return whether the data folder is complete. A folder that never held data does not count."""
    return holds_data(home) or says_whose(home / DATA / META)


def holds_data(home: Path) -> bool:
    """Return whether Kafka has run in this home."""
    folder = home / DATA
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())


def says_whose(meta: Path) -> bool:
    """Return whether this is a complete `meta.properties`, which Kafka requires."""
    lines = dict(line.partition("=")[::2] for line in read_text(meta).splitlines())
    return (
        lines.get("version") == "1"
        and lines.get("node.id") == "1"
        and all(re.fullmatch(ID, lines.get(name, "")) for name in ("cluster.id", "directory.id"))
    )


def format_data(
    java: str, programs: Programs, home: Path, ports: dict[str, int], quicker: Sequence[str] = ()
) -> None:
    """Create the data folder, completely or not at all.

    quicker: options that shorten the start, from `bus.local.sharing`.

    Raises `Stop` with the reason if Kafka's tool fails.
    """
    for left in home.glob(f"{DATA}.part*"):
        shutil.rmtree(left, ignore_errors=True)
    # Unique names, because the tool of a killed `bus up` may still be running.
    part = Path(mkdtemp(prefix=f"{DATA}.part", dir=home))
    config = home / "run" / "tmp" / f"{part.name}.properties"
    config.write_text(PROPERTIES.format(data=part.name, **ports), "utf-8")
    cluster = "-"  # the tool takes a leading dash for an option
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
    shutil.rmtree(home / DATA, ignore_errors=True)  # incomplete: `formatted` found no data in it
    part.rename(home / DATA)


def command(
    java: str, programs: Programs, home: Path, ports: dict[str, int], quicker: Sequence[str] = ()
) -> list[str]:
    """Write Kafka's configuration, and return the command that starts it in the home."""
    config = home / "run" / "server.properties"
    config.write_text(PROPERTIES.format(data=DATA, **ports), "utf-8")
    options = [*quicker, *_jvm(programs, "-Xms128m", "-Xmx256m")]
    return [java, *options, "kafka.Kafka", str(config.relative_to(home))]


def _jvm(programs: Programs, *heap: str) -> list[str]:
    """Return Java's options."""
    config = Path(__file__).with_name("log4j2.xml").as_uri()
    return [
        *heap,
        *FLAGS,
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
