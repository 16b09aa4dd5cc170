"""`bus deadletters` and `bus quarantine`: what did not get through, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table

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
            table = Table(
                "time (UTC)", "record", "tries", "reason", title=f"{product}: dead letters"
            )
            for letter in letters:
                table.add_row(
                    letter.time[:19],
                    f"{letter.kind} {letter.id}",
                    str(letter.attempts),
                    letter.reason,
                )
            console.print(table if letters else f"{product} has no dead letters")

        emit(json, {"product": product, "deadLetters": [asdict(d) for d in letters]}, show)


@quarantine.command("list")
def list_quarantine(json: Json = False) -> None:
    """List the faults of all extracts: file, line, column, class of value, reason."""
    with failures(json):
        from bus import settings
        from bus.quarantine import read

        faults = read(settings.load())

        def show(console: Console) -> None:
            table = Table("source", "where", "value", "what is wrong", title="quarantine")
            for fault in faults:
                where = f"{fault['file']}:{fault['line']} {fault['column']}"
                table.add_row(fault["source"], where, fault["value_class"], fault["reason"])
            console.print(table if faults else "nothing is in quarantine")
            number = Counter("left out" if fault["fatal"] else "noted" for fault in faults)
            for what, count in number.items():
                console.print(f"{count:,} {what}")

        emit(json, {"faults": faults}, show)
