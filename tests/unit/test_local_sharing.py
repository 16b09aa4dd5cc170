"""The archives of Java classes: created once, valid for the bus's options, and optional."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bus.local import machine, registry_process, sharing

FLAGS = registry_process.FLAGS
PROGRAM = ("-m", "jdk.httpserver/sun.net.httpserver.simpleserver.Main", "--version")
"""A small program of the runtime, in place of the registry."""


def options(folder: Path, java: str | None = None) -> list[str]:
    (folder / "jars").mkdir(exist_ok=True)
    return sharing.options(
        java or machine.java(), "registry", FLAGS, folder / "jars", folder / "cache"
    )


def run(used: list[str], *more: str) -> str:
    """Return all that the program prints with these options."""
    return subprocess.run(
        [machine.java(), *used, *FLAGS, *more, *PROGRAM],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.mark.slow
def test_the_base_is_made_once_and_java_takes_it(tmp_path: Path, cache: Path) -> None:
    used = options(tmp_path)
    [file] = cache.iterdir()
    made = file.stat().st_mtime_ns
    assert options(tmp_path)[:-1] == used[:-1]
    assert file.stat().st_mtime_ns == made
    base = next(one for one in used if one.startswith("-XX:SharedArchiveFile="))
    assert run([base, "-Xshare:on"])


@pytest.mark.slow
def test_a_program_writes_its_archive_at_its_end_and_the_next_start_takes_it(
    tmp_path: Path, cache: Path
) -> None:
    first, second = options(tmp_path), options(tmp_path)
    assert first[-1] != second[-1]  # two that end at once do not write the same file
    assert sharing.reading(first) == first[:-1]
    plain = run(first)
    run(second)
    assert len(list(cache.glob("registry-*.part"))) == 2
    used = options(tmp_path)
    [own] = cache.glob("registry-*.jsa")
    assert not any(one.startswith("-XX:ArchiveClassesAtExit") for one in used)
    assert "shared objects file (top)" in run(used, "-Xlog:class+load")
    assert run(used) == plain
    assert options(tmp_path) == used
    assert not list(cache.glob("*.part"))  # the one that came second

    whole = own.read_bytes()
    damaged = {
        "cut": whole[: len(whole) // 2],
        "noise": whole[:20_000] + os.urandom(len(whole) - 20_000),
        "foreign": b"hello",
        "empty": b"",
    }
    for name, content in damaged.items():
        own.write_bytes(content)
        assert run(used) == plain, name
    own.unlink()
    assert run(used) == plain

    (tmp_path / "jars" / "new.jar").write_bytes(b"")
    assert options(tmp_path)[-1].startswith(
        "-XX:ArchiveClassesAtExit="
    )  # other jars, other archive


@pytest.mark.slow
def test_one_that_is_not_complete_is_not_taken(tmp_path: Path, cache: Path) -> None:
    part = Path(options(tmp_path)[-1].partition("=")[2])
    part.write_bytes(bytes(100))  # Java writes the header last
    assert options(tmp_path)[-1].startswith("-XX:ArchiveClassesAtExit=")
    assert part.exists()
    old = part.stat().st_mtime - sharing.ABANDONED_SECONDS - 10
    os.utime(part, (old, old))
    options(tmp_path)
    assert not part.exists()


def test_where_it_cannot_be_made_java_goes_without(tmp_path: Path, cache: Path) -> None:
    assert options(tmp_path, str(tmp_path / "no-java")) == []
    assert list(cache.iterdir()) == []


def test_a_folder_whose_name_java_would_split_goes_without(tmp_path: Path) -> None:
    jars = tmp_path / "jars"
    jars.mkdir()
    folder = tmp_path / f"a{os.pathsep}b"
    assert sharing.options(machine.java(), "kafka", FLAGS, jars, folder) == []
