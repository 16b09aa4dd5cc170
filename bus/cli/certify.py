"""`bus vendors certify`: tests a vendor's subscriber, and prints a report for the district."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bus.cli.output import Json, emit, failures, stderr


def register(app: typer.Typer) -> None:
    """Add the command to `bus vendors`."""
    app.command("certify")(certify)


def certify(
    command: Annotated[
        list[str],
        typer.Argument(help="The program that reads the vendor's topics, and its arguments."),
    ],
    agreement: Annotated[
        Path, typer.Option(help="The agreement file that the district gave the vendor.")
    ],
    kind: Annotated[
        list[str] | None,
        typer.Option(help="A kind of record that the program reads; repeatable. By default, all."),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(min=1, help="How many seconds the program has after each step."),
    ] = 30.0,
    json: Json = False,
) -> None:
    """Test a vendor's subscriber with the events of a district, and print a report.

    The program runs on a new sandbox, which is deleted at the end. Write `--` before the program.
    docs/vendors.md says what the program must do. Exits with 1 if a step failed.
    """
    with failures(json):
        from bus.cli.stop_signals import end_on_signals, ignore_signals
        from bus.observe import telemetry
        from bus.sandbox.certification_run import certified
        from bus.settings import TelemetrySettings
        from bus.vendors.agreement import load

        loaded = load(agreement)
        telemetry.configure(TelemetrySettings())
        end_on_signals()
        report, printed = certified(
            loaded,
            command,
            kind or (),
            patience,
            lambda line: stderr.print(line, markup=False),
            ignore_signals,
        )

        def show(console: Console) -> None:
            for line in report.lines():
                console.print(escape(line))

        if printed:
            stderr.print("the last lines of the program:")
        for line in printed:
            stderr.print(f"  {line}", markup=False)
        emit(json, report.as_json(), show)
        if not report.passed:
            raise typer.Exit(1)
