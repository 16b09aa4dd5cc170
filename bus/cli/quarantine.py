"""`bus quarantine`: lists what was wrong with the input, and where."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from bus.cli.cluster import settings_of_reached
from bus.cli.fault_lines import print_groups
from bus.cli.output import Json, emit, failures

app = typer.Typer(help="List what was wrong with the input, and where.", no_args_is_help=True)


@app.callback()
def quarantine() -> None:
    """List what was wrong with the input, and where."""


@app.command("list")
def list_quarantine(
    source: Annotated[str, typer.Option(help="Only faults of this source.")] = "",
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also list old faults, which the latest extract no longer has."),
    ] = False,
    each: Annotated[
        bool,
        typer.Option(
            "--each", help="Print each fault separately instead of groups of equal faults."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """List the faults of each source's latest extract, by file, column and code.

    docs/faults.md explains the codes.
    """
    with failures(json):
        from bus.ingest.fault_group import grouped
        from bus.ingest.quarantine import fault_of, read

        faults = read(settings_of_reached(), everything=everything)
        if source:
            faults = [one for one in faults if one["source"].strip("/") == source.strip("/")]
        groups = grouped((one["source"], fault_of(one)) for one in faults)

        def show(console: Console) -> None:
            if each:
                _show_each(console, faults)
            for name in () if each else dict.fromkeys(group.source for group in groups):
                console.print(f"[bold]{escape(name.strip('/'))}[/]")
                print_groups(console, [group for group in groups if group.source == name])
            number: Counter[str] = Counter()
            for group in groups:
                number["left out" if group.fatal else "noted"] += group.count
            listed = ", ".join(f"{count:,} {what}" for what, count in number.items())
            console.print(f"in quarantine: {listed or 'nothing'}")

        emit(json, {"groups": [group.as_json() for group in groups], "faults": faults}, show)


def _show_each(console: Console, faults: list[dict[str, Any]]) -> None:
    for fault in faults:
        place = f"{fault['file']}:{fault['line']}" if fault["line"] else fault["file"]
        where = escape(" ".join(part for part in (place, fault["column"]) if part))
        parts = (fault["code"], fault["value_class"], fault["source"])
        console.print(f"[bold]{where}[/]  {escape(', '.join(part for part in parts if part))}")
        console.print(f"    {escape(fault['reason'])}")
