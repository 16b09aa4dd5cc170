"""`bus demo`: shows what Schoolbus does, on the embedded bus."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from bus.cli.output import Json, emit, failures, stderr, stdout


def demo(
    students: Annotated[
        int, typer.Option(min=50, help="How many students the made-up district has.")
    ] = 400,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Leave the demo's Kafka and registry running at the end. The files of the demo "
            "are kept in any case.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Show Schoolbus with a made-up district: two days of an SIS, products, a vendor, failures.

    Runs on a separate bus in the folder `demo` of BUS_HOME, and changes nothing else.
    """
    with failures(json):
        from bus.demo import play
        from bus.settings import load

        # End on SIGTERM as on Ctrl-C, so that no process is left running.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        home = load().home
        result = play(home / "demo", students, stderr if json else stdout, keep=keep)
        emit(json, result, lambda _: None)
