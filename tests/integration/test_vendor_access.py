"""Vendors on a secure bus read what is theirs, with their credentials alone, and nothing else.

The table in docs/vendors-tested.md is what this module sees: UPDATE_GOLDEN=1 writes it anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from bus import local
from bus.demo.sample import District as SampleDistrict
from bus.errors import RetryLater
from bus.kafka import access
from bus.kafka.client import client_settings
from bus.local import kafka_process, quotas
from bus.registry import subjects
from bus.settings import KafkaSettings, RegistrySettings, Settings
from bus.vendors import applied, expiry
from bus.vendors.disclosures import DisclosureWriter
from tests import golden_file
from tests.integration import vendor_api_keys
from tests.integration.commands import Commands, until
from tests.integration.test_vendors import write_agreement
from tests.integration.vendor_api_keys import Listener, Target, Vendor
from tests.shapes import shape

pytestmark = pytest.mark.embedded

PREFIX = "wire"
STUDENTS = 60
REAUTH_SECONDS = 4
SOON = 5.0
"""How many seconds the vendor goes on trying after its revocation."""
NAMES = ("math", "library", "ended", "revoked", "rotated")
TABLE = Path(__file__).parents[2] / "docs" / "vendors-tested.md"
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

    @property
    def settings(self) -> Settings:
        return self.commands.settings

    def file(self, name: str) -> dict[str, str]:
        """The settings in a vendor's file of credentials."""
        lines = (self.folder / f"{name}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    def program(self, name: str, topic_of: str = "") -> subprocess.CompletedProcess[str]:
        """A vendor's program, which knows its credentials and nothing else."""
        return subprocess.run(
            [sys.executable, "-c", PROGRAM.format(name=topic_of or name)],
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
    settings = Settings(
        home=folder / "home",
        topic_prefix=PREFIX,
        kafka=KafkaSettings(),
        registry=RegistrySettings(),
    )
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
        processes.append(commands.start("vendors", "run"))
        found = Wire(commands, folder / "secrets", made, url)
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


def test_apply_gives_what_a_script_needs_and_keeps_it(wire: Wire) -> None:
    math = wire.vendors["math"]
    assert math["username"] == "vendor-math-a"
    assert math["bootstrap"] == local.reach(wire.settings.home).vendors
    assert math["registry"] == wire.gate and wire.gate.startswith("https://")
    assert Path(math["credentials"]) == wire.folder / "math.env"
    assert Path(math["ca"]) == wire.folder / "ca.pem"
    assert wire.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in wire.folder.iterdir()} == {0o600}
    before = {path.name: path.read_bytes() for path in wire.folder.iterdir()}
    again = wire.commands.run("vendors", "apply", "--credentials", "secrets")
    assert again["vendors"] == wire.vendors
    assert {path.name: path.read_bytes() for path in wire.folder.iterdir()} == before
    assert quotas.quotas_of(wire.settings.home, "vendor-math-a") == {
        "producer_byte_rate": 100_000,
        "consumer_byte_rate": 10_000_000,
        "request_percentage": 25,
    }


def test_each_reads_its_own_topics_with_its_credentials_alone(wire: Wire) -> None:
    read = {}
    for name in ("math", "library"):
        done = wire.program(name)
        assert done.returncode == 0, done.stderr
        read[name] = set(json.loads(done.stdout))
        assert len(read[name]) >= STUDENTS * 0.9
    assert not read["math"] & read["library"], "ids of its own"
    other = wire.program("math", topic_of="library")
    assert other.returncode == 1
    assert "does not let agreement library read this" in other.stderr


def test_rotation(wire: Wire) -> None:
    old = wire.file("rotated")
    made = wire.commands.run("vendors", "rotate", "rotated", "--credentials", "secrets")
    new = wire.file("rotated")
    assert (old["BUS_KAFKA__SASL_USERNAME"], new["BUS_KAFKA__SASL_USERNAME"]) == (
        "vendor-rotated-a",
        "vendor-rotated-b",
    )
    assert made["username"] == "vendor-rotated-b"
    lines = [f"json-rotate bus vendors rotate {line}" for line in shape(made)]
    golden_file.check("public-surface.txt", "json-rotate", lines)
    for one in (old, new):
        until(lambda one=one: logs_in(options(one, wire.folder)), "both passwords count", 15)
        assert subjects_seen(wire, one) == 200
    twice = wire.commands.run("vendors", "rotate", "rotated", "--credentials", "secrets", status=1)
    assert "not finished" in twice["error"]
    wire.commands.run("vendors", "rotate", "rotated", "--finish", "--credentials", "secrets")
    wire.commands.run("vendors", "rotate", "rotated", "--finish", "--credentials", "secrets")
    until(lambda: not logs_in(options(old, wire.folder)), "the old password counts no more", 15)
    assert subjects_seen(wire, old) == 401
    assert wire.program("rotated").returncode == 0
    # Back to the first user, whose rules were fenced.
    wire.commands.run("vendors", "rotate", "rotated", "--credentials", "secrets")
    wire.commands.run("vendors", "rotate", "rotated", "--finish", "--credentials", "secrets")
    assert wire.program("rotated").returncode == 0
    (wire.folder / "old.env").touch(mode=0o600)
    (wire.folder / "old.env").write_text("\n".join(f"{k}={v}" for k, v in old.items()))


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


def test_a_revoked_vendor_gets_nothing_more(wire: Wire) -> None:
    topic = wire.vendors["revoked"]["topics"]["student"]
    file = wire.file("revoked")
    errors: list[int] = []
    consumer = Consumer(
        wire.client("revoked")
        | {
            "group.id": f"{PREFIX}.vendor.revoked.app",
            "auto.offset.reset": "earliest",
            "error_cb": lambda error: errors.append(error.code()),
        }
    )
    consumer.subscribe([topic])
    until(lambda: _record(consumer), "the consumer reads")
    while _record(consumer, 1.0):
        pass
    own = Producer(client_settings(wire.settings))

    def publish() -> None:  # as if the projection went on
        for part in range(wire.settings.kafka.partitions):
            own.produce(topic, b"x", b"late", partition=part)
        assert own.flush(10) == 0

    publish()
    assert until(lambda: _record(consumer), "it is open")
    revoke = ("vendors", "revoke", "revoked", "--why", "a breach", "--yes")
    began = time.time()
    command = wire.commands.start(*revoke)
    last = returned = 0.0
    while not returned or time.time() < returned + SOON:
        publish()
        while (message := consumer.poll(0.1)) is not None:
            if message.error() is None:
                last = message.timestamp()[1] / 1000  # when it was written
        if not returned and command.poll() is not None:
            returned = time.time()
    consumer.close()
    assert command.returncode == 0, command.communicate()
    command.communicate()
    print(f"last record after {last - began:.1f} s; the command took {returned - began:.1f} s")
    assert last < returned, "nothing is readable once the command has ended"
    assert not logs_in(options(file, wire.folder))
    assert subjects_seen(wire, file) == 401
    users = access.users(wire.settings)
    assert not users & {"vendor-revoked-a", "vendor-revoked-b"} and "vendor-math-a" in users
    # Once more, and an agreement that ended.
    wire.commands.run("vendors", "revoke", "revoked", "--why", "a breach", "--yes")
    after = applied.read(wire.settings)["ended"].agreement.until + timedelta(days=1)
    with DisclosureWriter(wire.settings) as record:
        expiry.settle(wire.settings, "ended", after, datetime.now(UTC), record)
    assert not logs_in(wire.client("ended"))
    assert wire.program("ended").returncode == 1


def _record(consumer: Consumer, seconds: float = 0.5) -> bool:
    message = consumer.poll(seconds)
    return message is not None and message.error() is None


# ---- outsiders -----------------------------------------------------------------------------------

Probe = Callable[["Caller"], Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `own` is its name in topics, `other` that of another vendor.

    admin: a client that lives as long as its requests.
    """

    own: str
    other: str
    options: dict[str, Any]
    admin: AdminClient

    def topic(self, name: str = "") -> str:
        return f"{PREFIX}.vendor.{name or self.own}.student"


def _one(futures: Any) -> Any:
    (future,) = futures.values() if isinstance(futures, dict) else (futures,)
    return future.result(15)


def _fetch(caller: Caller, topic: str, group: str = "") -> str:
    consumer = Consumer(
        caller.options
        | {
            "group.id": group or f"{PREFIX}.vendor.{caller.own}.probe",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "allow.auto.create.topics": False,
        }
    )
    try:
        consumer.subscribe([topic])
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if (message := consumer.poll(0.2)) is not None:
                if message.error():
                    raise KafkaException(message.error())
                return "records"
        return "nothing"
    finally:
        consumer.close()


def _produce(caller: Caller, topic: str) -> str:
    errors: list[Any] = []
    producer = Producer(caller.options)
    producer.produce(topic, b"x", on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(20) == 0
    if errors[0]:
        raise KafkaException(errors[0])
    return "written"


def _transaction(caller: Caller) -> str:
    producer = Producer(caller.options | {"transactional.id": "probe"})
    producer.init_transactions(10)
    return "begun"


def _config(topic: str) -> Any:
    entry = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    return ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])


def _cluster_operations(caller: Caller) -> str:
    """DescribeUserScramCredentials needs DESCRIBE on the cluster."""
    about = _one(caller.admin.describe_cluster(include_authorized_operations=True))
    return f"{len(about.authorized_operations or ())} operations"


ANY_ACL = AclBindingFilter(
    ResourceType.ANY,
    None,  # type: ignore[arg-type]
    ResourcePatternType.ANY,
    None,  # type: ignore[arg-type]
    None,  # type: ignore[arg-type]
    AclOperation.ANY,
    AclPermissionType.ANY,
)
DISTRICT = f"{PREFIX}.student"

PROBES: dict[str, Probe] = {
    "Metadata: all topics": lambda c: sorted(c.admin.list_topics(timeout=10).topics),
    "Metadata: a topic of another": lambda c: _named(c, c.topic(c.other)),
    "DescribeCluster": lambda c: f"{len(_one(c.admin.describe_cluster()).nodes)} node",
    "DescribeCluster: what it may do": _cluster_operations,
    "ListGroups": lambda c: sorted(g.group_id for g in _one(c.admin.list_consumer_groups()).valid),
    "DescribeGroups: of another": lambda c: (
        _one(c.admin.describe_consumer_groups([f"{PREFIX}.vendor.{c.other}.app"])).group_id
    ),
    "OffsetFetch: of another": lambda c: _one(
        c.admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(f"{PREFIX}.vendor.{c.other}.app")]
        )
    ),
    "DeleteGroups: of another": lambda c: _one(
        c.admin.delete_consumer_groups([f"{PREFIX}.vendor.{c.other}.app"])
    ),
    "Fetch: its own topic": lambda c: _fetch(c, c.topic()),
    "Fetch: a topic of another": lambda c: _fetch(c, c.topic(c.other)),
    "Fetch: a topic of the district": lambda c: _fetch(c, DISTRICT),
    "Fetch: the applied agreements": lambda c: _fetch(c, f"{PREFIX}.vendors"),
    "Fetch: the record of disclosures": lambda c: _fetch(c, f"{PREFIX}.disclosures"),
    "Fetch: its students": lambda c: _fetch(c, f"{PREFIX}.disclosures.students"),
    "Fetch: the offsets of all": lambda c: _fetch(c, "__consumer_offsets"),
    "Fetch: a topic that does not exist": lambda c: _fetch(c, "none"),
    "JoinGroup: of another": lambda c: _fetch(c, c.topic(), f"{PREFIX}.vendor.{c.other}.app"),
    "JoinGroup: of the district": lambda c: _fetch(c, c.topic(), f"{PREFIX}.canvas"),
    "ListOffsets: of another": lambda c: (
        _one(
            c.admin.list_offsets({TopicPartition(c.topic(c.other), 0): OffsetSpec.latest()})
        ).offset
    ),
    "Produce: its own topic": lambda c: _produce(c, c.topic()),
    "Produce: a topic of another": lambda c: _produce(c, c.topic(c.other)),
    "Produce: a topic of the district": lambda c: _produce(c, DISTRICT),
    "InitProducerId: with a transactional id": _transaction,
    "CreateTopics": lambda c: _one(
        c.admin.create_topics([NewTopic(f"{PREFIX}.vendor.{c.own}.new", 1, 1)])
    ),
    "DeleteTopics: its own": lambda c: _one(c.admin.delete_topics([c.topic()])),
    "CreatePartitions: its own": lambda c: _one(
        c.admin.create_partitions([NewPartitions(c.topic(), 9)])
    ),
    "DeleteRecords: its own": lambda c: _one(
        c.admin.delete_records([TopicPartition(c.topic(), 0, 1)])
    ),
    "DescribeConfigs: its own": lambda c: _one(
        c.admin.describe_configs([ConfigResource(ResourceType.TOPIC, c.topic())])
    ),
    "DescribeConfigs: the broker": lambda c: _one(
        c.admin.describe_configs([ConfigResource(ResourceType.BROKER, "1")])
    ),
    "IncrementalAlterConfigs: its own": lambda c: _one(
        c.admin.incremental_alter_configs([_config(c.topic())])
    ),
    "DescribeAcls": lambda c: _one(c.admin.describe_acls(ANY_ACL)),
    "DeleteAcls": lambda c: _one(c.admin.delete_acls([ANY_ACL])),
    "CreateAcls": lambda c: _one(
        c.admin.create_acls(
            [
                AclBinding(
                    ResourceType.TOPIC,
                    DISTRICT,
                    ResourcePatternType.LITERAL,
                    f"User:vendor-{c.own}-a",
                    "*",
                    AclOperation.READ,
                    AclPermissionType.ALLOW,
                )
            ]
        )
    ),
    "AlterUserScramCredentials: its own": lambda c: _one(
        c.admin.alter_user_scram_credentials(
            [
                UserScramCredentialUpsertion(
                    f"vendor-{c.own}-a",
                    ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 8192),
                    b"another",
                )
            ]
        )
    ),
}

GRANTED = {
    "Metadata: all topics",
    "Fetch: its own topic",
    "ListGroups",
    "DescribeCluster",
    "DescribeCluster: what it may do",
}
EMPTY = {"ListOffsets: of another": "_NOENT", "DescribeAcls": "nothing"}
"""What librdkafka makes of a refusal: it finds no such partition, or returns no rules."""


def _named(caller: Caller, topic: str) -> str:
    about = caller.admin.list_topics(topic, 10).topics[topic]
    if about.error:
        raise KafkaException(about.error)
    return f"{len(about.partitions)} partitions"


def _ask(probe: Probe, caller: Caller) -> tuple[str, str]:
    """Return the answer for the table, and all that it says."""
    try:
        found = probe(caller)
    except KafkaException as error:
        return error.args[0].name(), error.args[0].name()
    return _short(found, caller), repr(found)


def _short(found: Any, caller: Caller) -> str:
    if found == []:
        return "nothing"
    if isinstance(found, list):
        foreign = [one for one in found if f"{PREFIX}.vendor.{caller.own}." not in one]
        return f"{len(foreign)} of others" if foreign else "its own only"
    return str(found) if found is not None else "done"


PATHS = {
    "GET /subjects": "/subjects",
    "GET its own schema": "/subjects/{own}-value/versions/latest",
    "GET a schema of another": "/subjects/{other}-value/versions/latest",
    "GET a schema of the district": f"/subjects/{DISTRICT}-value/versions/latest",
    "GET /schemas/ids/1 (the district's)": "/schemas/ids/1",
    "GET /schemas/ids/1/subjects": "/schemas/ids/1/subjects",
    "GET /schemas/ids/1/versions": "/schemas/ids/1/versions",
    "GET /config": "/config",
    "GET /mode": "/mode",
    "GET /schemas": "/schemas",
    "GET /contexts": "/contexts",
}


def test_outsiders(wire: Wire) -> None:
    """After the other tests of the module: their rotated, revoked and ended vendors ask, too."""
    rows: dict[str, dict[str, str]] = {}
    wrong: list[tuple[str, str, str]] = []
    callers = {
        who: Caller(who, other, wire.client(who), AdminClient(wire.client(who)))
        for who, other in (("math", "library"), ("library", "math"), ("rotated", "math"))
    }
    shut = {
        "ended": wire.client("ended"),
        "revoked": wire.client("revoked"),
        "old password": options(wire.file("old"), wire.folder),
        "nobody": wire.client("math") | {"sasl.password": "guess"},
    }
    for name, client in shut.items():
        assert not logs_in(client), name
    for what, probe in PROBES.items():
        rows[what] = {}
        for who, caller in callers.items():
            answer, said = _ask(probe, caller)
            rows[what][who] = answer
            others = {f".{one}." for one in NAMES if one != caller.own}
            others |= {"disclosures", DISTRICT, "User:", "vendor-"}
            assert not [one for one in others if one in said], (what, who, said)
            good = "FAILED" not in answer and not answer.startswith("_")
            refused = answer.endswith("_AUTHORIZATION_FAILED") or answer == EMPTY.get(what)
            if not (good if what in GRANTED else refused):
                wrong.append((what, who, answer))
        rows[what] |= dict.fromkeys(shut, "login refused")
    with httpx2.Client(verify=tls_context(wire), trust_env=False) as client:
        tokens = {who: wire.file(who) for who in ("math", "library", "rotated", "ended", "revoked")}
        tokens |= {"old password": wire.file("old"), "nobody": {}}
        for what, path in PATHS.items():
            rows[what] = {}
            for who, file in tokens.items():
                own = who if who in callers else "math"
                url = wire.gate + path.format(
                    own=f"{PREFIX}.vendor.{own}.student",
                    other=f"{PREFIX}.vendor.{callers[own].other}.student",
                )
                token = file.get("BUS_REGISTRY__BEARER_TOKEN", "guess")
                found = client.get(url, headers={"Authorization": f"Bearer {token}"})
                rows[what][who] = str(found.status_code)
                if who in callers:
                    others = {f".{one}." for one in NAMES if one != own} | {DISTRICT}
                    assert not [one for one in others if one in found.text], (what, who)
                    granted = what in ("GET /subjects", "GET its own schema")
                    assert found.status_code == (200 if granted else 404), (what, who)
                else:
                    assert found.status_code == 401, (what, who)
        rows["POST /subjects/…/versions"] = {
            who: str(
                client.post(
                    f"{wire.gate}/subjects/x/versions",
                    json={"schema": '"string"'},
                    headers={
                        "Authorization": f"Bearer {f.get('BUS_REGISTRY__BEARER_TOKEN', 'guess')}"
                    },
                ).status_code
            )
            for who, f in tokens.items()
        }
    assert {rows["DescribeCluster: what it may do"][who] for who in callers} == {"0 operations"}
    for who in callers:  # hundreds of requests, which the quota would delay
        access.remove_quota(wire.settings, f"vendor-{who}-a")
    section, problems = vendor_api_keys.ask_everything(*_identities(wire, callers, shut))
    wire.commands.run("vendors", "apply", "--credentials", "secrets")  # it sets them again
    wrong += [("API key", "", problem) for problem in problems]
    page = _page(rows, section)
    print(page)
    if os.environ.get("UPDATE_GOLDEN"):
        TABLE.write_text(page)
    assert not wrong, wrong
    assert TABLE.read_text() == page


def test_after_the_agreed_days_users_rules_and_quotas_are_deleted(wire: Wire) -> None:
    """After `test_outsiders`, which asks as these vendors."""

    def left(name: str) -> tuple[set[str], int, dict[str, float]]:
        own = f"vendor-{name}-a", f"vendor-{name}-b"
        rules = sum(len(access.rules(wire.settings, user)) for user in own)
        limits: dict[str, float] = {}
        for user in own:
            limits |= quotas.quotas_of(wire.settings.home, user)
        return access.users(wire.settings) & set(own), rules, limits

    before = left("math")
    assert before[0] == {"vendor-math-a"} and before[1] and before[2]
    for name in ("revoked", "ended"):
        users, rules, limits = left(name)
        assert not users and rules and limits, "the end closes, but deletes only users"
        one = applied.read(wire.settings)[name]
        for days, complete in ((1, False), (0, True)):

            def settled(
                on: date = one.deletion_day - timedelta(days=days), name: str = name
            ) -> bool:
                with DisclosureWriter(wire.settings) as record, suppress(RetryLater):
                    expiry.settle(wire.settings, name, on, datetime.now(UTC), record)
                    return True
                return False

            until(settled, "the end is settled")
            assert (left(name) == (set(), 0, {})) == complete, (name, days)
        stored = applied.read(wire.settings)[name]
        assert stored.deleted and stored.wrapped_key == b""
        assert stored.certificate is not None and stored.certificate.deleted.users
        names = AdminClient(client_settings(wire.settings)).list_topics(timeout=10).topics
        assert not [topic for topic in names if topic.startswith(f"{PREFIX}.vendor.{name}.")]
    assert left("math") == before
    assert wire.program("math").returncode == 0


def _identities(
    wire: Wire, callers: dict[str, Caller], shut: dict[str, dict[str, Any]]
) -> tuple[Listener, dict[str, Vendor], dict[str, tuple[str, str] | None]]:
    """Return the listener, who has an agreement, and who does not."""

    def login(client: dict[str, Any]) -> tuple[str, str]:
        return client["sasl.username"], client["sasl.password"]

    def target(name: str) -> Target:
        own = f"{PREFIX}.vendor.{name}"
        return Target(f"{own}.student", f"{own}.app", f"vendor-{name}-a")

    vendors = {}
    for who, caller in callers.items():
        others = {text for one in NAMES if one != who for text in (f".{one}.", f"vendor-{one}-")}
        foreign = frozenset(others | {f"{PREFIX}.disclosures", f"{PREFIX}.vendors", DISTRICT})
        vendors[who] = Vendor(login(caller.options), target(who), target(caller.other), foreign)
    strangers: dict[str, tuple[str, str] | None] = {
        who: login(client) for who, client in shut.items() if who != "nobody"
    }
    listener = Listener(callers["math"].options["bootstrap.servers"], wire.folder / "ca.pem")
    return listener, vendors, {**strangers, "nobody": None}


def _page(rows: dict[str, dict[str, str]], section: list[str]) -> str:
    columns = ("math", "library", "rotated", "ended", "revoked", "old password", "nobody")
    lines = [
        "<!-- Generated by tests/integration/test_vendor_access.py; do not edit. -->",
        "",
        "# What vendors were answered",
        "",
        "`tests/integration/test_vendor_access.py` asks a secure bus as vendors and as others do, and",
        "records each answer. `math` and `library` have agreements, and so has `rotated`, whose",
        "credentials were replaced; `old password` has those from before. No answer names a topic, a",
        "group, a subject or a user that is not the caller's.",
        "",
        "Kafka answers ApiVersions and the login itself to anybody. A caller that cannot log in can",
        "ask nothing else.",
        "",
        "| request | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    lines += [
        f"| {what} | " + " | ".join(f"`{row[who]}`" for who in columns) + " |"
        for what, row in rows.items()
    ]
    return "\n".join([*lines, "", *section, ""])
