"""Each dependency is used, is in the right extra, and has a reason in docs/dependencies.md.

A plain `pip install schoolbus` is enough to import what a vendor needs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bus.extras import EXTRAS, missing_extra
from tests import light_install

REPOSITORY = light_install.REPOSITORY
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
BROUGHT = metadata.packages_distributions()
"""For each module the packages that bring it."""
CODE = "\n".join(
    path.read_text("utf-8")
    for room in ("bus", "producers", "consumers")
    for path in sorted((REPOSITORY / room).rglob("*.py"))
)
PLUGGED_IN = {"httptools"}
"""Used by another package when it is installed (uvicorn), and not imported here."""


def packages(lines: list[str]) -> list[str]:
    return [name for line in lines if (name := Requirement(line).name) != "schoolbus"]


@cache
def modules(package: str) -> set[str]:
    """Return the modules that a package installs."""
    return {
        module
        for module, names in BROUGHT.items()
        if package in {canonicalize_name(name) for name in names}
    }


EXTRA_PACKAGES = {
    extra: packages(lines)
    for extra, lines in PROJECT["optional-dependencies"].items()
    if extra != "dev"
}
RUN_TIME = [*packages(PROJECT["dependencies"]), *chain(*EXTRA_PACKAGES.values())]


@pytest.mark.parametrize("package", RUN_TIME)
def test_it_is_used(package: str) -> None:
    named = "|".join(map(re.escape, modules(package)))
    imported = re.search(rf"^\s*(?:import|from) (?:{named})\b", CODE, re.M)
    assert imported or package in PLUGGED_IN


def test_each_has_a_reason() -> None:
    page = (REPOSITORY / "docs" / "dependencies.md").read_text("utf-8")
    listed = re.findall(r"^\| `([a-z0-9-]+)(?:\[.*?\])?` \|", page, re.M)
    assert sorted(listed) == sorted(set(RUN_TIME))
    for package in packages(PROJECT["optional-dependencies"]["dev"]):
        assert f"`{package}`" in page


def test_an_error_names_the_extra_that_brings_the_module() -> None:
    for extra, names in EXTRA_PACKAGES.items():
        for package in set(names) - PLUGGED_IN - {"uvloop"}:
            found = modules(package)
            if package.startswith("opentelemetry"):
                found = {"opentelemetry.exporter"} if extra == "otlp" else {"opentelemetry.sdk"}
            assert any(
                f"the extra [{extra}]" in str(missing_extra(ModuleNotFoundError(name=module)))
                for module in found
            ), package
    assert EXTRAS.keys() == EXTRA_PACKAGES.keys()
    assert missing_extra(ModuleNotFoundError(name="bus.nothing")) is None


# ---- a plain installation ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "packages"
    light_install.link(folder)
    return folder


def run(plain: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with only these packages."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BUS_")}
    env = clean | {"PYTHONPATH": str(plain)}
    line = [sys.executable, "-S", *arguments]
    return subprocess.run(line, env=env, cwd=plain, capture_output=True, text=True, timeout=60)


def test_a_vendor_imports_what_is_public(plain: Path) -> None:
    names = "subscribe, Product, Table, Source, Never, RetryLater, Stop, attributes"
    done = run(plain, "-c", f"from bus import {names}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("-m", "bus", "up"), "local"),
        (("-c", "from bus import subscribe; next(subscribe('student', group='x'))"), "local"),
        (("-c", "from bus import produce"), "district"),
        (("-c", "import bus; bus.Staging"), ""),
    ],
)
def test_what_needs_an_extra_names_it(plain: Path, arguments: tuple[str, ...], extra: str) -> None:
    done = run(plain, *arguments)
    if not extra:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 1
    assert f"install Schoolbus with the extra [{extra}]" in done.stderr
    assert "Traceback" not in done.stderr or arguments[0] == "-c"


def test_it_is_small() -> None:
    """The number of packages is the one in docs/dependencies.md."""
    page = (REPOSITORY / "docs" / "dependencies.md").read_text("utf-8")
    for extra in ("", "local", "district"):
        install = f"schoolbus[{extra}]" if extra else "schoolbus"
        found = re.search(rf"^\| `pip install '?{re.escape(install)}'?`.*?\| (\d+) \|", page, re.M)
        assert found, extra
        assert int(found[1]) == len(light_install.distributions([extra] if extra else []))
