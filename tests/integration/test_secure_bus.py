"""A plain home that became secure: nothing is lost, and every listener asks who comes.

The vendors' listener asks again every few seconds here, not every minute.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from pydantic import SecretStr

from bus import local, subscribe
from bus.demo.sample import District
from bus.errors import Stop
from bus.kafka import access, topics
from bus.kafka.client import client_settings
from bus.local import certificates, kafka_process, quotas
from bus.local.home import read_bus_file, tls
from bus.registry.codec import Encoder
from bus.settings import KafkaSettings, RegistrySettings, Settings
from bus.vendors.registry_tokens import new_token
from bus.vendors.vendor_schema import register, vendor_schema, vendor_topic
from tests.integration.commands import Commands, until
from tests.integration.conftest import settings_of
from tests.unit.test_vendor_schema import scope_of

pytestmark = pytest.mark.embedded

PREFIX = "secured"
STUDENT, ORG = f"{PREFIX}.student", f"{PREFIX}.org"
STUDENTS = 20
REAUTH_SECONDS = 4
SOON = 5.0
"""How many seconds a revocation may take."""


@dataclass(frozen=True, slots=True)
class Secured:
    """A home that became secure, and what it held when it was plain."""

    commands: Commands
    schemas: dict[str, Any]
    status: dict[str, Any]

    @property
    def settings(self) -> Settings:
        return self.commands.settings

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def ports(self) -> dict[str, int]:
        return read_bus_file(self.home).ports

    def produce(self, day: int) -> dict[str, Any]:
        extract = District(students=STUDENTS).write(self.commands.cwd / f"{day}.zip", day=day)
        found = self.commands.run("produce", "oneroster-csv", str(extract))
        records: dict[str, Any] = found["records"]
        return records

    def consume(self) -> dict[str, Any]:
        out = str(self.commands.cwd / "canvas")
        found = self.commands.run("consume", "canvas", "--out", out, "--until-caught-up")
        delivered: dict[str, Any] = found["delivered"]
        return delivered


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    settings = settings_of(folder / "a home $x").model_copy(update={"topic_prefix": PREFIX})
    commands = Commands(settings, folder)
    plain = Secured(commands, {}, {})
    try:
        assert commands.run("up")["secure"] is False
        commands.run("schemas", "apply")
        assert plain.produce(day=1)["student"]["created"] == STUDENTS
        assert plain.consume()["student"] == STUDENTS
        schemas, status = commands.run("schemas", "list"), commands.run("status")
        assert "run `bus down`" in commands.run("up", "--secure", status=1)["error"]
        local.down(settings.home)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kafka_process, "REAUTH_SECONDS", REAUTH_SECONDS)
            local.up(settings.home, secure=True, advertise=["localhost", "kafka.district.example"])
        yield Secured(commands, schemas, status)
    finally:
        local.down(settings.home)


@dataclass(frozen=True, slots=True)
class Vendor:
    """A user of the vendors' listener, as a vendor's program configures it."""

    name: str
    options: dict[str, Any]

    def consumer(self, *topics: str, group: str = "") -> Consumer:
        made = Consumer(
            self.options
            | {
                "group.id": group or f"{PREFIX}.vendor.{self.name}.app",
                "auto.offset.reset": "earliest",
                "allow.auto.create.topics": False,
            }
        )
        if topics:
            made.subscribe(list(topics))
        return made


@contextmanager
def vendor(secured: Secured, name: str) -> Iterator[Vendor]:
    """A vendor who may read the students while the block runs."""
    settings = secured.settings
    access.create_user(settings, name, SecretStr(f"{name}-password"))
    access.allow(settings, name, [STUDENT], f"{PREFIX}.vendor.{name}.")
    yield Vendor(
        name,
        {
            "bootstrap.servers": local.reach(settings.home).vendors,
            "security.protocol": "sasl_ssl",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": name,
            "sasl.password": f"{name}-password",
            "ssl.ca.location": str(tls(settings.home) / "ca.pem"),
            "log_level": 0,
        },
    )
    access.remove_rules(settings, name)
    access.delete_user(settings, name)


def read(consumer: Consumer, number: int, seconds: float = 30.0) -> int:
    """Return how many records come until there are enough; raises the first error."""
    found, until = 0, time.monotonic() + seconds
    while found < number and time.monotonic() < until:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        found += 1
    return found


def refusal(consumer: Consumer, seconds: float = 15.0) -> int | None:
    """Return the code of the first error that a consumer meets; None if it reads a record."""
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            if (message := consumer.poll(0.2)) is not None:
                error = message.error()
                return error.code() if error else None
    finally:
        consumer.close()
    raise AssertionError("neither a record nor an error came")


def test_nothing_is_lost_and_all_goes_on(secured: Secured) -> None:
    there = secured.commands.run("up")
    assert there["secure"] is True, "the home remembers it"
    assert there["vendors"] == f"localhost:{secured.ports['vendors']}"
    assert secured.commands.run("schemas", "list") == secured.schemas
    status = secured.commands.run("status")
    assert (status["topics"], status["groups"]) == (
        secured.status["topics"],
        secured.status["groups"],
    )
    assert secured.commands.run("doctor")["ok"]
    again = secured.produce(day=1)
    assert (again["student"]["created"], again["student"]["unchanged"]) == (0, STUDENTS)
    created = secured.produce(day=2)["student"]["created"]
    assert 0 < created < STUDENTS
    assert 0 < secured.consume()["student"] < STUDENTS


def test_a_vendor_gets_what_it_is_allowed_and_nothing_else(secured: Secured) -> None:
    with vendor(secured, "acme") as acme:
        consumer = acme.consumer(STUDENT)
        assert read(consumer, STUDENTS) == STUDENTS
        consumer.commit(asynchronous=False)
        consumer.close()

        admin = AdminClient(acme.options)
        assert set(admin.list_topics(timeout=10).topics) == {STUDENT}
        other = acme.consumer(STUDENT, ORG)
        assert refusal(other) == KafkaError.TOPIC_AUTHORIZATION_FAILED
        for group in (f"{PREFIX}.canvas", f"{PREFIX}.vendor.acme2.app", "app"):
            assert (
                refusal(acme.consumer(STUDENT, group=group))
                == KafkaError.GROUP_AUTHORIZATION_FAILED
            )
        for topic in (STUDENT, ORG):
            assert written(acme, topic) == KafkaError.TOPIC_AUTHORIZATION_FAILED
        with pytest.raises(KafkaException) as refused:
            admin.create_topics([NewTopic("acme", 1)])["acme"].result(10)
        assert refused.value.args[0].code() in (
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        )

        access.allow(secured.settings, "acme", [ORG], f"{PREFIX}.vendor.acme.")
        assert read(acme.consumer(ORG), 1) == 1
        assert refusal(acme.consumer(STUDENT)) == KafkaError.TOPIC_AUTHORIZATION_FAILED


def written(who: Vendor, topic: str) -> int | None:
    """Return the code of the error with which Kafka refuses a record; None if it accepts it."""
    errors: list[KafkaError | None] = []
    producer = Producer(who.options)
    producer.produce(topic, b"x", on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(15) == 0
    return errors[0].code() if errors[0] else None


def test_a_denied_vendor_receives_nothing_more_on_an_open_connection(secured: Secured) -> None:
    settings, topic = secured.settings, f"{PREFIX}.vendor.ended.student"
    admin = AdminClient(client_settings(settings))
    admin.create_topics([NewTopic(topic, 1)])[topic].result(10)
    own = Producer(client_settings(settings))

    def publish(key: bytes) -> None:
        own.produce(topic, b"a record", key=key)
        assert own.flush(10) == 0

    with vendor(secured, "ended") as ended:
        access.allow(settings, "ended", [topic], f"{PREFIX}.vendor.ended.")
        publish(b"before")
        consumer = ended.consumer(topic)
        assert read(consumer, 1) == 1

        access.deny_all(settings, "ended")
        denied = time.monotonic()
        received, codes = [], set()
        while time.monotonic() < denied + 2 * SOON:
            publish(b"later")
            if (message := consumer.poll(0.2)) is not None:
                if error := message.error():
                    codes.add(error.code())
                else:
                    received.append(time.monotonic() - denied)
        assert all(seconds < SOON for seconds in received), received
        assert KafkaError.TOPIC_AUTHORIZATION_FAILED in codes
        consumer.close()
        assert AdminClient(ended.options).list_topics(timeout=10).topics == {}


def test_a_deleted_users_open_connection_ends(secured: Secured) -> None:
    with vendor(secured, "deleted") as deleted:
        errors: list[int] = []
        deleted_vendor = Vendor(
            "deleted", deleted.options | {"error_cb": lambda e: errors.append(e.code())}
        )
        consumer = (
            deleted_vendor.consumer()
        )  # without a group, which a refused client leaves slowly
        consumer.assign([TopicPartition(STUDENT, p, OFFSET_BEGINNING) for p in range(4)])
        assert read(consumer, STUDENTS) == STUDENTS
        time.sleep(1.5 * REAUTH_SECONDS)
        consumer.poll(0)
        assert KafkaError._AUTHENTICATION not in errors, "it was asked again, and knew the answer"
        access.delete_user(secured.settings, "deleted")

        def refused() -> bool:
            consumer.poll(0.1)
            return KafkaError._AUTHENTICATION in errors

        until(refused, "the connection has ended", 3 * REAUTH_SECONDS + 10)
        consumer.close()


def test_a_new_password_counts_and_the_old_one_does_not(secured: Secured) -> None:
    with vendor(secured, "rotated") as rotated:
        access.create_user(secured.settings, "rotated", SecretStr("a new one"))
        new = AdminClient(rotated.options | {"sasl.password": "a new one"})
        assert set(new.list_topics(timeout=10).topics) == {STUDENT}
        with pytest.raises(KafkaException):
            AdminClient(rotated.options).list_topics(timeout=3)


def test_quotas(secured: Secured) -> None:
    limits = {"bytes_per_second_in": 1000, "bytes_per_second_out": 5_000_000}
    said = access.set_quotas(secured.settings, ["acme"], **limits, request_percentage=12.5)
    assert said == ""
    assert quotas.quotas_of(secured.home, "acme") == {
        "producer_byte_rate": 1000,
        "consumer_byte_rate": 5_000_000,
        "request_percentage": 12.5,
    }
    access.remove_quota(secured.settings, "acme")
    assert quotas.quotas_of(secured.home, "acme") == {}


def test_a_quota_that_kafka_refuses(secured: Secured) -> None:
    with pytest.raises(Stop, match="refuses a quota"):
        quotas.alter_quotas(secured.home, {"acme": {"no_such_limit": 1.0}})


API_VERSIONS, METADATA = 18, 3
ALERT = b"\x15"


def answer(port: int, api: int, context: ssl.SSLContext | None) -> bytes:
    """Return what Kafka answers to a request without a login; empty if it answers none.

    context: None for plain text. Kafka then sends a TLS alert (RFC 8446, section 6) and ends.
    """
    header = struct.pack(">hhih", api, 1 if api == METADATA else 0, 1, -1)
    request = header + (struct.pack(">i", -1) if api == METADATA else b"")
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            wire = context.wrap_socket(plain, server_hostname="localhost") if context else plain
            with wire:
                wire.sendall(struct.pack(">i", len(request)) + request)
                found = wire.recv(1000)
    except OSError:
        return b""
    return b"" if found[:1] == ALERT else found


def context(secured: Secured, certificate: str = "") -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(tls(secured.home) / certificates.CA))
    if certificate:
        made.load_cert_chain(tls(secured.home) / certificate)
    return made


FIRST = {
    "kafka": METADATA,
    "vendors": METADATA,
    "inside": API_VERSIONS,
    "controller": API_VERSIONS,
}
"""A request that each listener answers to those who are logged in, and to nobody else.

With SASL, Kafka answers ApiVersions to everybody, as clients need it for the login.
"""


def test_nobody_gets_in_without_a_login(secured: Secured, tmp_path: Path) -> None:
    node = context(secured, certificates.NODE)
    for name in ("inside", "controller"):
        assert answer(secured.ports[name], API_VERSIONS, node), f"the node itself, at {name}"
    certificates.ensure(tmp_path / "other", [])
    stranger = context(secured)
    stranger.load_cert_chain(tmp_path / "other" / certificates.NODE)
    for name, api in FIRST.items():
        port = secured.ports[name]
        assert answer(port, api, None) == b"", f"plain text at {name}"
        for who in (context(secured), context(secured, certificates.SERVER), stranger):
            assert answer(port, api, who) == b"", f"TLS without a login at {name}"
    assert answer(secured.ports["inside"], METADATA, node), "with the node's certificate"


def test_wrong_passwords_and_foreign_authorities_are_refused(
    secured: Secured, tmp_path: Path
) -> None:
    certificates.ensure(tmp_path / "other", [])
    right = client_settings(secured.settings) | {"log_level": 0}
    assert AdminClient(right).list_topics(timeout=10)
    for wrong in (
        {"sasl.password": "guess"},
        {"sasl.username": "nobody"},
        {"ssl.ca.location": str(tmp_path / "other" / certificates.CA)},
        {"sasl.mechanism": "PLAIN"},
    ):
        with pytest.raises(KafkaException):
            AdminClient(right | wrong).list_topics(timeout=2)


def test_the_registry_asks_for_its_password(secured: Secured) -> None:
    url, known = local.reach(secured.home).registry, local.credentials(secured.home)
    right = (known.username, known.registry_password.get_secret_value())
    options: dict[str, Any] = {"verify": context(secured), "trust_env": False, "timeout": 10}
    root = url.removesuffix("/apis/ccompat/v7")
    with httpx2.Client(**options) as client:
        assert client.get(f"{url}/subjects", auth=right).status_code == 200
        for path in (url + "/subjects", f"{root}/apis/registry/v3/system/info", f"{root}/apis"):
            assert client.get(path).status_code == 401
            assert client.get(path, auth=("bus", "guess")).status_code == 401
    with pytest.raises(httpx2.HTTPError), httpx2.Client(trust_env=False) as client:
        client.get(url.replace("https", "http") + "/subjects")


def test_secrets_are_in_their_files_alone(secured: Secured) -> None:
    folder, known = tls(secured.home), local.credentials(secured.home)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    secrets = [
        known.password.get_secret_value().encode(),
        known.registry_password.get_secret_value().encode(),
        (folder / certificates.CA_KEY).read_bytes().splitlines()[1],
    ]
    for path in secured.home.rglob("*"):
        if path.is_file() and path.parent != folder:
            content = path.read_bytes()
            assert not [one for one in secrets if one in content], path
    for one in secured.commands.run("status")["running"].values():
        process = psutil.Process(one["pid"])
        seen = " ".join([*process.cmdline(), *process.environ().values()]).encode()
        assert not [secret for secret in secrets if secret in seen]


def test_a_subscriber_under_an_agreement_reads_until_it_is_denied(secured: Secured) -> None:
    settings, name = secured.settings, "quiz"
    scope = scope_of("student.grades", name=name)
    id_ = register(settings, name, scope)["student"]
    topic = vendor_topic(settings, name, "student")
    topics.ensure(settings, [topic])
    encoder = Encoder("student", id_, vendor_schema(scope, "student", name))
    record = {"sourcedId": "s1", "status": "active", "grades": ["07"]}
    producer = Producer(client_settings(settings))
    producer.produce(topic, encoder.encode(record), b"s1", partition=0)
    producer.produce(topic, None, b"s2", partition=0)
    assert producer.flush(30) == 0
    access.create_user(settings, name, SecretStr("a password"))
    access.allow(settings, name, [topic], f"{PREFIX}.vendor.{name}.")
    token = new_token(settings, name, name)
    with secured.commands.running("vendors", "gate") as gate:
        assert gate.stdout is not None
        own = Settings(
            home=secured.commands.cwd / "vendor",
            topic_prefix=PREFIX,
            kafka=KafkaSettings(
                bootstrap=local.reach(settings.home).vendors,
                security_protocol="sasl_ssl",
                sasl_mechanism="SCRAM-SHA-512",
                sasl_username=name,
                sasl_password=SecretStr("a password"),
                ca_file=str(tls(settings.home) / "ca.pem"),
            ),
            registry=RegistrySettings(
                url=json.loads(gate.stdout.readline())["url"],
                username=name,
                password=SecretStr(token),
                ca_file=str(tls(settings.home) / "ca.pem"),
            ),
        )
        events = subscribe("student", agreement=name, group="reader", settings=own)
        assert [(event.key, event.record) for event in islice(events, 2)] == [
            ("s1", record),
            ("s2", None),
        ]
        access.deny_all(settings, name)
        began = time.monotonic()
        with pytest.raises(Stop, match="agreement quiz"):
            next(events)
        assert time.monotonic() - began < SOON
        access.delete_user(settings, name)
        with pytest.raises(Stop):
            next(subscribe("student", agreement=name, group="reader", settings=own))
