"""`bus quarantine`: what was wrong with the input, and where."""

from __future__ import annotations

from collections import Counter

import typer
from rich.console import Console
from rich.markup import escape

from bus.cli.cluster import settings_of_reached
from bus.cli.output import Json, emit, failures

app = typer.Typer(help="What was wrong with the input, and where.", no_args_is_help=True)


@app.callback()
def quarantine() -> None:
    """What was wrong with the input, and where."""


@app.command("list")
def list_quarantine(json: Json = False) -> None:
    """List the faults of all extracts: file, line, column, class of value, reason."""
    with failures(json):
        from bus.ingest.quarantine import read

        faults = read(settings_of_reached())

        def show(console: Console) -> None:
            for fault in faults:
                place = f"{fault['file']}:{fault['line']}" if fault["line"] else fault["file"]
                where = escape(" ".join(part for part in (place, fault["column"]) if part))
                about = ", ".join(part for part in (fault["value_class"], fault["source"]) if part)
                console.print(f"[bold]{where}[/]  {escape(about)}")
                console.print(f"    {escape(fault['reason'])}")
            number = Counter("left out" if fault["fatal"] else "noted" for fault in faults)
            told = ", ".join(f"{count:,} {what}" for what, count in number.items())
            console.print(f"in quarantine: {told or 'nothing'}")

        emit(json, {"faults": faults}, show)
