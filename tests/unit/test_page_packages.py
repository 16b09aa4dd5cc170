"""The examples of docs/own-product.md and docs/own-source.md, word for word, as packages.

The packages install, pass the contract suite, and have types.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests import page_package, surface
from tests.installed import install, run

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=page_package.PACKAGES)
def module(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def checkout(module: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the page's package, which is installed; only its test is left there."""
    folder = tmp_path_factory.mktemp(module)
    source = page_package.write(module, folder / "source")
    install(source, folder)
    (source / f"{module}.py").unlink()  # the test must import the wheel
    return source


def python(checkout: Path, *arguments: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
    env = clean | {"PYTHONPATH": str(checkout.parent / "target")}
    return run([sys.executable, *arguments], checkout, env)


@pytest.mark.slow
def test_it_passes_its_tests(checkout: Path, module: str) -> None:
    reported = python(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_{module}.py")
    assert " passed" in reported
    assert "skipped" not in reported


@pytest.mark.slow
def test_its_types_fit(checkout: Path, module: str) -> None:
    installed = str(checkout.parent / "target" / f"{module}.py")
    files = [installed, f"test_{module}.py"]
    # Use the configuration and the cache of `make check`, which has checked Schoolbus before.
    config, cache = str(REPOSITORY / "pyproject.toml"), checkout / "cache"
    if (known := REPOSITORY / ".mypy_cache").exists():
        shutil.copytree(known, cache)
    options = ["--strict", "--config-file", config, "--cache-dir", str(cache)]
    python(checkout, "-m", "mypy", *options, *files)


def test_it_imports_only_names_that_stay(module: str, tmp_path: Path) -> None:
    listed = surface.documented()
    for name in (f"{module}.py", f"test_{module}.py"):
        code = (page_package.write(module, tmp_path / name) / name).read_text("utf-8")
        for line in code.splitlines():
            if line.startswith(("from bus", "from consumers")):
                where, _, names = line.removeprefix("from ").partition(" import ")
                assert {f"{where}.{one}" for one in names.split(", ")} <= set(listed)
