"""`bus demo`: the main job, on the embedded bus, before your eyes."""

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
        bool, typer.Option("--keep", help="Leave the demo's Kafka and registry running.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the main job on a made-up district: two days of a SIS, three products, some mischief.

    It plays in the folder `demo` of BUS_HOME, on a bus of its own, and touches nothing else.
    """
    with failures(json):
        from bus.demo import tell
        from bus.settings import load

        # A kill ends the demo as Ctrl-C does: nothing of it is left running.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        home = load().home
        told = tell(home / "demo", students, stderr if json else stdout, keep=keep)
        emit(json, told, lambda _: None)
