"""Every command of the README and the docs works exactly as written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import page_package
from tests.installed import install
from tests.integration import in_process

REPOSITORY = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    text = (REPOSITORY / page).read_text("utf-8")
    return [code for name, code in BLOCK.findall(text) if name == language]


@pytest.mark.longest
@pytest.mark.embedded
def test_the_readme_from_top_to_bottom(tmp_path: Path) -> None:
    """A new user starts in an empty folder, with `bus` on the path and no settings."""
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    commands = [line for block in blocks("README.md", "sh") for line in block.splitlines()]
    assert commands[0] == "bus up"
    assert commands[-1] == "bus down"
    (example,) = blocks("README.md", "python")
    made = tmp_path / "package"  # the package of docs/own-product.md, for that page's commands
    made.mkdir()
    env["PYTHONPATH"] = str(install(page_package.write("library", made / "source"), made))
    try:
        for command in commands[:-1]:
            done = _run(command.split(), tmp_path, env)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        groups = json.loads(_run(["bus", "status", "--json"], tmp_path, env).stdout)["groups"]
        assert {group: one["lag"] for group, one in groups.items()} == dict.fromkeys(groups, 0)
        assert list((tmp_path / "for-canvas").glob("*.zip"))
        assert (tmp_path / "for-sds" / "users.csv").is_file()
        (tmp_path / "tuesday.zip").rename(tmp_path / "extract.zip")
        for page in ("docs/sources.md", "docs/products.md", "docs/own-product.md", "docs/http.md"):
            for block in blocks(page, "sh"):
                for command in block.splitlines():
                    done = _run(command.split(), tmp_path, env)
                    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        vendor = _run([sys.executable, "-c", example], tmp_path, env)
        assert vendor.returncode == 0, vendor.stderr
        events = vendor.stdout.splitlines()
        assert len(events) > 8000
        assert events[0].split()[0].startswith("org.schoolbus.")
    finally:
        done = _run(commands[-1].split(), tmp_path, env)
    assert "stopped kafka and registry" in done.stdout


def test_git_ignores_what_the_commands_write(tmp_path: Path) -> None:
    """The files may hold personal data, so a commit in a clone must not publish them."""
    _run(["git", "init", "-q"], tmp_path, dict(os.environ))
    (tmp_path / ".gitignore").write_text((REPOSITORY / ".gitignore").read_text("utf-8"))
    written = {".bus/x", "district/x"}
    for page in ("README.md", "docs/products.md", "docs/own-product.md", "docs/sources.md"):
        for line in "\n".join(blocks(page, "sh")).splitlines():
            written |= set(re.findall(r"(?:--out|--into|bus sample) (\S+)", line))
    assert {"monday.zip", "for-canvas", "for-library"} <= written
    for name in sorted(written):
        # Git sees a folder only if it has a file
        path = name if "." in name else f"{name}/x"
        done = _run(["git", "check-ignore", "-q", path], tmp_path, dict(os.environ))
        assert done.returncode == 0, name


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(f"docs/{p.name}" for p in (REPOSITORY / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    text = (REPOSITORY / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((REPOSITORY / page).parent / target).exists(), f"{page}: {target}"


def _run(command: list[str], folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in this process if possible.

    `bus up` and `bus down` need a process, and so do commands with a product that is not installed
    here.
    """
    if command[0] == "bus" and command[1] not in ("up", "down") and "library" not in command:
        done = in_process.run(command[1:], cwd=folder, env=env, seconds=180)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout, done.stderr)
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=180, check=False
    )
