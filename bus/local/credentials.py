"""The passwords of a secure home, and what clients of its Kafka and registry need.

Each password is random and in a file of the home's folder `tls`, with mode 0600. Only the path of a
file is on a command line or in a configuration.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bus.errors import Stop
from bus.local import private_file
from bus.local.home import read_text, tls

USER = "bus"
"""The user of the bus's own clients, in Kafka and in the registry. It may do everything there."""

MECHANISM = "SCRAM-SHA-512"

PASSWORD, REGISTRY_PASSWORD = "bus.password", "registry.password"
"""The files' names."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client of a secure home needs.

    ca_file: the certificate of the home's authority, in PEM.
    """

    username: str
    password: SecretStr
    registry_password: SecretStr
    ca_file: Path


def credentials(home: Path) -> Credentials:
    """Return the credentials of the bus's own clients; raises `Stop` if they cannot be read."""
    folder = tls(home.absolute())
    try:
        password, registry = (
            SecretStr((folder / name).read_text("utf-8").strip())
            for name in (PASSWORD, REGISTRY_PASSWORD)
        )
    except OSError as error:
        raise Stop(
            f"{folder} cannot be read ({error.strerror}): run this as the user who ran `bus up`, "
            "or run `bus down` and `bus up`, which make missing files again"
        ) from None
    return Credentials(USER, password, registry, folder / "ca.pem")


def ensure_password(file: Path) -> None:
    """Make a password of 256 random bits, unless the file has one."""
    if not read_text(file).strip():
        private_file.write(file, secrets.token_urlsafe(32).encode())


def client_options(home: Path) -> dict[str, Any]:
    """Return librdkafka's settings with which the bus's own clients connect to a secure home."""
    found = credentials(home)
    return {
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": MECHANISM,
        "sasl.username": found.username,
        "sasl.password": found.password.get_secret_value(),
        "ssl.ca.location": str(found.ca_file),
    }
