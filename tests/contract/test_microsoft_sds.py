"""Microsoft SDS passes the contract suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bus.contract import ProductContract
from bus.delivery import Delivery
from consumers.microsoft_sds import PRODUCT
from tests import sds_model


class TestMicrosoftSds(ProductContract):
    product = PRODUCT

    def open(self, folder: Path) -> Delivery:
        return PRODUCT.open(PRODUCT.settings(out=folder / "out"))

    def state(self, folder: Path) -> Any:
        if not (folder / "out" / ".schoolbus" / "set.json").exists():
            return {}  # before the first whole set
        state = sds_model.load(folder / "out")
        return {(name, key): row for name, rows in state.items() for key, row in rows.items()}
