"""Describes the machine on which a benchmark runs. Every result names it."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil


def machine() -> str:
    """Return the processor, cores, memory and Python version in one line."""
    memory = psutil.virtual_memory().total / 2**30
    cores = psutil.cpu_count()
    return f"{_processor()}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def _processor() -> str:
    try:
        about = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in about.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()
