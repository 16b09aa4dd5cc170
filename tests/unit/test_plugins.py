"""How products are found, and which kinds they take."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from bus import plugins


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
