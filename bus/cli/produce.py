"""`bus produce SOURCE …`: one command for each installed source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup


class Sources(TyperGroup):
    """The sources as subcommands, found by entry point and imported when they are used."""

    def list_commands(self, _: object) -> list[str]:
        """Return the names of all installed sources."""
        from bus import plugins

        return sorted(plugins.sources())

    def get_command(self, _: object, name: str) -> Any:
        """Return the command of a source, or None if there is no such source."""
        from bus import plugins
        from bus.cli.source_commands import command_of
        from bus.errors import Stop
        from bus.source import Source

        if name not in plugins.sources():
            return None
        single = typer.Typer(
            add_completion=False, pretty_exceptions_show_locals=False, rich_markup_mode="markdown"
        )
        try:
            found = plugins.source(name)
        except Stop as fault:  # the other sources must still work
            context = {"ignore_unknown_options": True, "allow_extra_args": True}
            single.command(name, help="It does not load.", context_settings=context)(_fails(fault))
        else:
            if isinstance(found, Source):
                single.command(name, help=found.help)(command_of(found))
            else:
                single.command(name)(found)
        command = typer.main.get_command(single)
        command.name = name
        return command


def _fails(fault: Exception) -> Callable[..., None]:
    """Return the command of a source that does not load. With any arguments it says why."""

    def command(context: typer.Context) -> None:
        from bus.cli.output import failures

        with failures("--json" in context.args):
            raise fault

    command.__annotations__["context"] = typer.Context  # typer needs the class, not its name
    return command


app = typer.Typer(
    cls=Sources, help="Publish the records of a student information system.", no_args_is_help=True
)


@app.callback()
def produce() -> None:
    """Publish the records of a student information system."""
