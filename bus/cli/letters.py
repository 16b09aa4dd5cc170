"""`bus deadletters` and `bus quarantine`: what did not get through, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import typer
from rich.console import Console
from rich.markup import escape

from bus.cli.output import Json, emit, failures
from bus.cli.products import ProductName

deadletters = typer.Typer(help="What a product could not be told, and why.", no_args_is_help=True)
quarantine = typer.Typer(help="What was wrong with the input, and where.", no_args_is_help=True)


@deadletters.callback()
def _deadletters() -> None:
    """What a product could not be told, and why."""


@quarantine.callback()
def _quarantine() -> None:
    """What was wrong with the input, and where."""


@deadletters.command("list")
def list_deadletters(
    product: ProductName,
    json: Json = False,
) -> None:
    """List a product's dead letters with their reasons; records by id, without their content."""
    with failures(json):
        from bus import settings
        from bus.deadletters import read

        letters = read(settings.load(), product)

        def show(console: Console) -> None:
            for letter in letters:
                tries = "1 try" if letter.attempts == 1 else f"{letter.attempts:,} tries"
                name = escape(f"{letter.kind} {letter.id}")
                console.print(f"[bold]{name}[/]  {letter.time[:19]} UTC, {tries}, {letter.place}")
                console.print(f"    {escape(letter.reason)}")
            console.print(f"{len(letters):,} dead letters of {product}")

        emit(json, {"product": product, "deadLetters": [asdict(d) for d in letters]}, show)


@quarantine.command("list")
def list_quarantine(json: Json = False) -> None:
    """List the faults of all extracts: file, line, column, class of value, reason."""
    with failures(json):
        from bus import settings
        from bus.quarantine import read

        faults = read(settings.load())

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
