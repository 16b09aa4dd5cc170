"""Schoolbus connects a student information system with the products that need its records.

* Vendors read typed events with `subscribe`.
* A product is written with `Product`, `Table` and `Delivery`.
* A source is written with `Source`, one of `Extracts`, `Polled` and `Streamed`, and `Staging`.
* Products and sources report problems with `RetryLater`, `Never` and `Stop`.
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
    from bus.product import Equivalent, Product
    from bus.settings import Settings
    from bus.source import (
        ChangeBatch,
        Coverage,
        Extracts,
        Fault,
        NoSettings,
        Polled,
        Source,
        Staging,
        Streamed,
    )
    from bus.subscription import Event, Subscription, Undecodable, subscribe

__all__ = [
    "Attributes",
    "Batch",
    "ChangeBatch",
    "Coverage",
    "Delivery",
    "Equivalent",
    "Event",
    "Extracts",
    "Fault",
    "Never",
    "NoSettings",
    "Overtaken",
    "Part",
    "Polled",
    "Position",
    "Product",
    "Redelivery",
    "Refusal",
    "RetryLater",
    "Row",
    "Settings",
    "Source",
    "Staging",
    "Stop",
    "Streamed",
    "Subscription",
    "Table",
    "Undecodable",
    "Unlocked",
    "attributes",
    "produce",
    "subscribe",
]

_HOME = {
    "Attributes": "bus.kafka.cloudevents",
    "Batch": "bus.delivery",
    "ChangeBatch": "bus.source",
    "Coverage": "bus.source",
    "Delivery": "bus.delivery",
    "Equivalent": "bus.product",
    "Event": "bus.subscription",
    "Extracts": "bus.source",
    "Fault": "bus.source",
    "Never": "bus.errors",
    "NoSettings": "bus.source",
    "Overtaken": "bus.delivery",
    "Part": "bus.delivery",
    "Polled": "bus.source",
    "Position": "bus.delivery",
    "Product": "bus.product",
    "Redelivery": "bus.delivery",
    "Refusal": "bus.delivery",
    "RetryLater": "bus.errors",
    "Row": "bus.delivery",
    "Settings": "bus.settings",
    "Source": "bus.source",
    "Staging": "bus.source",
    "Stop": "bus.errors",
    "Streamed": "bus.source",
    "Subscription": "bus.subscription",
    "Table": "bus.delivery",
    "Undecodable": "bus.subscription",
    "Unlocked": "bus.delivery",
    "attributes": "bus.kafka.cloudevents",
    "produce": "bus.ingest.pipeline",
    "subscribe": "bus.subscription",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import bus` is fast."""
    if name in _HOME:
        try:
            return getattr(import_module(_HOME[name]), name)
        except ModuleNotFoundError as error:
            from bus.extras import missing_extra

            if stop := missing_extra(error):
                raise ModuleNotFoundError(str(stop), name=error.name) from None
            raise
    raise AttributeError(f"module 'bus' has no attribute {name!r}")
