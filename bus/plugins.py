"""Finds sources and products by entry point: ours, and any that another package brings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bus.delivery import Delivery
from bus.errors import Stop
from bus.product import Product
from bus.replay import json_lines_folder
from bus.settings import Settings, explain
from bus.source import Source

log = logging.getLogger(__name__)

PRODUCERS = "schoolbus.producers"
PRODUCTS = "schoolbus.products"


def sources() -> dict[str, EntryPoint]:
    """The sources that are installed, by the name on the command line."""
    return {point.name: point for point in entry_points(group=PRODUCERS)}


def source(name: str) -> Source | Callable[..., None]:
    """A source by name: its declaration, or the command of one that is a service of its own.

    Raises `Stop` when no installed package brings it.
    """
    if name not in sources():
        raise Stop(f"there is no source {name}; installed are: {', '.join(sorted(sources()))}")
    found: Source | Callable[..., None] = sources()[name].load()
    return found


def source_settings(source: Source, settings: Settings) -> Any:
    """A source's own settings, from bus.toml and the environment; raises `Stop` for wrong ones."""
    try:
        return source.settings(**settings.producers.get(source.name, {}))
    except ValidationError as error:
        raise Stop(f"[producers.{source.name}]: {explain(error)}") from None


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
    return _checked(product, settings, settings.products.get(product.name, {}) | given)


def settings_into(product: Product, settings: Settings, place: str) -> Any:
    """A product's own settings, but with another place to deliver to: a folder, or an address."""
    configured = settings.products.get(product.name, {})
    others = {name: value for name, value in configured.items() if name not in ("out", "url")}
    return _checked(product, settings, others | {"url" if "://" in place else "out": place})


def _checked(product: Product, settings: Settings, values: dict[str, Any]) -> Any:
    try:
        return product.settings.model_validate(values, context={"home": settings.home})
    except ValidationError as error:
        raise Stop(f"[products.{product.name}]: {explain(error)}") from None


def takers() -> dict[str, tuple[str, ...]]:
    """For each kind the installed products that take it."""
    found: dict[str, tuple[str, ...]] = {}
    for name in products():
        try:
            kinds = product(name).kinds
        except Exception:  # another package's product that does not load must not stop a check
            log.warning("product %s does not load: what breaks for it is not told", name)
            continue
        for kind in kinds:
            found[kind] = (*found.get(kind, ()), name)
    return found


def delivery_into(product: Product, settings: Settings, into: str) -> Delivery:
    """A product's delivery to another place than its own: a folder, or an address."""
    if json_lines_folder.wanted(product, into):
        return json_lines_folder.JsonLinesFolder(Path(into))
    delivery: Delivery = product.open(settings_into(product, settings, into))
    return delivery
