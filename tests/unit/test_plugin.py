"""A third party's product and source in a separate package (`tests/plugin`).

The package is built as a wheel and installed beside Schoolbus. Schoolbus finds it, it passes the
contract suite, and it has types.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import surface
from tests.installed import install, run

REPOSITORY = Path(__file__).parents[2]
PLUGIN = REPOSITORY / "tests" / "plugin"


@dataclass(frozen=True, slots=True)
class Installed:
    """The folder where the plugin's wheel is installed, and the folder of its checkout."""

    target: Path
    source: Path

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run `python ARGUMENTS` in the checkout, with the wheel on the path, and return its output."""
        clean = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
        return run([sys.executable, *arguments], self.source, clean | self.env, status)

    @property
    def env(self) -> dict[str, str]:
        """The environment variables with which Python finds the wheel."""
        return {"PYTHONPATH": str(self.target), "BUS_HOME": str(self.source / "home")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__"))
    target = install(source, folder)
    shutil.rmtree(source / "lunch")  # the test must import the wheel
    return Installed(target, source)


def test_it_imports_only_what_is_public() -> None:
    listed = set(surface.documented())
    for path in sorted(PLUGIN.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                named = {alias.name for alias in node.names}
                assert not any(name.split(".")[0] == "bus" for name in named), path.name
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bus":
                named = {f"{node.module}.{alias.name}" for alias in node.names}
                assert named <= listed, path.name


@pytest.mark.slow
def test_the_command_line_finds_it(installed: Installed) -> None:
    other = json.loads(installed.run("-m", "bus", "consume", "no-such", "--json", status=2))
    assert "canvas, lunch, microsoft-sds" in other["error"]
    found = json.loads(installed.run("-m", "bus", "consume", "lunch", "--json", status=1))
    assert "bus up" in found["error"], "it is found, and only the bus is not there"
    assert "--until-caught-up" in installed.run("-m", "bus", "consume", "--help")
    register = installed.run("-m", "bus", "produce", "register", "--help")
    assert all(option in register for option in ("--source", "--watch", "--json", "PATH"))


@pytest.mark.slow
def test_a_vendor_reads_events(installed: Installed) -> None:
    program = (
        "from datetime import datetime\n"
        "from bus import Event\n"
        "from bus.contract import a_record\n"
        "from lunch.counter import said\n"
        "record = a_record('student', sourcedId='s1')\n"
        "print(said(Event('student', record, 'i', 't', 's', datetime(2026, 8, 17), None, 'p')))\n"
    )
    assert installed.run("-c", program) == "s1 eats (t at 00:00)\n"


@pytest.mark.slow
def test_it_passes_the_contract(installed: Installed) -> None:
    reported = installed.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "contract_lunch.py")
    assert " passed" in reported
    assert "skipped" not in reported


@pytest.mark.slow
def test_its_types_fit(installed: Installed) -> None:
    """This needs the types of Schoolbus itself (`py.typed`)."""
    checked = [str(installed.target / "lunch"), "contract_lunch.py"]
    # Use the configuration and the cache of `make check`, which has checked Schoolbus before.
    config, cache = str(REPOSITORY / "pyproject.toml"), str(REPOSITORY / ".mypy_cache")
    ours = ["--config-file", config, "--cache-dir", cache]
    installed.run("-m", "mypy", "--strict", *ours, *checked)
