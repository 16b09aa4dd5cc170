"""The PRODUCT argument. A product that is not installed is wrong usage (status 2)."""

from __future__ import annotations

from typing import Annotated

import typer


def _installed(name: str) -> str:
    from bus import plugins

    if name not in plugins.products():
        raise typer.BadParameter(
            f"there is no product {name}; installed products: {', '.join(plugins.products())}"
        )
    return name


ProductName = Annotated[
    str, typer.Argument(callback=_installed, help="An installed product, such as canvas.")
]
"""The argument of every command for one product: `product: ProductName`."""
