"""The certificates of a secure home: their names, modes, and when they are made again."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from bus.errors import Stop
from bus.local import certificates, kafka_process
from bus.local.certificates import CA, CA_KEY, NODE, SERVER, ensure

NOW = datetime(2026, 11, 28, tzinfo=UTC)
ALL = [CA_KEY, CA, SERVER, NODE]
DAY = timedelta(days=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tls"


def certificate(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_they_are_made_once_for_their_owner_alone(folder: Path) -> None:
    assert ensure(folder, ["kafka.district.example", "192.0.2.7"], NOW) == ALL
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys(ALL, 0o600)
    assert ensure(folder, ["kafka.district.example", "192.0.2.7"], NOW + 300 * DAY) == []


def test_the_servers_names_and_the_nodes(folder: Path) -> None:
    ensure(folder, ["kafka.district.example", "192.0.2.7"], NOW)
    outside, loopback = {"kafka.district.example", "192.0.2.7"}, {"localhost", "127.0.0.1"}
    assert certificates._hosts(certificate(folder / SERVER)) == outside | loopback
    assert certificates._hosts(certificate(folder / NODE)) == loopback
    node = certificate(folder / NODE).subject.rfc4514_string()
    assert node == kafka_process.NODE_USER != certificate(folder / SERVER).subject.rfc4514_string()


def test_the_servers_certificate_is_no_clients(folder: Path) -> None:
    """Else the file that most programs read would open the node's listeners."""
    ensure(folder, [], NOW)
    for name, uses in {SERVER: {"serverAuth"}, NODE: {"serverAuth", "clientAuth"}}.items():
        extensions = certificate(folder / name).extensions
        found = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert {use._name for use in found} == uses


def test_a_client_that_trusts_the_authority_trusts_the_server(folder: Path) -> None:
    ensure(folder, [])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / SERVER)
    for name, trusted in {"localhost": True, "elsewhere.example": False}.items():
        client = ssl.create_default_context(cafile=str(folder / CA))
        if trusted:
            _handshake(client, server, name)
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                _handshake(client, server, name)


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_they_are_renewed_when_fewer_than_30_days_are_left(folder: Path) -> None:
    ensure(folder, [], NOW)
    authority = (folder / CA).read_bytes()
    last = NOW + (certificates.DAYS - 30) * DAY
    assert ensure(folder, [], last) == []
    assert ensure(folder, [], last + timedelta(minutes=1)) == [SERVER, NODE]
    assert (folder / CA).read_bytes() == authority


def test_a_renewed_authority_keeps_its_key_so_that_vendors_have_time(folder: Path) -> None:
    ensure(folder, [], NOW)
    before = certificate(folder / CA)
    late = NOW + (certificates.CA_DAYS - 100) * DAY
    assert ensure(folder, [], late) == [CA, SERVER, NODE]
    certificate(folder / SERVER).verify_directly_issued_by(before)
    assert certificate(folder / CA).not_valid_after_utc > late + 3000 * DAY


@pytest.mark.parametrize("content", [b"", b"damaged"])
@pytest.mark.parametrize(
    ("name", "again"),
    [(CA_KEY, ALL), (CA, ALL), (SERVER, [SERVER]), (NODE, [NODE])],
)
def test_a_damaged_file_is_made_again(
    folder: Path, content: bytes, name: str, again: list[str]
) -> None:
    ensure(folder, [], NOW)
    (folder / name).write_bytes(content)
    assert ensure(folder, [], NOW) == again
    assert ensure(folder, [], NOW) == []


def test_another_authoritys_certificate_is_replaced(folder: Path, tmp_path: Path) -> None:
    ensure(folder, [], NOW)
    ensure(tmp_path / "other", [], NOW)
    (tmp_path / "other" / SERVER).replace(folder / SERVER)
    assert ensure(folder, [], NOW) == [SERVER]


def test_other_names_are_a_reason_for_a_new_certificate(folder: Path) -> None:
    ensure(folder, ["kafka.district.example"], NOW)
    assert ensure(folder, ["other.district.example"], NOW) == [SERVER]


@pytest.mark.parametrize("name", ["kafka", "kafka.district.example", "192.0.2.7", "7.district"])
def test_names(name: str) -> None:
    assert certificates.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "kafka:9092",
        "a,b",
        "a b",
        "-a",
        "a..b",
        "999.1.2.3",
        "0.0.0.0",
        "::1",
        "*.example",
        "x\ny",
    ],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(Stop, match="not a host name or an IPv4 address"):
        certificates.check_name(name)


def test_a_folder_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bus.local.private_file.write", refuse)
    with pytest.raises(Stop, match="not writable"):
        ensure(folder, [], NOW)
