"""Runs Kafka as a single node: configuration, data folder, command, readiness.

The node is broker and controller in one (KRaft combined mode).

Kafka of a secure home has four listeners, all with TLS (docs/decisions/24):

    BUS         the bus's own clients: SCRAM
    VENDORS     vendors, also outside if the home is advertised: SCRAM, again each minute
    INSIDE      the node itself, and `admit`: the certificate of the node
    CONTROLLER  the node's controller: the certificate of the node

Source: Apache Kafka documentation, "KRaft", "Broker Configs" and "Security".
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from bus.errors import Stop
from bus.local import machine, process
from bus.local.credentials import USER, credentials
from bus.local.download import Programs
from bus.local.home import is_secure, read_bus_file, read_text, tls

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

# DeleteRecords raises the first offset that can be read. Kafka writes that offset to disk only once
# a minute by default. After a kill within that minute, the deleted records could be read again.
log.flush.start.offset.checkpoint.interval.ms=250
# Kafka begins with this, and with cleaning, only half a minute after its start by default.
log.initial.task.delay.ms=1000

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

SECURE = """
# A secure home. Of two lines with one name, Java takes the later one.
listeners=BUS://127.0.0.1:{kafka},VENDORS://{vendors_at}:{vendors},INSIDE://127.0.0.1:{inside},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=BUS://127.0.0.1:{kafka},VENDORS://{vendors_name}:{vendors},INSIDE://127.0.0.1:{inside}
listener.security.protocol.map=BUS:SASL_SSL,VENDORS:SASL_SSL,INSIDE:SSL,CONTROLLER:SSL
inter.broker.listener.name=INSIDE

ssl.keystore.type=PEM
ssl.keystore.location=tls/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=tls/ca.pem
listener.name.bus.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.bus.scram-sha-512.sasl.jaas.config={login}
listener.name.vendors.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.vendors.scram-sha-512.sasl.jaas.config={login}
# A connection must authenticate itself again, so that a deleted user's connections end.
listener.name.vendors.connections.max.reauth.ms={reauth_ms}
listener.name.inside.ssl.keystore.type=PEM
listener.name.inside.ssl.keystore.location=tls/node.pem
listener.name.inside.ssl.client.auth=required
listener.name.controller.ssl.keystore.type=PEM
listener.name.controller.ssl.keystore.location=tls/node.pem
listener.name.controller.ssl.client.auth=required

authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:{node_user};User:{user}
"""

LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
LOOPBACK = "127.0.0.1"

NODE_USER = "CN=schoolbus-node"
"""Kafka's name for the holder of `tls/node.pem`: the distinguished name of the certificate."""

SCRAM_ITERATIONS = 8192
"""More than Kafka's default of 4,096. Kafka accepts up to 16,384."""

ANSWER_SECONDS = 5.0
"""How many seconds Kafka may take for an answer, a TLS connection and a login included. It usually
takes 0.1."""

REAUTH_SECONDS = 60
"""How many seconds a vendor's connection lasts before it must authenticate itself again."""

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


def properties(home: Path, ports: dict[str, int]) -> str:
    """Return Kafka's configuration for a start in the home. It holds no secret."""
    plain = PROPERTIES.format(data=DATA, **ports)
    if not is_secure(home):
        return plain
    name = (read_bus_file(home).advertised or [LOOPBACK])[0]
    return plain + SECURE.format(
        **ports,
        login=LOGIN,
        vendors_name=name,
        vendors_at=listens_at(name),
        reauth_ms=REAUTH_SECONDS * 1000,
        node_user=NODE_USER,
        user=USER,
    )


def listens_at(name: str) -> str:
    """Return the address of the vendors' listener: on all interfaces if its name is outside."""
    if name == "localhost":
        return LOOPBACK
    return name if re.fullmatch(r"127(\.\d+){3}", name) else "0.0.0.0"


def command(
    java: str, programs: Programs, home: Path, ports: dict[str, int], quicker: Sequence[str] = ()
) -> list[str]:
    """Write Kafka's configuration, and return the command that starts it in the home."""
    config = home / "run" / "server.properties"
    config.write_text(properties(home, ports), "utf-8")
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


def answers(port: int, client: Mapping[str, Any] | None = None) -> bool:
    """Whether Kafka takes requests (its port is known to be open).

    client: librdkafka's settings for TLS and credentials, if the home is secure.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(_settings(port, client or {}))
    try:
        # Do not ask for the metadata, whose size grows with the number of topics.
        return bool(admin.describe_cluster(request_timeout=ANSWER_SECONDS).result().nodes)
    except KafkaException:
        return False


def admit(home: Path, port: int) -> bool:
    """Let the bus's own clients in: store their user and password in Kafka.

    port: the port of the listener INSIDE, which is known to be open.

    Returns whether Kafka has stored them; else it does not take requests yet.

    Source: Apache Kafka protocol, "AlterUserScramCredentials".
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import (  # type: ignore[attr-defined]
        AdminClient,
        ScramCredentialInfo,
        ScramMechanism,
        UserScramCredentialUpsertion,
    )

    password = credentials(home).password.get_secret_value().encode()
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
    admin = AdminClient(_settings(port, node_options(home)))
    asked = admin.alter_user_scram_credentials(
        [UserScramCredentialUpsertion(USER, scram, password)], request_timeout=ANSWER_SECONDS
    )
    try:
        for answer in asked.values():
            answer.result()
    except KafkaException:
        return False
    return True


def node_options(home: Path) -> dict[str, str]:
    """Return librdkafka's settings with which `up` connects to the listener INSIDE."""
    return {
        "security.protocol": "ssl",
        "ssl.ca.location": str(tls(home) / "ca.pem"),
        "ssl.certificate.location": str(tls(home) / "node.pem"),
        "ssl.key.location": str(tls(home) / "node.pem"),
    }


def _settings(port: int, client: Mapping[str, Any]) -> dict[str, Any]:
    return {"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0, **client}
