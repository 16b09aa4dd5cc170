"""Other packages, built as wheels and installed beside Schoolbus."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def install(source: Path, folder: Path) -> Path:
    """Build the wheel of the package in `source`, install it into a folder, and return the folder.

    The folder belongs in PYTHONPATH. Nothing is downloaded.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    quiet = ["--no-deps", "--no-index"]
    wheels, target = folder / "wheels", folder / "target"
    build = [*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    run(build, folder, dict(os.environ))
    (wheel,) = wheels.glob("*.whl")
    run([*pip, "install", *quiet, "--target", str(target), str(wheel)], folder, dict(os.environ))
    return target


def run(line: list[str], cwd: Path, env: dict[str, str], status: int = 0) -> str:
    """Run a command that must end with this status; return what it printed."""
    done = subprocess.run(
        line, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == status, f"{line}: {done.stdout}\n{done.stderr}"
    return done.stdout
