"""`make demo` says in one line what it does before the demo runs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("install", ROOT / "deploy" / "install.py")
assert SPEC is not None and SPEC.loader is not None
install = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(install)


def test_packages_are_fetched_quietly(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    (fetch,) = [line for line in lines if line.endswith("deploy/install.py")]
    (package,) = [line for line in lines if "pip install" in line]
    assert "--quiet" in package
    (reported,) = [at for at, line in enumerate(lines) if line.startswith("echo")]
    assert reported < lines.index(fetch)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = [
        line for line in makefile.splitlines() if "install.py" in line or "pip install" in line
    ]
    assert all(line.startswith("\t@") for line in recipe)  # the command itself is not printed


PIP = """Looking in links: /wheels
Collecting aiohttp==3.14.2 (from -r requirements.lock (line 1))
  Downloading aiohttp-3.14.2.whl (1.7 MB)
Collecting anyio==4.12.0 (from -r requirements.lock (line 9))
Installing collected packages: anyio, aiohttp
Successfully installed aiohttp-3.14.2 anyio-4.12.0
"""


def test_the_installation_shows_how_far_it_is() -> None:
    output: list[str] = []
    lines = iter(PIP.splitlines(keepends=True))
    assert list(install.steps(lines, 2, output)) == [
        "Installing Python packages: downloaded 1 of 2",
        "Installing Python packages: downloaded 2 of 2",
        "Installing Python packages: unpacking 2",
    ]
    assert "".join(output) == PIP, "it follows if pip fails"
