"""What a secure home remembers, and the configuration of its Kafka and registry."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from bus.errors import Stop
from bus.local import certificates, kafka_process, lifecycle, process, registry_process
from bus.local.credentials import PASSWORD, REGISTRY_PASSWORD, credentials, ensure_password
from bus.local.home import BusFile, is_secure, prepare, read_bus_file, tls, write_bus_file
from bus.local.lifecycle import Endpoints

PORTS = {
    "kafka": 1,
    "controller": 2,
    "inside": 3,
    "vendors": 4,
    "registry": 5,
    "management": 6,
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    prepare(tmp_path / "home")
    return tmp_path / "home"


def made(home: Path, *advertised: str) -> Path:
    """Return the home after it has become secure."""
    lifecycle._remember(home, True, advertised)
    lifecycle._secure_files(home, ["kafka", "registry"], lambda _: None)
    return home


def last(text: str) -> dict[str, str]:
    """Return the properties as Java reads them: of two lines with one name, the later one."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_a_plain_home_has_no_secure_listener(home: Path) -> None:
    found = last(kafka_process.properties(home, {"kafka": 1, "controller": 2}))
    assert found["listener.security.protocol.map"] == "BUS:PLAINTEXT,CONTROLLER:PLAINTEXT"
    assert "authorizer.class.name" not in found


def test_no_listener_of_a_secure_home_is_open(home: Path) -> None:
    found = last(kafka_process.properties(made(home), PORTS))
    listeners = dict(one.split("://") for one in found["listeners"].split(","))
    protocols = dict(one.split(":") for one in found["listener.security.protocol.map"].split(","))
    assert listeners.keys() == protocols.keys() == {"BUS", "VENDORS", "INSIDE", "CONTROLLER"}
    for name, protocol in protocols.items():
        option = f"listener.name.{name.lower()}"
        if protocol == "SASL_SSL":
            assert found[f"{option}.sasl.enabled.mechanisms"] == "SCRAM-SHA-512"
        else:
            assert protocol == "SSL"
            assert found[f"{option}.ssl.client.auth"] == "required"
    assert {address.split(":")[0] for address in listeners.values()} == {"127.0.0.1"}
    assert found["listener.name.vendors.connections.max.reauth.ms"] == "60000"
    assert found["authorizer.class.name"].endswith(".StandardAuthorizer")
    assert found["allow.everyone.if.no.acl.found"] == "false"
    assert found["super.users"] == "User:CN=schoolbus-node;User:bus"


def test_an_advertised_home_listens_outside_for_vendors_alone(home: Path) -> None:
    found = last(kafka_process.properties(made(home, "kafka.example", "10.1.2.3"), PORTS))
    outside = [one for one in found["listeners"].split(",") if "127.0.0.1" not in one]
    assert outside == ["VENDORS://0.0.0.0:4"]
    assert "VENDORS://kafka.example:4" in found["advertised.listeners"].split(",")
    assert lifecycle._endpoints(home, PORTS) == Endpoints(
        "127.0.0.1:1", "https://127.0.0.1:5/apis/ccompat/v7", True, "kafka.example:4"
    )


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("localhost", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("10.1.2.3", "0.0.0.0"),
        ("127.example", "0.0.0.0"),
    ],
)
def test_where_vendors_are_listened_to(name: str, address: str) -> None:
    assert kafka_process.listens_at(name) == address


def test_the_registry_asks_everybody_for_a_password(home: Path) -> None:
    made(home)
    registry_process.write_secure(home, PORTS)
    file = tls(home) / registry_process.SECURE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = last(file.read_text())
    assert found["quarkus.http.auth.permission.all.paths"] == "/*"
    assert found["quarkus.http.auth.permission.all.policy"] == "authenticated"
    assert found["quarkus.http.insecure-requests"] == "disabled"
    secret = credentials(home).registry_password.get_secret_value()
    assert found["quarkus.security.users.embedded.users.bus"] == secret
    assert secret not in str(registry_process.environment(PORTS, secure=True))


def test_passwords_are_made_once_and_differ(home: Path) -> None:
    made(home)
    first = [(tls(home) / name).read_text() for name in (PASSWORD, REGISTRY_PASSWORD)]
    assert len(set(first)) == 2
    assert all(len(one) >= 43 for one in first)
    ensure_password(tls(home) / PASSWORD)
    assert (tls(home) / PASSWORD).read_text() == first[0]
    assert first[0] not in repr(credentials(home))
    (tls(home) / PASSWORD).unlink()
    with pytest.raises(Stop, match="cannot be read"):
        credentials(home)


def test_a_home_stays_secure(home: Path) -> None:
    assert not is_secure(home)
    made(home, "kafka.example")
    lifecycle._remember(home, False, ())
    assert is_secure(home)
    assert read_bus_file(home).advertised == ["kafka.example"]
    (home / "bus.json").unlink()
    assert is_secure(home), "although the file is lost"
    write_bus_file(home, BusFile(secure=True))
    tls(home).rename(home / "moved")
    assert is_secure(home), "although the folder is lost"


def test_new_names_replace_the_earlier_ones(home: Path) -> None:
    made(home, "a.example", "b.example")
    lifecycle._remember(home, False, ["c.example"])
    assert read_bus_file(home).advertised == ["c.example"]


def test_a_plain_home_is_not_advertised(home: Path) -> None:
    with pytest.raises(Stop, match="give --secure, too"):
        lifecycle._remember(home, False, ["kafka.example"])
    assert not is_secure(home)


def test_what_runs_is_stopped_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find", lambda _, name: name == "registry")
    with pytest.raises(Stop, match=r"registry of the bus in .* run `bus down`"):
        lifecycle._remember(home, True, ())
    assert not is_secure(home)
    monkeypatch.setattr(process, "find", lambda *_: None)
    made(home, "a.example")
    monkeypatch.setattr(process, "find", lambda *_: True)
    lifecycle._remember(home, True, ["a.example"])  # nothing changes, so nothing need stop
    with pytest.raises(Stop, match="run `bus down`"):
        lifecycle._remember(home, True, ["b.example"])


def test_new_certificates_are_reported_and_new_authorities_named(home: Path) -> None:
    made(home)
    said: list[str] = []
    lifecycle._secure_files(home, ["kafka"], said.append)
    assert said == []
    (tls(home) / "node.pem").unlink()
    lifecycle._secure_files(home, ["registry"], said.append)
    assert said == [], "Kafka runs with the earlier ones"
    lifecycle._secure_files(home, ["kafka"], said.append)
    (tls(home) / "ca.key").unlink()
    lifecycle._secure_files(home, ["kafka"], said.append)
    assert said == [
        f"new certificates in {tls(home)}: node.pem",
        f"the authority of this home was lost and is new: vendors need {tls(home) / 'ca.pem'} now",
    ]


def test_a_renewed_authority_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(home)
    said: list[str] = []
    monkeypatch.setattr(certificates, "ensure", lambda *_: ["ca.pem", "server.pem"])
    lifecycle._secure_files(home, ["kafka"], said.append)
    assert said == [
        f"{tls(home) / 'ca.pem'} is renewed: vendors need it before the earlier one ends"
    ]
