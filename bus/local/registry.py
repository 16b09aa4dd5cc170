"""The Apicurio Registry: its command and environment, when it is ready.

State lies in an H2 file: the registry is up in seconds and keeps its schema ids. `WRITE_DELAY=0`
(H2's documentation, "SET WRITE_DELAY") has each registration on disk before it is answered, so a
kill loses none. Settings: Apicurio Registry documentation, "Configuring Apicurio Registry storage";
Quarkus documentation, "Logging configuration".
"""

from __future__ import annotations

from pathlib import Path

from bus.local.download import Programs

API = "/apis/ccompat/v7"
"""The Confluent registry API; the native one lies beside it."""


def url(port: int) -> str:
    """Where clients of the Confluent API go."""
    return f"http://127.0.0.1:{port}{API}"


def environment(home: Path, port: int) -> dict[str, str]:
    """Its settings; paths are relative to `registry/` in the home, in which it runs."""
    return {
        "QUARKUS_HTTP_HOST": "127.0.0.1",
        "QUARKUS_HTTP_PORT": str(port),
        "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
        "APICURIO_STORAGE_KIND": "sql",
        "APICURIO_STORAGE_SQL_KIND": "h2",
        "APICURIO_DATASOURCE_URL": "jdbc:h2:file:./registry;WRITE_DELAY=0",
        "APICURIO_DATASOURCE_JDBC_INITIAL_SIZE": "2",
        "APICURIO_DATASOURCE_JDBC_MIN_SIZE": "2",
        "APICURIO_DATASOURCE_JDBC_MAX_SIZE": "20",
        "QUARKUS_LOG_CONSOLE_LEVEL": "ERROR",
        "QUARKUS_LOG_FILE_ENABLED": "true",
        "QUARKUS_LOG_FILE_PATH": "../logs/registry.log",
        "QUARKUS_LOG_FILE_ROTATION_MAX_FILE_SIZE": "10M",
        "QUARKUS_LOG_FILE_ROTATION_MAX_BACKUP_INDEX": "3",
    }


def command(java: str, programs: Programs) -> list[str]:
    """How it is started."""
    return [
        java,
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-Djava.io.tmpdir=../run/tmp",
        "-jar",
        str(programs.registry / "quarkus-run.jar"),
    ]


def answers(port: int) -> bool:
    """Whether it takes requests."""
    import httpx2

    try:
        # trust_env: a proxy of the user's must not be asked for loopback
        with httpx2.Client(trust_env=False, timeout=5) as client:
            return client.get(f"{url(port)}/subjects").status_code == 200
    except httpx2.HTTPError:
        return False
