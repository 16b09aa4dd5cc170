"""The `bus` command. Each file has one group of commands, and no other logic.

A command's module is imported when the command is used, so `bus consume` does not wait for the
modules of the others. Commands import heavy modules when they run, so that `bus --help` answers at
once.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

COMMANDS = {
    "up": "local:up",
    "down": "local:down",
    "status": "local:status",
    "doctor": "local:doctor",
    "demo": "demo:demo",
    "consume": "consume:consume",
    "reconcile": "reconcile:reconcile",
    "sample": "sample:sample",
    "schemas": "schemas:app",
    "produce": "produce:app",
    "replay": "replay:app",
    "topics": "topics:app",
    "deadletters": "deadletters:app",
    "quarantine": "quarantine:app",
    "optouts": "optouts:app",
    "vendors": "vendors:app",
    "sandbox": "sandbox:sandbox",
    "bench": "bench:app",
}
"""The commands, in the order of `bus --help`: the module in this package, and what it calls the
command or the group of commands."""


class Commands(TyperGroup):
    """All commands. With `--json`, wrong usage is also reported as the one JSON object."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name) for name in COMMANDS}
        self._built: dict[str, Any] = {}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command or a group of commands, or None. The first call imports its module."""
        if cmd_name in COMMANDS and cmd_name not in self._built:
            self._built[cmd_name] = _build(cmd_name)
        return self._built.get(cmd_name)

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


def _build(name: str) -> Any:
    """Import the module of a command or a group of commands, and return it as typer needs it."""
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(f"bus.cli.{module}"), attribute)
    alone = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_show_locals=False)
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
    else:
        alone.command(name)(found)
    return get_group(alone).commands[name]


def main() -> None:
    """Run the command line."""
    app()
