"""Finds sources and products by entry point, in this package and in any other."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bus.delivery import Delivery, Terms
from bus.errors import Stop
from bus.product import Product
from bus.replay import json_lines_folder
from bus.settings import Settings, Tables, explain, meant_by
from bus.source import Source

log = logging.getLogger(__name__)

PRODUCERS = "schoolbus.producers"
PRODUCTS = "schoolbus.products"
WHAT = {"products": "product", "producers": "source"}
"""What the tables in a group of settings configure."""


def sources() -> dict[str, EntryPoint]:
    """Return the installed sources, by their name on the command line."""
    return {point.name: point for point in entry_points(group=PRODUCERS)}


def source(name: str) -> Source | Callable[..., None]:
    """Return a source by name: its declaration, or the command of a source that runs as a service.

    Raises `Stop` if no installed package has it.
    """
    if name not in sources():
        raise Stop(
            f"no source {name} is installed; installed sources: {', '.join(sorted(sources()))}"
        )
    found: Source | Callable[..., None] = _loaded(sources()[name], "source", Source)
    return found


def source_settings(source: Source, settings: Settings) -> Any:
    """Return a source's own settings, from bus.toml and the environment.

    Raises `Stop` if they are wrong.
    """
    _warn_of_others(settings.producers, "producers", sorted(sources()), source.name)
    try:
        return source.settings(**settings.producers.get(source.name, {}))
    except ValidationError as error:
        raise Stop(f"[producers.{source.name}]: {explain(error, source.settings)}") from None


def products() -> list[str]:
    """Return the names of the installed products."""
    return sorted(point.name for point in entry_points(group=PRODUCTS))


def product(name: str) -> Product:
    """Return a product by name; raises `Stop` if no installed package has it."""
    found: Product = _loaded(entry(name), "product", Product)
    return found


def entry(name: str) -> EntryPoint:
    """Return the entry point of a product; raises `Stop` if no installed package has it."""
    for point in entry_points(group=PRODUCTS, name=name):
        return point
    raise Stop(f"no product {name} is installed; installed products: {', '.join(products())}")


def product_settings(product: Product, settings: Settings, **options: Any) -> Any:
    """Return a product's own settings: from bus.toml and the environment, then the given options.

    Raises `Stop` if they are wrong.
    """
    given = {name: value for name, value in options.items() if value is not None}
    _warn_of_others(settings.products, "products", products(), product.name)
    return _checked(product, settings, settings.products.get(product.name, {}) | given)


def settings_under(
    product: Product, settings: Settings, values: dict[str, Any], terms: Terms
) -> Any:
    """Return a product's own settings under an agreement with a vendor.

    The product's table in bus.toml does not count: it is for the district's own systems. Raises
    `Stop` if they are wrong.

    values: the settings that follow from the agreement.
    terms:  what the product may deliver.
    """
    return _checked(product, settings, values, terms=terms)


def settings_into(product: Product, settings: Settings, place: str) -> Any:
    """Return a product's own settings with another place to deliver to: a folder or a URL.

    Raises `Stop` if they are wrong.
    """
    configured = settings.products.get(product.name, {})
    others = {name: value for name, value in configured.items() if name not in ("out", "url")}
    return _checked(product, settings, others | {"url" if "://" in place else "out": place})


def _checked(
    product: Product, settings: Settings, values: dict[str, Any], terms: Terms | None = None
) -> Any:
    context = {"home": settings.home, "terms": terms}
    try:
        return product.settings.model_validate(values, context=context)
    except ValidationError as error:
        if terms is None:
            raise Stop(f"[products.{product.name}]: {explain(error, product.settings)}") from None
        wrong = explain(error, product.settings, "the agreement's file, or [vendors] in bus.toml")
        raise Stop(f"{product.name} under the agreement {terms.name}: {wrong}") from None


def _loaded(point: EntryPoint, what: str, kind: type) -> Any:
    """Return the object that an entry point names.

    Raises `Stop` if it does not load; the text names the package at fault.

    what: "product" or "source".
    """
    package = point.dist.name if point.dist else "?"
    whose = f"the {what} {point.name} of the package {package}"
    try:
        found = point.load()
    except Exception as error:  # an import in another package may raise anything
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise Stop(
            f"{whose} does not load: {type(error).__name__}: {str(error)[:300]} "
            f"({at.filename}:{at.lineno}); fix that package, or install what it needs"
        ) from error
    if not isinstance(found, kind) and not (kind is Source and callable(found)):
        raise Stop(
            f"{whose} does not load: {point.value} is not a bus.{kind.__name__}; correct its "
            "entry point in that package's pyproject.toml"
        )
    if isinstance(found, kind) and found.name != point.name:  # type: ignore[attr-defined]
        raise Stop(
            f"{whose} has the name {found.name}; use the same name in both places"  # type: ignore[attr-defined]
        )
    return found


def misconfigured(settings: Settings | Tables) -> Iterator[str]:
    """Yield a text for each wrong table of a product or a source, without any value.

    A missing setting is not wrong here, as an option or another shell may supply it.
    """
    for group, tables, installed in (
        ("products", settings.products, products()),
        ("producers", settings.producers, sorted(sources())),
    ):
        for name, table in tables.items():
            if name not in installed:
                yield _not_installed(group, name, installed)
                continue
            try:
                model = _settings_model(group, name)
                if model is not None:
                    model(**table)
            except ValidationError as error:
                if any(problem["type"] != "missing" for problem in error.errors()):
                    yield f"[{group}.{name}]: {explain(error, model)}"  # type: ignore[arg-type]
            except Stop as error:
                yield f"[{group}.{name}]: {error}"


def _settings_model(group: str, name: str) -> type[BaseModel] | None:
    """Return the model of a product's or source's settings; None for a service without one."""
    if group == "products":
        return product(name).settings
    found = source(name)
    if isinstance(found, Source):
        return found.settings
    model: Callable[[], type[BaseModel]] | None
    model = getattr(sys.modules[found.__module__], "settings_model", None)
    return model() if model else None


def _not_installed(group: str, name: str, installed: list[str]) -> str:
    meant = meant_by(name, installed)
    hint = f"did you mean {meant}?" if meant else f"installed: {', '.join(installed)}"
    return f"[{group}.{name}]: no {WHAT[group]} of this name is installed; {hint}"


def _warn_of_others(
    tables: Mapping[str, Any], group: str, installed: list[str], running: str
) -> None:
    """Warn of tables that may be a misspelled name of the running one, as they have no effect."""
    for name in tables:
        if name not in installed and meant_by(name, installed) == running:
            log.warning(_not_installed(group, name, installed))


def takers() -> dict[str, tuple[str, ...]]:
    """Return for each kind the installed products that take it."""
    found: dict[str, tuple[str, ...]] = {}
    for name in products():
        try:
            kinds = product(name).kinds
        except Exception:  # a broken product of another package must not stop a check
            log.warning("product %s does not load: changes that break it are not reported", name)
            continue
        for kind in kinds:
            found[kind] = (*found.get(kind, ()), name)
    return found


def delivery_into(product: Product, settings: Settings, into: str) -> Delivery:
    """Return a product's delivery to another place: a folder or a URL."""
    if json_lines_folder.wanted(product, into):
        return json_lines_folder.JsonLinesFolder(Path(into))
    delivery: Delivery = product.open(settings_into(product, settings, into))
    return delivery
