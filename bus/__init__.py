"""Schoolbus: the bus between a student information system and the products that need it.

For a vendor: `subscribe` gives typed events. For who writes a product: `Product`, `Table`,
`Delivery`. For who writes a source: `Staging`, `produce`. For both: `RetryLater`, `Never`, `Stop`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bus.delivery import Batch, Delivery, Part, Refusal, Table
    from bus.errors import Never, RetryLater, Stop
    from bus.ingest.pipeline import produce
    from bus.ingest.staging import Fault, Staging
    from bus.product import Product
    from bus.settings import Settings
    from bus.subscription import Event, subscribe

__all__ = [
    "Batch",
    "Delivery",
    "Event",
    "Fault",
    "Never",
    "Part",
    "Product",
    "Refusal",
    "RetryLater",
    "Settings",
    "Staging",
    "Stop",
    "Table",
    "produce",
    "subscribe",
]

_HOME = {
    "Batch": "bus.delivery",
    "Delivery": "bus.delivery",
    "Event": "bus.subscription",
    "Fault": "bus.ingest.staging",
    "Never": "bus.errors",
    "Part": "bus.delivery",
    "Product": "bus.product",
    "Refusal": "bus.delivery",
    "RetryLater": "bus.errors",
    "Settings": "bus.settings",
    "Staging": "bus.ingest.staging",
    "Stop": "bus.errors",
    "Table": "bus.delivery",
    "produce": "bus.ingest.pipeline",
    "subscribe": "bus.subscription",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import bus` costs nothing."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'bus' has no attribute {name!r}")
