"""`bus produce SOURCE …`: a command for each source that is installed."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class Sources(TyperGroup):
    """The sources as sub-commands, found by entry point and imported when they are asked for."""

    def list_commands(self, _: object) -> list[str]:
        """Names of all that are installed."""
        from bus import plugins

        return sorted(plugins.producers())

    def get_command(self, _: object, name: str) -> Any:
        """The command of one source, or None when there is no such source."""
        from bus import plugins

        if name not in plugins.producers():
            return None
        single = typer.Typer(
            add_completion=False, pretty_exceptions_show_locals=False, rich_markup_mode="markdown"
        )
        single.command(name)(plugins.producer(name))
        command = typer.main.get_command(single)
        command.name = name
        return command


app = typer.Typer(
    cls=Sources, help="Publish what a student information system holds.", no_args_is_help=True
)


@app.callback()
def produce() -> None:
    """Publish what a student information system holds."""
