"""Finds sources and products by entry point: ours, and any that another package brings."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from bus.failures import Stop
from bus.product import Product
from bus.settings import Settings, explain

PRODUCERS = "schoolbus.producers"
PRODUCTS = "schoolbus.products"


def producers() -> dict[str, EntryPoint]:
    """The sources that are installed, by the name on the command line."""
    return {point.name: point for point in entry_points(group=PRODUCERS)}


def producer(name: str) -> Callable[..., None]:
    """The command function of a source (a typer command)."""
    command: Callable[..., None] = producers()[name].load()
    return command


def products() -> list[str]:
    """The names of the products that are installed."""
    return sorted(point.name for point in entry_points(group=PRODUCTS))


def product(name: str) -> Product:
    """A product by name; raises `Stop` when no installed package brings it."""
    found: Product = entry(name).load()
    return found


def entry(name: str) -> EntryPoint:
    """Where a product is found; raises `Stop` when no installed package brings it."""
    for point in entry_points(group=PRODUCTS, name=name):
        return point
    raise Stop(f"there is no product {name}; installed are: {', '.join(products())}")


def product_settings(product: Product, settings: Settings, **options: Any) -> Any:
    """A product's own settings: from bus.toml and the environment, then the given options."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return product.settings(**(settings.products.get(product.name, {}) | given))
    except ValidationError as error:
        raise Stop(f"[products.{product.name}]: {explain(error)}") from None
