"""`bus schemas`: checks, registers, lists and documents the schemas of the shared standard."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bus.cli.output import Json, emit, failures

app = typer.Typer(
    help="Check, register and document the shared standard's schemas.", no_args_is_help=True
)
Directory = Annotated[
    Path | None,
    typer.Option("--schemas", help="A folder of .avsc files. By default, those of this version."),
]


@app.command()
def check(schemas: Directory = None, json: Json = False) -> None:
    """Report which schema changes would break readers, and of which products. Registers nothing."""
    with failures(json):
        from bus import plugins, settings
        from bus.registry import subjects

        findings = subjects.check(settings.load(), schemas, plugins.takers())
        broken = [finding for finding in findings if finding.state == "incompatible"]

        def show(console: Console) -> None:
            table = Table("kind", "state", "what would break", "taken by")
            for f in findings:
                table.add_row(f.kind, f.state, "\n".join(f.reasons), ", ".join(f.products))
            console.print(table)

        emit(json, {"schemas": [asdict(f) for f in findings], "compatible": not broken}, show)
        if broken:
            raise typer.Exit(1)


@app.command()
def apply(schemas: Directory = None, json: Json = False) -> None:
    """Register all schemas, or none if one is incompatible.

    They get FULL_TRANSITIVE compatibility: every version can read the data of every other version.
    """
    with failures(json):
        from bus import plugins, settings
        from bus.kafka import topics
        from bus.kafka.reachability import check_reachable
        from bus.registry import subjects
        from bus.standard import KINDS

        loaded = settings.load()
        applied = subjects.apply(loaded, schemas, plugins.takers())
        if not loaded.embedded:
            check_reachable(loaded)
        topics.ensure(loaded, [topics.topic(loaded, kind) for kind in KINDS])
        new = [a for a in applied if a.registered]

        def show(console: Console) -> None:
            for a in new:
                console.print(f"registered [bold]{a.subject}[/] version {a.version} (id {a.id})")
            if there := len(applied) - len(new):
                console.print(
                    f"{there} {'schema was' if there == 1 else 'schemas were'} already registered"
                )

        emit(json, {"schemas": [asdict(a) for a in applied]}, show)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the registered schemas."""
    with failures(json):
        from bus import settings
        from bus.registry import subjects

        found = subjects.registered(settings.load())

        def show(console: Console) -> None:
            table = Table("subject", "versions", "latest id")
            for one in found:
                table.add_row(one["subject"], ", ".join(map(str, one["versions"])), str(one["id"]))
            console.print(table if found else "nothing is registered: run `bus schemas apply`")

        emit(json, {"subjects": found}, show)


@app.command()
def docs(
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("docs/standard"),
    json: Json = False,
) -> None:
    """Write the data dictionary (Markdown) and the AsyncAPI 3 document."""
    with failures(json):
        from bus import settings
        from bus.kafka import asyncapi
        from bus.standard import dictionary

        out.mkdir(parents=True, exist_ok=True)
        loaded = settings.load()
        written = {
            "dictionary": out / "data-dictionary.md",
            "asyncapi": out / "asyncapi.yaml",
        }
        written["dictionary"].write_text(dictionary.render(), "utf-8")
        written["asyncapi"].write_text(asyncapi.render(loaded.topic_prefix), "utf-8")
        result: dict[str, Any] = {name: str(path) for name, path in written.items()}
        emit(json, result, lambda console: console.print("\n".join(result.values())))
