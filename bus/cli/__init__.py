"""The `bus` command. Each file has one group of commands, and no logic of its own.

Commands import heavy modules when they run, so that `bus --help` answers at once.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bus.cli import (
    bench,
    consume,
    deadletters,
    demo,
    local,
    optouts,
    produce,
    quarantine,
    reconcile,
    replay,
    sample,
    schemas,
    topics,
    vendors,
)


class Commands(TyperGroup):
    """All commands. With `--json`, wrong usage is also reported as the one JSON object."""

    def invoke(self, ctx: Any) -> Any:
        """Run the named command. Wrong usage ends with status 2."""
        as_json = "--json" in [*ctx._protected_args, *ctx.args]
        try:
            return super().invoke(ctx)
        except typer.TyperException as wrong:
            if as_json:
                sys.stdout.write(json.dumps({"error": wrong.format_message()}) + "\n")
            raise


app = typer.Typer(
    name="bus",
    cls=Commands,
    help="Deliver the changes of a student information system to every product as they happen.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"schoolbus {version('schoolbus')}")
        raise typer.Exit


@app.callback()
def _bus(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


app.command("up")(local.up)
app.command("down")(local.down)
app.command("status")(local.status)
app.command("doctor")(local.doctor)
app.command("demo")(demo.demo)
app.add_typer(schemas.app, name="schemas")
app.add_typer(produce.app, name="produce")
app.command("consume")(consume.consume)
app.add_typer(replay.app, name="replay")
app.command("reconcile")(reconcile.reconcile)
app.add_typer(topics.app, name="topics")
app.add_typer(deadletters.app, name="deadletters")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(optouts.app, name="optouts")
app.add_typer(vendors.app, name="vendors")
app.command("sample")(sample.sample)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command line."""
    app()
