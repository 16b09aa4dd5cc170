"""Prints how two states of a product differ: ids and names of columns, never values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bus.cli.output import emit

if TYPE_CHECKING:
    from bus.replay.product_rows import Differences

SHOWN = 20


def emit_differences(
    json: bool, product: str, found: Differences, more: dict[str, Any], remarks: Sequence[str] = ()
) -> None:
    """Print the differences, followed by remarks; or one JSON object that includes `more`."""
    result = {
        "product": product,
        **more,
        "tables": found.numbers(),
        "differences": [one._asdict() for one in found.found],
    }
    emit(json, result, lambda console: _show_differences(console, found, remarks))


def _show_differences(console: Console, found: Differences, remarks: Sequence[str]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("table", "same", "missing", "extra", "different"):
        table.add_column(name, justify="left" if name == "table" else "right")
    for name, counts in found.numbers().items():
        table.add_row(name, *(f"{number:,}" for number in counts.values()))
    console.print(table)
    for one in found.found[:SHOWN]:
        columns = f": {', '.join(one.columns)}" if one.columns else ""
        console.print(escape(f"{one.what} {one.table} {' '.join(one.key)}{columns}"))
    if len(found.found) > SHOWN:
        console.print(f"and {len(found.found) - SHOWN:,} more: use --json to see all")
    for remark in remarks:
        console.print(escape(remark))
