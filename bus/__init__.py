"""Schoolbus: the bus between a student information system and the products that need it.

For a vendor: `subscribe` gives typed events. For who writes a product: `Product`, `Table`,
`Delivery`. For who writes a source: `Staging`, `produce`. For both: `RetryLater`, `Never`, `Stop`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bus.delivery import (
        Batch,
        Delivery,
        Overtaken,
        Part,
        Position,
        Redelivery,
        Refusal,
        Row,
        Table,
        Unlocked,
    )
    from bus.errors import Never, RetryLater, Stop
    from bus.ingest.pipeline import produce
    from bus.kafka.cloudevents import Attributes, attributes
    from bus.product import Product
    from bus.settings import Settings
    from bus.source import Fault, Staging
    from bus.subscription import Event, subscribe

__all__ = [
    "Attributes",
    "Batch",
    "Delivery",
    "Event",
    "Fault",
    "Never",
    "Overtaken",
    "Part",
    "Position",
    "Product",
    "Redelivery",
    "Refusal",
    "RetryLater",
    "Row",
    "Settings",
    "Staging",
    "Stop",
    "Table",
    "Unlocked",
    "attributes",
    "produce",
    "subscribe",
]

_HOME = {
    "Attributes": "bus.kafka.cloudevents",
    "Batch": "bus.delivery",
    "Delivery": "bus.delivery",
    "Event": "bus.subscription",
    "Fault": "bus.source",
    "Never": "bus.errors",
    "Overtaken": "bus.delivery",
    "Part": "bus.delivery",
    "Position": "bus.delivery",
    "Product": "bus.product",
    "Redelivery": "bus.delivery",
    "Refusal": "bus.delivery",
    "RetryLater": "bus.errors",
    "Row": "bus.delivery",
    "Settings": "bus.settings",
    "Staging": "bus.source",
    "Stop": "bus.errors",
    "Table": "bus.delivery",
    "Unlocked": "bus.delivery",
    "attributes": "bus.kafka.cloudevents",
    "produce": "bus.ingest.pipeline",
    "subscribe": "bus.subscription",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import bus` costs nothing."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'bus' has no attribute {name!r}")
