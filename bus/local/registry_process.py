"""Runs the Apicurio Registry: command, environment, readiness.

Its state is in an H2 file, so it starts in seconds and keeps its schema ids. With `WRITE_DELAY=0`
each registration is on disk before it is answered, so a kill loses none.

Source: H2 documentation, "SET WRITE_DELAY"; Apicurio Registry documentation, "Configuring Apicurio
Registry storage"; Quarkus documentation, "Logging configuration".
"""

from __future__ import annotations

from collections.abc import Sequence

from bus.local.download import Programs

FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
)
"""Java's options that an archive of classes depends on."""

API = "/apis/ccompat/v7"
"""The path of the API that is compatible with Confluent's."""


def url(port: int) -> str:
    """Return the URL for clients of Confluent's API."""
    return f"http://127.0.0.1:{port}{API}"


def environment(ports: dict[str, int]) -> dict[str, str]:
    """Return its settings. Paths are relative to its working folder, `registry/` in the home."""
    return {
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


def answers(port: int) -> bool:
    """Return whether it accepts requests."""
    import httpx2

    try:
        # trust_env: requests to loopback must not use the user's proxy
        with httpx2.Client(trust_env=False, timeout=5) as client:
            return client.get(f"{url(port)}/subjects").status_code == 200
    except httpx2.HTTPError:
        return False
