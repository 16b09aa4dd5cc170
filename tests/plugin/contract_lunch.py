"""The product `lunch` and the source `register` pass the contract suite.

Run it where the package is installed:

    pytest contract_lunch.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lunch import PRODUCT
from lunch.folder import rows_of
from lunch.register import SOURCE

from bus import Delivery
from bus.contract import ProductContract, SourceContract


class TestLunch(ProductContract):
    """All tests of a product's contract."""

    product = PRODUCT

    def open(self, folder: Path) -> Delivery:
        return PRODUCT.open(PRODUCT.settings(out=folder / "out"))

    def state(self, folder: Path) -> Any:
        return {
            (table.name, row[table.key[0]]): row
            for table in PRODUCT.tables
            for row in rows_of(folder / "out" / table.name)
        }


class TestRegister(SourceContract):
    """All tests of a source's contract."""

    source = SOURCE
    marker = "Zebulon"

    def extract(self, folder: Path) -> Path:
        register = folder / "register.csv"
        register.write_text(
            "id,first,last,grade\ns1,Zebulon,Marker,07\ns2,Ada,Lovelace,08\n", encoding="utf-8"
        )
        return register
