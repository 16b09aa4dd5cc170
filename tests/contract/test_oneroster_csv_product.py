"""The product `oneroster-csv` passes the contract suite, in both versions of OneRoster."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from bus.contract import ProductContract
from bus.delivery import Delivery
from consumers.oneroster_csv import PRODUCT
from tests import oneroster_set_model


class TestOneRosterCsv(ProductContract):
    """The default: OneRoster 1.1."""

    product = PRODUCT
    settings: ClassVar[dict[str, str]] = {}

    def open(self, folder: Path) -> Delivery:
        return PRODUCT.open(PRODUCT.settings(out=folder / "out", **self.settings))

    def state(self, folder: Path) -> Any:
        path = folder / "out" / "oneroster.zip"
        if not path.exists():
            return {}  # before the first set
        found = oneroster_set_model.load(path)
        return {(name, key): row for name, rows in found.items() for key, row in rows.items()}


class TestVersion12(TestOneRosterCsv):
    settings: ClassVar[dict[str, str]] = {"version": "1.2"}
