"""Other packages, built as wheels and installed beside Schoolbus."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile


def install(source: Path, folder: Path) -> Path:
    """Build the wheel of the package in `source`, install it into a folder, and return the folder.

    The folder belongs in PYTHONPATH. Nothing is downloaded. pip would do the same, with several more
    starts of Python: the build backend makes the wheel (PEP 517, `build_wheel`), and a wheel of pure
    Python is installed when it is unpacked (Binary distribution format, "Installing a wheel").
    """
    wheels, target = folder / "wheels", folder / "target"
    wheels.mkdir()
    project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))
    build = f"import {project['build-system']['build-backend']} as backend, sys"
    code = f"{build}; backend.build_wheel(sys.argv[1])"
    run([sys.executable, "-c", code, str(wheels)], source, dict(os.environ))
    (wheel,) = wheels.glob("*-none-any.whl")
    with ZipFile(wheel) as packed:
        packed.extractall(target)
    return target


def run(line: list[str], cwd: Path, env: dict[str, str], status: int = 0) -> str:
    """Run a command that must end with this status; return what it printed."""
    done = subprocess.run(
        line, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == status, f"{line}: {done.stdout}\n{done.stderr}"
    return done.stdout
