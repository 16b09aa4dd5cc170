"""The example of docs/products.md, word for word: a package that installs, is accepted and typed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests import products_page, surface
from tests.installed import install, run


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package, installed; only its test is left beside it."""
    folder = tmp_path_factory.mktemp("library")
    source = products_page.write(folder / "source")
    install(source, folder)
    (source / "library.py").unlink()  # what is tested is what the wheel has
    return source


def python(checkout: Path, *arguments: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
    env = clean | {"PYTHONPATH": str(checkout.parent / "target")}
    return run([sys.executable, *arguments], checkout, env)


@pytest.mark.slow
def test_it_passes_its_tests(checkout: Path) -> None:
    told = python(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_library.py")
    assert " passed" in told
    assert "skipped" not in told


@pytest.mark.slow
def test_its_types_fit(checkout: Path) -> None:
    cache = str(checkout / "cache")
    module = str(checkout.parent / "target" / "library.py")
    python(checkout, "-m", "mypy", "--strict", "--cache-dir", cache, module, "test_library.py")


def test_it_imports_only_names_that_stay(tmp_path: Path) -> None:
    listed = surface.documented()
    for name in ("library.py", "test_library.py"):
        code = (products_page.write(tmp_path / name) / name).read_text("utf-8")
        for line in code.splitlines():
            if line.startswith(("from bus", "from consumers")):
                module, _, names = line.removeprefix("from ").partition(" import ")
                assert {f"{module}.{one}" for one in names.split(", ")} <= set(listed)
