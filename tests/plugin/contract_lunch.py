"""The product `lunch` passes the contract suite. Run it where the package is installed:

pytest contract_lunch.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lunch import PRODUCT
from lunch.folder import rows_of

from bus import Delivery
from bus.contract import ProductContract


class TestLunch(ProductContract):
    """All tests of the contract."""

    product = PRODUCT

    def open(self, folder: Path) -> Delivery:
        return PRODUCT.open(PRODUCT.settings(out=folder / "out"))

    def state(self, folder: Path) -> Any:
        return {
            (table.name, row[table.key[0]]): row
            for table in PRODUCT.tables
            for row in rows_of(folder / "out" / table.name)
        }
