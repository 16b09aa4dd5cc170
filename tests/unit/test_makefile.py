"""`make demo` says what it does before the demo, in one line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_packages_are_fetched_quietly(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) == 2
    assert all("--quiet" in line for line in installs)
    (told,) = [at for at, line in enumerate(lines) if line.startswith("echo")]
    assert told < lines.index(installs[0])
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = [line for line in makefile.splitlines() if "pip install" in line]
    assert all(line.startswith("\t@") for line in recipe)  # the command itself is not printed
