"""`bus sandbox`: a bus on the vendor's machine with a made-up district behind one agreement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bus.cli.output import Json, emit, failures, stderr


def sandbox(
    agreement: Annotated[
        Path, typer.Argument(help="The agreement file that the district gave you.")
    ],
    home: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the sandbox. By default, sandbox-NAME in the current folder."
        ),
    ] = None,
    every: Annotated[
        float,
        typer.Option(
            min=0, help="How many seconds a day of the sandbox lasts. 0: nothing changes."
        ),
    ] = 5.0,
    json: Json = False,
) -> None:
    """Start a bus that shares a made-up district's data under this agreement, until stopped.

    The sandbox has its own Kafka and registry, without passwords, on this machine only. The next
    start with the same folder continues with the same district and the same ids.
    """
    with failures(json):
        from threading import Event

        from bus.cli.stop_signals import end_on_signals, ignore_signals, stop_on_signals
        from bus.observe import telemetry
        from bus.sandbox import living_sandbox
        from bus.sandbox.fitted_agreement import fitted
        from bus.sandbox.sandbox_home import running_bus
        from bus.sandbox.vendor_bus import VendorBus, sandbox_settings
        from bus.vendors.agreement import load
        from bus.vendors.applied import today

        fit = fitted(load(agreement), today())
        folder = (home or Path(f"sandbox-{agreement.stem}")).absolute()
        settings = sandbox_settings(folder)
        telemetry.configure(settings.telemetry)
        for note in fit.notes:
            stderr.print(f"[yellow]note[/] {escape(note)}")

        def say(line: str) -> None:
            if not json:
                stderr.print(line, markup=False)

        end_on_signals()
        with (
            running_bus(folder, lambda line: stderr.print(line, markup=False), ignore_signals),
            VendorBus(settings, fit.agreement) as bus,
        ):
            say("preparing the made-up district …")
            start = living_sandbox.started(bus)
            stopping = Event()
            stop_on_signals(stopping.set)
            result = {
                "agreement": start.agreement,
                "home": str(folder),
                "students": start.students,
                "notes": fit.notes,
                "topics": start.access.topics,
                "group": start.access.group,
                "bootstrap": start.access.bootstrap,
                "registry": start.access.registry,
                "environment": start.variables,
                "program": start.program,
            }

            def show(console: Console) -> None:
                variables = " ".join(f"{name}={value}" for name, value in start.variables.items())
                console.print(
                    f"The sandbox runs: {start.students:,} students are in the agreement "
                    f"{start.agreement}. Ctrl-C ends it. Read it from another terminal:\n",
                    markup=False,
                )
                console.print(f"export {variables}\n", markup=False)
                console.print(start.program, markup=False)

            emit(json, result, show)
            living_sandbox.live(bus, stopping, every, say)
