"""A district's own cluster and registry for tests, which require TLS and credentials.

A real Kafka from the jars of the embedded bus runs on 127.0.0.1 and free ports. It has two
listeners: SASL_SSL with SCRAM-SHA-512, and SASL_SSL with OAUTHBEARER. An endpoint here issues the
OAuth tokens for client credentials. Kafka's authorizer lets `USER` and `CLIENT` do only what a bus
with the topic prefix `PREFIX` needs. `HALF` may do only what concerns topics, and `STRANGER`
nothing.

The registry is the embedded one behind an HTTPS proxy that requires a password or a bearer token.
An authority made for the run signs all certificates.

Sources: Apache Kafka 4 documentation, "Security" (SCRAM, OAUTHBEARER, PEM stores, ACLs); RFC 6749,
section 4.4 (client credentials); RFC 7517 (JWK sets).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs

import httpx2
import uvicorn
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bus.local import download, kafka_process, machine, process, sharing

PREFIX = "district"

USER, PASSWORD = "schoolbus", "scram-pass-4711"
HALF, HALFS_PASSWORD = "half", "scram-pass-1234"
STRANGER, STRANGERS_PASSWORD = "stranger", "scram-pass-0815"
ACCOUNTS = {USER: PASSWORD, HALF: HALFS_PASSWORD, STRANGER: STRANGERS_PASSWORD}
CLIENT, CLIENT_SECRET = "schoolbus-client", "oauth-secret-4711"
REGISTRY_USER, REGISTRY_PASSWORD = "registrar", "registry-pass-4711"
REGISTRY_TOKEN = "registry-token-4711"

READY_SECONDS = 60.0

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=SCRAM://127.0.0.1:{scram},OAUTH://127.0.0.1:{oauth},INSIDE://127.0.0.1:{inside},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SCRAM://127.0.0.1:{scram},OAUTH://127.0.0.1:{oauth},INSIDE://127.0.0.1:{inside}
listener.security.protocol.map=SCRAM:SASL_SSL,OAUTH:SASL_SSL,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=INSIDE
log.dirs=data

ssl.keystore.type=PEM
ssl.keystore.location=server.pem

sasl.enabled.mechanisms=SCRAM-SHA-512,OAUTHBEARER
listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.scram.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.oauth.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.oauth.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.oauth.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
listener.name.oauth.oauthbearer.sasl.oauthbearer.jwks.endpoint.url={jwks}
listener.name.oauth.oauthbearer.sasl.oauthbearer.expected.audience=kafka

authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS

auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=33554432
"""
"""The listener `INSIDE` is for the broker itself and for the tests, which set the ACLs there."""


@dataclass(frozen=True, slots=True)
class District:
    """What a bus must know; `other_ca` is an authority that has signed nothing here."""

    scram: str
    oauth: str
    token_url: str
    registry: str
    ca: Path
    other_ca: Path


@contextmanager
def district(folder: Path, registry: str) -> Iterator[District]:
    """Run the cluster in a folder while the block runs; `registry` is the URL behind the proxy."""
    ca, server = authority(folder, "district"), folder / "server.pem"
    authority(folder, "other")
    signed(*ca, server)
    key = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256", "kid": "1"})
    jwks = folder / "jwks.json"
    jwks.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    with ExitStack() as stack:
        ports = stack.enter_context(_kafka(folder, jwks.as_uri()))
        tokens = stack.enter_context(_served(_tokens(key), server))
        proxy = stack.enter_context(_served(_proxy(registry), server))
        yield District(
            scram=f"127.0.0.1:{ports['scram']}",
            oauth=f"127.0.0.1:{ports['oauth']}",
            token_url=f"https://127.0.0.1:{tokens}/token",
            registry=f"https://127.0.0.1:{proxy}",
            ca=folder / "district-ca.pem",
            other_ca=folder / "other-ca.pem",
        )


# ---- certificates -------------------------------------------------------------------------------

Authority = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def authority(folder: Path, name: str) -> Authority:
    """Make an authority; its certificate is in `NAME-ca.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")])
    certificate = (
        _certificate(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}-ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


def signed(by: x509.Certificate, by_key: ec.EllipticCurvePrivateKey, to: Path) -> None:
    """Write a server's key and certificate for this machine's addresses into one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        _certificate(subject, by.subject, key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(by_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    to.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


# ---- Kafka --------------------------------------------------------------------------------------


@contextmanager
def _kafka(folder: Path, jwks: str) -> Iterator[dict[str, int]]:
    """Format Kafka with its users, start it, and set the ACLs; yield its ports by listener."""
    ports: dict[str, int] = {}
    for name in ("scram", "oauth", "inside", "controller"):
        ports[name] = machine.free_port(list(ports.values()))
    config = folder / "server.properties"
    config.write_text(PROPERTIES.format(jwks=jwks, **ports))
    users = [
        argument
        for user, password in ACCOUNTS.items()
        for argument in ("--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]")
    ]
    java = _java(folder, jwks)
    cluster = "MkU3OEVBNTcwNTJENDM2Qg"
    subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(config), *users],
        cwd=folder,
        env=process.environment(),
        capture_output=True,
        check=True,
    )
    with (folder / "kafka.out").open("wb") as out:
        broker = subprocess.Popen(
            [*java, "kafka.Kafka", str(config)],
            cwd=folder,
            env=process.environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        _admit(f"127.0.0.1:{ports['inside']}", broker, folder)
        yield ports
    finally:
        broker.kill()  # its data is no longer needed
        broker.wait(30)


def _java(folder: Path, jwks: str) -> list[str]:
    log = Path(download.__file__).with_name("log4j2.xml").as_uri()
    java, kafka = machine.java(), download.programs().kafka
    # the options and the archive of classes of the embedded bus, with which Kafka starts sooner
    quicker = sharing.reading(sharing.options(java, "kafka", kafka_process.FLAGS, kafka))
    return [
        java,
        *quicker,
        "-Xmx384m",
        *kafka_process.FLAGS,
        f"-Djava.io.tmpdir={folder}",
        f"-Dlog4j2.configurationFile={log}",
        f"-Dschoolbus.logs={folder}",
        # Kafka fetches keys from no other place (CVE-2025-27817)
        f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={jwks}",
        "-cp",
        f"{kafka}/*",
    ]


def _admit(inside: str, broker: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until Kafka answers, and give its users their rights."""
    admin = AdminClient({"bootstrap.servers": inside, "log_level": 0})
    until = time.monotonic() + READY_SECONDS
    while True:
        assert broker.poll() is None, (folder / "kafka.out").read_text()
        try:
            if admin.list_topics(timeout=1).brokers:
                break
        except KafkaException:
            assert time.monotonic() < until, "the secured Kafka does not answer"
    given = [right for user in (USER, CLIENT) for right in rights(user)]
    given += rights(HALF, ResourceType.TOPIC)
    for answer in admin.create_acls(given).values():
        answer.result()


NEEDED = {
    ResourceType.TOPIC: ("READ", "WRITE", "CREATE"),
    ResourceType.GROUP: ("READ",),
    ResourceType.TRANSACTIONAL_ID: ("WRITE",),
}
"""The rights that a bus needs on names with its prefix (each includes DESCRIBE)."""


def rights(user: str, *of: ResourceType, name: str = PREFIX) -> list[AclBinding]:
    """Return the rights that a bus needs, or only those for some types of resources."""
    return [
        AclBinding(
            kind,
            name,
            ResourcePatternType.PREFIXED,
            f"User:{user}",
            "*",
            AclOperation[operation],
            AclPermissionType.ALLOW,
        )
        for kind in of or NEEDED
        for operation in NEEDED[kind]
    ]


# ---- tokens, and the registry's proxy -----------------------------------------------------------

Endpoint = Callable[[Request], Awaitable[Response]]


def _tokens(key: RSAKey) -> Endpoint:
    """Issue a signed token of a minute for the client's id and secret (RFC 6749, section 4.4)."""

    async def token(request: Request) -> Response:
        said = _basic(request) or _form(await request.body())
        if said != (CLIENT, CLIENT_SECRET):
            return JSONResponse({"error": "invalid_client"}, 401)
        now = int(time.time())
        claims = {"sub": CLIENT, "aud": "kafka", "iss": "test", "iat": now, "exp": now + 60}
        signed = jwt.encode({"alg": "RS256", "kid": "1"}, claims, key)
        return JSONResponse({"access_token": signed, "token_type": "Bearer", "expires_in": 60})

    return token


def _proxy(registry: str) -> Endpoint:
    """Pass requests with the password or the token on to the registry."""

    async def forward(request: Request) -> Response:
        bearer = request.headers.get("authorization") == f"Bearer {REGISTRY_TOKEN}"
        if not bearer and _basic(request) != (REGISTRY_USER, REGISTRY_PASSWORD):
            return JSONResponse({"error_code": 40101, "message": "Unauthorized"}, 401)
        async with httpx2.AsyncClient(verify=False, trust_env=False, timeout=30) as client:
            answer = await client.request(
                request.method,
                f"{registry}{request.url.path}",
                params=dict(request.query_params),
                content=await request.body(),
                headers={
                    name: value
                    for name, value in request.headers.items()
                    if name in ("accept", "content-type")
                },
            )
        return Response(answer.content, answer.status_code, media_type="application/json")

    return forward


def _basic(request: Request) -> tuple[str, str] | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme != "Basic":
        return None
    try:
        user, _, password = base64.b64decode(value).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return user, password


def _form(body: bytes) -> tuple[str, str]:
    said = parse_qs(body.decode())
    return said.get("client_id", [""])[0], said.get("client_secret", [""])[0]


@contextmanager
def _served(endpoint: Endpoint, certificate: Path) -> Iterator[int]:
    """Serve every path over TLS on 127.0.0.1, in a thread, while the block runs; yield the port."""
    methods = ["GET", "POST", "PUT", "DELETE"]
    config = uvicorn.Config(
        Starlette(routes=[Route("/{path:path}", endpoint, methods=methods)]),
        ssl_certfile=certificate,
        log_config=None,
        access_log=False,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            while not server.started:
                thread.join(0.02)
                assert thread.is_alive(), "it could not be served"
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
