"""Install the packages of requirements.lock into this Python's environment, and show how far it is.

    .venv/bin/python deploy/install.py

It runs before any package is there, so it needs nothing but pip. pip prints a line for each package
that it has found; this script counts them: on a terminal in one line, elsewhere in a line now and
then. If pip fails, its own output follows.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
SECONDS = 10.0
"""Seconds between two lines where there is no terminal."""


def steps(lines: Iterator[str], total: int, output: list[str]) -> Iterator[str]:
    """Give a text for each step that pip's output shows. The output is kept in `output`."""
    found = 0
    for line in lines:
        output.append(line)
        if line.startswith("Collecting "):
            found += 1
            yield f"Installing Python packages: downloaded {min(found, total)} of {total}"
        elif line.startswith("Installing collected packages"):
            yield f"Installing Python packages: unpacking {total}"


def main() -> int:
    """Run pip. Return its exit status."""
    total = len(re.findall(r"^[a-zA-Z0-9._-]+==", LOCK.read_text("utf-8"), re.M))
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    pip += ["--progress-bar", "off", "--require-hashes", "-r", str(LOCK)]
    output: list[str] = []
    terminal = sys.stderr.isatty()
    shown = 0.0
    with subprocess.Popen(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        for text in steps(iter(run.stdout), total, output):
            if terminal:
                sys.stderr.write(f"\r{text}\x1b[K")
            elif time.monotonic() - shown > SECONDS:
                shown = time.monotonic()
                sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
    if terminal:
        sys.stderr.write("\r\x1b[K")
    if run.returncode:
        sys.stderr.write("".join(output))
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
