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

        return sorted(plugins.sources())

    def get_command(self, _: object, name: str) -> Any:
        """The command of one source, or None when there is no such source."""
        from bus import plugins
        from bus.cli.source_commands import command_of
        from bus.source import Source

        if name not in plugins.sources():
            return None
        found = plugins.source(name)
        single = typer.Typer(
            add_completion=False, pretty_exceptions_show_locals=False, rich_markup_mode="markdown"
        )
        if isinstance(found, Source):
            single.command(name, help=found.help)(command_of(found))
        else:
            single.command(name)(found)
        command = typer.main.get_command(single)
        command.name = name
        return command


app = typer.Typer(
    cls=Sources, help="Publish what a student information system holds.", no_args_is_help=True
)


@app.callback()
def produce() -> None:
    """Publish what a student information system holds."""
