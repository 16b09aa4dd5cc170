"""docs/python-api.md lists exactly what Python programs may import."""

from __future__ import annotations

import pytest

import bus
import bus.contract
import bus.standard
from tests import surface


@pytest.mark.parametrize("module", [bus, bus.contract, bus.standard])
def test_the_list_is_that_of_the_package(module: object) -> None:
    name: str = module.__name__  # type: ignore[attr-defined]
    listed = [path for path in surface.documented() if path.rpartition(".")[0] == name]
    assert sorted(listed) == sorted(f"{name}.{each}" for each in module.__all__)  # type: ignore[attr-defined]


def test_nothing_is_listed_twice() -> None:
    listed = surface.documented()
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("path", surface.documented())
def test_each_can_be_imported(path: str) -> None:
    assert surface.importable(path) is not None


@pytest.mark.parametrize("package", ["bus", "producers", "consumers"])
def test_each_package_says_that_it_is_typed(package: str) -> None:
    assert (surface.ROOT / package / "py.typed").is_file()
