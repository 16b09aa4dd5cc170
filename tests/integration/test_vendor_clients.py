"""The programs of docs/clients read a vendor's topics as `subscribe` does, on a secure bus.

Only with --clients: it downloads the programs' libraries from the registries of their languages.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.commands import until
from tests.integration.secure_vendors import Wire, wire

pytestmark = pytest.mark.embedded

__all__ = ["wire"]

CLIENTS = Path(__file__).parents[2] / "docs" / "clients"
KINDS = ("student", "class", "enrollment")
NAME = "math"
SUBSCRIBE = f"""
from bus import subscribe
for event in subscribe(*{KINDS}, agreement="{NAME}", group="GROUP", until_caught_up=True):
    print(event.kind, event.key, *["deleted"] * (event.record is None))
"""


@dataclass(frozen=True, slots=True)
class Client:
    """How a program is built and run.

    tools: the commands that must be installed.
    fetch: gets the libraries.
    build: compiles the program; empty if nothing is compiled.
    run:   runs it.
    """

    tools: tuple[str, ...]
    fetch: tuple[str, ...]
    build: tuple[str, ...]
    run: tuple[str, ...]


PROGRAMS = {
    "java": Client(
        ("java", "mvn"),
        ("mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=target/lib"),
        ("mvn", "-q", "-B", "compile"),
        ("java", "-cp", os.pathsep.join(("target/classes", "target/lib/*")), "Reader"),
    ),
    "go": Client(
        ("go",), ("go", "mod", "download"), ("go", "build", "-o", "reader", "."), ("./reader",)
    ),
    "node": Client(
        ("node", "npm"),
        ("npm", "install", "--no-audit", "--no-fund"),
        (),
        ("node", "reader.js"),
    ),
}


@pytest.fixture(autouse=True)
def _asked(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--clients"):
        pytest.skip("downloads libraries; only with --clients")


@pytest.fixture(scope="module")
def student_deleted(wire: Wire) -> None:
    """Opt a student out whom the vendor has received, and wait for the deletion."""
    add = ("optouts", "add", "student-0000003", "--scope", "protected", "--decided-by", "court")
    wire.commands.run(*add)

    def deleted() -> bool:
        states = _subscribed(wire)
        return any(gone for (kind, _), gone in states.items() if kind == "student")

    until(deleted, "the deletion of the student")


def _states(lines: str) -> dict[tuple[str, str], bool]:
    """Return for each kind and key whether the last line says that it was deleted."""
    found = {}
    for line in lines.splitlines():
        kind, key, *deleted = line.split(" ")
        assert deleted in ([], ["deleted"]), line
        found[kind, key] = bool(deleted)
    return found


def _subscribed(wire: Wire) -> dict[tuple[str, str], bool]:
    done = subprocess.run(
        [sys.executable, "-c", SUBSCRIBE.replace("GROUP", secrets.token_hex(8))],
        cwd=wire.folder,
        env={"PATH": os.environ["PATH"], **wire.file(NAME)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return _states(done.stdout)


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_plain_client_reads_what_subscribe_reads(
    language: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    client = PROGRAMS[language]
    if missing := [tool for tool in client.tools if shutil.which(tool) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    folder = tmp_path / language
    shutil.copytree(
        CLIENTS / language, folder, ignore=shutil.ignore_patterns("target", "node_modules")
    )
    fetched = _run(client.fetch, folder)
    if fetched.returncode:
        pytest.skip(f"the libraries cannot be fetched: {fetched.stdout}{fetched.stderr}")
    if client.build:
        built = _run(client.build, folder)
        assert built.returncode == 0, built.stdout + built.stderr
    wire: Wire = request.getfixturevalue("wire")
    request.getfixturevalue("student_deleted")
    done = _run((*client.run, str(wire.folder / f"{NAME}.env"), *KINDS), folder)
    assert done.returncode == 0, done.stderr
    read = _states(done.stdout)
    assert read, done.stderr
    assert read == _subscribed(wire)
    assert {kind for kind, _ in read} == set(KINDS)
    assert True in read.values() and False in read.values()


def _run(command: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
