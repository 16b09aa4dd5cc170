"""`bus bench`: how fast it is, on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bus.cli.output import Json, emit, failures

app = typer.Typer(help="Measure how fast it is, on this machine.", no_args_is_help=True)


@app.callback()
def _bench() -> None:
    """Measure how fast it is, on this machine."""


@app.command()
def freshness(
    rate: Annotated[int, typer.Option(min=1, help="Changes a second.")] = 200,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure.")] = 30.0,
    json: Json = False,
) -> None:
    """From a POST of attendance to the webhook product's own log, at a steady rate.

    On a bus of its own in the folder `bench` of BUS_HOME.
    """
    with failures(json):
        from bus.bench.freshness import measure
        from bus.bench.machine import machine
        from bus.settings import load

        found = measure(load().home / "bench", rate, seconds)
        named = machine()

        def show(console: Console) -> None:
            table = Table(
                f"ms, {found.sent:,} at {found.rate:g}/s", "p50", "p99", "worst", box=None
            )
            for name, figures in (
                ("POST to 202", found.accepted),
                ("POST to the product's log", found.delivered),
            ):
                table.add_row(name, *(f"{value:.0f}" for value in figures.values()))
            console.print(table)
            console.print(named)

        emit(json, {"machine": named, **asdict(found)}, show)
