"""Canvas passes the contract suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bus.contract import ProductContract
from bus.delivery import Delivery
from consumers.canvas import PRODUCT
from tests import canvas_model


class TestCanvas(ProductContract):
    product = PRODUCT

    def open(self, folder: Path) -> Delivery:
        return PRODUCT.open(PRODUCT.settings(out=folder / "out"))

    def state(self, folder: Path) -> Any:
        state = canvas_model.apply(sorted((folder / "out").glob("*.zip")))
        return {(name, key): row for name, rows in state.items() for key, row in rows.items()}
