"""The archive of Java's own classes: created once, valid for the bus's options, and optional."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bus.local import machine, sharing


@pytest.mark.slow
def test_it_is_made_once_and_java_takes_it(tmp_path: Path) -> None:
    java = machine.java()
    [option] = sharing.options(java, tmp_path)
    [file] = tmp_path.iterdir()
    made = file.stat().st_mtime_ns
    assert sharing.options(java, tmp_path) == [option]
    assert file.stat().st_mtime_ns == made
    strict = [java, option, "-Xshare:on", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-version"]
    assert subprocess.run(strict, capture_output=True).returncode == 0


def test_where_it_cannot_be_made_java_goes_without(tmp_path: Path) -> None:
    assert sharing.options(str(tmp_path / "no-java"), tmp_path) == []
    assert list(tmp_path.iterdir()) == []
