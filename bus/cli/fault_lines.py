"""Prints groups of faults for a person."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from bus.ingest.fault_group import FaultGroup


def print_groups(console: Console, groups: Iterable[FaultGroup]) -> None:
    """Print each group in a few lines: the place, how many, the code, why, and the first ones."""
    for group in groups:
        mark = "✗" if group.fatal else "·"
        where = " ".join(part for part in (group.file or "the extract", group.column) if part)
        classes = f" ({', '.join(group.classes)})" if group.classes else ""
        console.print(
            f"{mark} [bold]{escape(where)}[/]: {group.count:,} × {escape(group.code + classes)}"
        )
        console.print(f"    {escape(group.reason)}")
        if first := [*map(str, group.lines), *group.ids]:
            what = "lines" if group.lines else "records"
            more = ", …" if group.count > len(first) else ""
            console.print(f"    {what} {escape(', '.join(first))}{more}")
