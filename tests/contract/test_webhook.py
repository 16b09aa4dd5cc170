"""The webhook passes the contract suite."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.contract import ProductContract
from bus.delivery import Delivery
from consumers.webhook import PRODUCT
from tests.webhook_receiver import Receiver

SECRET = "whsec_" + base64.b64encode(b"the contract's secret, 32 bytes.").decode()


class TestWebhook(ProductContract):
    product = PRODUCT
    vendors: dict[Path, Receiver]

    @pytest.fixture(autouse=True)
    def _vendors(self) -> Iterator[None]:
        self.vendors = {}
        try:
            yield
        finally:
            for vendor in self.vendors.values():
                vendor.__exit__(None, None, None)

    def open(self, folder: Path) -> Delivery:
        if folder not in self.vendors:
            self.vendors[folder] = Receiver(SECRET).__enter__()
        url = self.vendors[folder].url
        return PRODUCT.open(PRODUCT.settings(url=url, secret=SECRET, state=folder / "state"))

    def state(self, folder: Path) -> Any:
        """Return the last state of each record that the vendor has, with each event counted once."""
        seen: dict[str, Any] = {}
        for event in self.vendors[folder].accepted:
            seen.setdefault(event.id, event.event)
        return {e["data"]["sourcedId"]: e["data"] for e in seen.values()}
