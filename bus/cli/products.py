"""A product's name on the command line: one that is not installed is wrong use (status 2)."""

from __future__ import annotations

from typing import Annotated

import typer


def _installed(name: str) -> str:
    from bus import plugins

    if name not in plugins.products():
        raise typer.BadParameter(
            f"there is no product {name}; installed are: {', '.join(plugins.products())}"
        )
    return name


ProductName = Annotated[
    str, typer.Argument(callback=_installed, help="An installed product, such as canvas.")
]
"""The argument of every command that is about a product: `product: ProductName`."""
