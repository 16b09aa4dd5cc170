"""Makes the certificates of a secure home: its own authority, and what the authority signs.

The folder `tls` of the home has mode 0700, and every file in it 0600:

    ca.pem      the certificate of the authority; clients trust it
    ca.key      the key of the authority, which signs the next certificates
    server.pem  key and certificate of the server, for all of its names
    node.pem    key and certificate with which Kafka's node authenticates itself to itself

Keys are on the curve P-256. A file that is missing, damaged, signed by another authority, for other
names or near its end is made again, so call `ensure` only while the servers are down.

Sources: RFC 5280, "Internet X.509 Public Key Infrastructure"; Apache Kafka documentation,
"Security" (PEM stores; `ssl.principal.mapping.rules`: without a rule, the user is the
certificate's distinguished name).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bus.errors import Stop
from bus.local import private_file

CA, CA_KEY, SERVER, NODE = "ca.pem", "ca.key", "server.pem", "node.pem"
"""The files' names."""

NODE_NAME = "schoolbus-node"
"""The common name in `node.pem`, of which `kafka_process.NODE_USER` is made."""

LOOPBACK = ("localhost", "127.0.0.1")
"""The names that each server certificate has."""

DAYS = 397
"""How many days a server's certificate is valid: the most that browsers accept."""

CA_DAYS = 3650
RENEW_DAYS = 30
"""A certificate with fewer days left is renewed."""

EARLIER = timedelta(hours=1)
"""Certificates are valid from this long ago, for clients whose clock is slow."""

LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
"""A part of a host name. Source: RFC 1123, section 2.1."""


def check_name(name: str) -> str:
    """Return a host name or an IP address, unchanged; raises `Stop` if it is neither.

    Kafka's configuration separates names by commas and colons, so no other characters may come in.
    IPv6 addresses are refused.
    """
    labels = name.split(".")
    numbers = all(label.isdigit() for label in labels)
    good = len(name) <= 253 and all(LABEL.fullmatch(label) for label in labels)
    address = _address(name)
    if not good or (numbers and not address) or (address and address.is_unspecified):
        raise Stop(
            f"{name!r} is not a host name or an IPv4 address: give --advertise the name alone, "
            "such as kafka.district.example, without a port"
        )
    return name


def ensure(folder: Path, names: Sequence[str], now: datetime | None = None) -> list[str]:
    """Make what is missing or must be renewed, and return the names of the files it wrote.

    names: host names and IP addresses, in addition to `LOOPBACK`, for clients of the server.
    now:   the time at which the certificates must be valid; by default the current time.

    A new authority ends the trust of all clients: they need the new `ca.pem`. A renewed authority
    keeps its key, so that clients may use the earlier `ca.pem` until that ends.

    Raises `Stop` if the folder is not writable.
    """
    now = now or datetime.now(UTC)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        return _ensure(folder, names, now)
    except OSError as error:
        raise Stop(
            f"{folder} is not writable ({error.strerror}): give your user access to it"
        ) from None


def _ensure(folder: Path, names: Sequence[str], now: datetime) -> list[str]:
    wrote = []
    key, authority = _key(folder / CA_KEY), _certificate(folder / CA)
    if key is None or authority is None or not _is_pair(key, authority):
        key, authority = _new_key(), None
        private_file.write(folder / CA_KEY, _pem_key(key))
        wrote.append(CA_KEY)
    if authority is None or _days_left(authority, now) < DAYS + RENEW_DAYS:
        authority = _sign_authority(key, now)
        private_file.write(folder / CA, _pem(authority))
        wrote.append(CA)
    wanted = {
        SERVER: ("schoolbus", tuple(dict.fromkeys([*LOOPBACK, *names])), False),
        NODE: (NODE_NAME, LOOPBACK, True),
    }
    for file, (common_name, hosts, is_client) in wanted.items():
        own_key, own = _key(folder / file), _certificate(folder / file)
        if (
            own_key is None
            or own is None
            or not _is_pair(own_key, own)
            or not _is_signed(own, authority)
            or _hosts(own) != set(hosts)
            or _days_left(own, now) < RENEW_DAYS
        ):
            own_key = _new_key()
            own = _sign(own_key, common_name, hosts, is_client, authority, key, now)
            # Kafka expects the key first, then the chain.
            private_file.write(folder / file, _pem_key(own_key) + _pem(own) + _pem(authority))
            wrote.append(file)
    return wrote


def days_left(file: Path) -> float:
    """Return for how many days the certificate in a file is still valid; 0 if there is none."""
    found = _certificate(file)
    return _days_left(found, datetime.now(UTC)) if found else 0.0


def _sign_authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = _name("Schoolbus home authority")
    return (
        _builder(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _sign(
    key: ec.EllipticCurvePrivateKey,
    common_name: str,
    hosts: Sequence[str],
    is_client: bool,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    names: list[x509.GeneralName] = [
        x509.IPAddress(address) if (address := _address(host)) else x509.DNSName(host)
        for host in hosts
    ]
    uses = [ExtendedKeyUsageOID.SERVER_AUTH]
    uses += [ExtendedKeyUsageOID.CLIENT_AUTH] if is_client else []
    return (
        _builder(_name(common_name), authority.subject, key.public_key(), now, DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _address(host: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key(file: Path) -> ec.EllipticCurvePrivateKey | None:
    """Return the key in a file; None if there is none, or not one of ours."""
    try:
        found = serialization.load_pem_private_key(file.read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return found if isinstance(found, ec.EllipticCurvePrivateKey) else None


def _certificate(file: Path) -> x509.Certificate | None:
    """Return the first certificate in a file; None if there is none."""
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _is_pair(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bool:
    return key.public_key() == certificate.public_key()


def _is_signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _hosts(certificate: x509.Certificate) -> set[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = found.get_values_for_type(x509.IPAddress)
    return {*found.get_values_for_type(x509.DNSName), *map(str, addresses)}


def _days_left(certificate: x509.Certificate, now: datetime) -> float:
    return (certificate.not_valid_after_utc - now) / timedelta(days=1)
