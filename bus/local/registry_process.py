"""Runs the Apicurio Registry: command, environment, readiness.

Its state is in an H2 file, so it starts in seconds and keeps its schema ids. With `WRITE_DELAY=0`
each registration is on disk before it is answered, so a kill loses none.

The registry of a secure home needs TLS and a password (basic authentication) for every path. Its
management port, on 127.0.0.1, has neither: it serves health and metrics, and no schema.

Source: H2 documentation, "SET WRITE_DELAY"; Apicurio Registry documentation, "Configuring Apicurio
Registry storage"; Quarkus documentation, "Logging configuration", "TLS" and
"Basic authentication".
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bus.local import private_file
from bus.local.credentials import Credentials, credentials
from bus.local.download import Programs
from bus.local.home import tls

FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
)
"""Java's options that an archive of classes depends on."""

API = "/apis/ccompat/v7"
"""The path of the API that is compatible with Confluent's."""


SECURE = "registry.properties"
"""The file with the configuration that only a secure home has."""

PROPERTIES = """\
# `bus up` writes this file at each start.
quarkus.http.ssl-port={port}
quarkus.http.insecure-requests=disabled
quarkus.http.ssl.certificate.files=../tls/server.pem
quarkus.http.ssl.certificate.key-files=../tls/server.pem
quarkus.http.auth.basic=true
quarkus.http.auth.permission.all.paths=/*
quarkus.http.auth.permission.all.policy=authenticated
quarkus.security.users.embedded.plain-text=true
quarkus.security.users.embedded.users.{user}={password}
quarkus.security.users.embedded.roles.{user}=sr-admin
"""


def url(port: int, *, secure: bool = False) -> str:
    """Return the URL for clients of Confluent's API."""
    return f"http{'s' if secure else ''}://127.0.0.1:{port}{API}"


def write_secure(home: Path, ports: dict[str, int]) -> None:
    """Write the configuration of a secure home: TLS, and a password for each request."""
    found = credentials(home)
    text = PROPERTIES.format(
        port=ports["registry"],
        user=found.username,
        password=found.registry_password.get_secret_value(),
    )
    private_file.write(tls(home) / SECURE, text.encode())


def environment(ports: dict[str, int], *, secure: bool = False) -> dict[str, str]:
    """Return its settings. Paths are relative to its working folder, `registry/` in the home.

    secure: whether to read also what `write_secure` has written.
    """
    more = {"SMALLRYE_CONFIG_LOCATIONS": f"../tls/{SECURE}"} if secure else {}
    return more | {
        "QUARKUS_HTTP_HOST": "127.0.0.1",
        "QUARKUS_HTTP_PORT": str(ports["registry"]),
        "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",
        "QUARKUS_MANAGEMENT_PORT": str(ports["management"]),
        "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
        "APICURIO_STORAGE_KIND": "sql",
        "APICURIO_STORAGE_SQL_KIND": "h2",
        "APICURIO_DATASOURCE_URL": "jdbc:h2:file:./registry;WRITE_DELAY=0",
        "APICURIO_DATASOURCE_JDBC_INITIAL_SIZE": "2",
        "APICURIO_DATASOURCE_JDBC_MIN_SIZE": "2",
        "APICURIO_DATASOURCE_JDBC_MAX_SIZE": "20",
        # By default it lists only the first 1,000 subjects; each vendor has up to twelve.
        "APICURIO_CCOMPAT_MAX_SUBJECTS": "100000",
        "QUARKUS_BANNER_ENABLED": "false",
        "QUARKUS_LOG_CONSOLE_LEVEL": "ERROR",
        "QUARKUS_LOG_FILE_ENABLED": "true",
        "QUARKUS_LOG_FILE_JSON_ENABLED": "false",
        "QUARKUS_LOG_FILE_PATH": "../logs/registry.log",
        "QUARKUS_LOG_FILE_FORMAT": "%d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX} %p %c{1}: %s%e%n",
        "QUARKUS_LOG_FILE_ROTATION_MAX_FILE_SIZE": "10M",
        "QUARKUS_LOG_FILE_ROTATION_MAX_BACKUP_INDEX": "3",
        "QUARKUS_LOG_FILE_ROTATION_ROTATE_ON_BOOT": "false",
    }


def command(java: str, programs: Programs, quicker: Sequence[str] = ()) -> list[str]:
    """Return the command that starts it."""
    return [
        java,
        *quicker,
        "-Xmx256m",
        *FLAGS,
        "-Djava.io.tmpdir=../run/tmp",
        "-jar",
        str(programs.registry / "quarkus-run.jar"),
    ]


def answers(port: int, known: Credentials | None = None) -> bool:
    """Return whether it accepts requests.

    known: the credentials of the home, if it is secure.
    """
    import httpx2

    options: dict[str, Any] = {}
    if known:
        options["verify"] = ssl.create_default_context(cafile=str(known.ca_file))
        options["auth"] = (known.username, known.registry_password.get_secret_value())
    address = url(port, secure=bool(known))
    try:
        # trust_env: requests to loopback must not use the user's proxy
        with httpx2.Client(trust_env=False, timeout=5, **options) as client:
            return client.get(f"{address}/config").status_code == 200
    except httpx2.HTTPError:
        return False
