"""How products are found, and which kinds they take."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from bus import plugins
from bus.cli import app
from bus.errors import Stop
from bus.settings import Settings, registered_name
from bus.source import Extracts, Source


def test_the_takers_of_a_kind_are_the_products_that_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    products = {"canvas": ("student", "class"), "webhook": ("student",)}
    monkeypatch.setattr(plugins, "products", lambda: list(products))
    monkeypatch.setattr(plugins, "product", lambda name: SimpleNamespace(kinds=products[name]))
    assert plugins.takers() == {"student": ("canvas", "webhook"), "class": ("canvas",)}


def test_a_product_that_does_not_load_is_left_out_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str) -> Any:
        raise ImportError("no module named theirs")

    monkeypatch.setattr(plugins, "products", lambda: ["canvas"])
    monkeypatch.setattr(plugins, "product", broken)
    with caplog.at_level(logging.WARNING):
        assert plugins.takers() == {}
    assert "product canvas does not load" in caplog.text


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a product and a source of another package, `theirs`, that needs a missing module."""
    (tmp_path / "theirs.py").write_text("\nimport not_installed_anywhere\n")
    (tmp_path / "odd.py").write_text("PRODUCT = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    real = plugins.entry_points

    def found(*, group: str, name: str | None = None) -> Any:
        ours = [
            EntryPoint("theirs", "theirs:IT", group),
            EntryPoint("odd", "odd:PRODUCT", group),
            EntryPoint("renamed", "consumers.canvas:PRODUCT", group),
        ]
        all_ = [*real(group=group), *ours]
        return [point for point in all_ if name in (None, point.name)]

    monkeypatch.setattr(plugins, "entry_points", found)


@pytest.mark.parametrize("line", ["consume theirs", "produce theirs x", "replay theirs"])
def test_a_package_that_does_not_load_is_named_and_not_called_a_defect(
    broken: None, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*line.split(), "--json"])
    assert done.exit_code == 1
    assert "theirs does not load" not in done.stderr
    for said in ("theirs of the package", "not_installed_anywhere", "theirs.py:2"):
        assert said in done.stdout
    assert "defect" not in done.stdout


def test_the_other_sources_are_there_although_one_does_not_load(broken: None) -> None:
    done = CliRunner().invoke(app, ["produce", "--help"])
    assert done.exit_code == 0
    assert "oneroster-csv" in done.stdout
    assert "does not load" in done.stdout


def test_an_entry_point_that_is_no_product_is_named(broken: None) -> None:
    with pytest.raises(Stop, match=r"odd:PRODUCT is not a bus\.Product"):
        plugins.product("odd")


def test_a_product_has_one_name(broken: None) -> None:
    with pytest.raises(Stop, match="has the name canvas"):
        plugins.product("renamed")


@pytest.mark.parametrize("name", ["my product", "", "Lunch", "a__b", "-a", "a.b", "ä", "a" * 61])
def test_a_name_that_kafka_or_a_variable_cannot_have_is_refused_when_it_is_declared(
    name: str,
) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a source"):
        Source(name, "", Extracts(lambda *_: None, ""))
    with pytest.raises(ValueError, match="cannot be the name of a product"):
        registered_name("product", name)


@pytest.mark.parametrize("name", ["canvas", "microsoft-sds", "our_sis2", "7"])
def test_a_sound_name_is_taken(name: str) -> None:
    assert Source(name, "", Extracts(lambda *_: None, "")).name == name


def test_a_misspelt_table_of_what_runs_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(products={"canvsa": {"out": "x"}, "elsewhere": {}})
    with caplog.at_level(logging.WARNING):
        plugins.product_settings(plugins.product("canvas"), settings)
    assert "[products.canvsa]" in caplog.text
    assert "elsewhere" not in caplog.text
