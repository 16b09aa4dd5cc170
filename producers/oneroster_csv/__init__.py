"""The source `oneroster-csv`: a student information system's nightly OneRoster CSV extract."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bus.cli.output import Json, emit, failures, stderr, stdout

if TYPE_CHECKING:
    from collections.abc import Callable

    from bus.ingest.pipeline import Report
    from bus.settings import Settings

SHOWN = 10
"""How many faults are printed, the fatal ones first; `bus quarantine list` has them all."""

CHANGES = ("created", "updated", "withdrawn", "unchanged", "quarantined")


def command(
    path: Annotated[Path, typer.Argument(help="A zip or a folder with a OneRoster CSV extract.")],
    source: Annotated[
        str, typer.Option(help="The name under which this system publishes.")
    ] = "oneroster-csv",
    watch: Annotated[
        bool, typer.Option("--watch", help="PATH is a folder: take each extract that arrives.")
    ] = False,
    allow_mass_withdrawal: Annotated[
        bool,
        typer.Option("--allow-mass-withdrawal", help="Also when a large share would go."),
    ] = False,
    mass_withdrawal_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="The share of a kind whose going stops the run."),
    ] = 0.10,
    json: Json = False,
) -> None:
    """Publish what a OneRoster CSV extract changes (OneRoster 1.0, 1.1 or 1.2).

    What is new, changed or gone since the last extract of this source becomes an event; the same
    extract again publishes nothing.
    """
    with failures(json):
        from bus import settings
        from bus.ingest.pipeline import produce
        from bus.observe import telemetry
        from producers.oneroster_csv.read import read

        loaded = settings.load()
        telemetry.configure(loaded.telemetry)

        def take(extract: Path) -> Report:
            return produce(
                loaded,
                source,
                partial(read, extract),
                mass_withdrawal_share=mass_withdrawal_share,
                allow_mass_withdrawal=allow_mass_withdrawal,
                progress=lambda step: stderr.print(f"{step} …", markup=False),
            )

        if watch:
            result = _watch(loaded, path, take, quiet=json)
            emit(json, result, lambda console: None)
        else:
            report = take(path)
            emit(json, report.as_json(), lambda console: _show(console, report))


def _watch(
    settings: Settings, folder: Path, take: Callable[[Path], Report], *, quiet: bool
) -> dict[str, Any]:
    """Take extracts as they arrive until SIGTERM or SIGINT; what came of each."""
    from bus.errors import BusError, RetryLater, Stop
    from bus.registry import subjects
    from producers.oneroster_csv.watch import watch

    extracts: list[dict[str, Any]] = []

    def told(extract: Path) -> None:
        try:
            report = take(extract)
        except Stop as reason:
            try:
                subjects.lookup(settings)
            except BusError as fault:
                # It is the bus that is not well: the extract stays, and is taken when it is.
                raise RetryLater(str(fault)) from None
            extracts.append({"extract": extract.name, "error": str(reason)})
            raise
        extracts.append({"extract": extract.name, **report.as_json()})
        if not quiet:
            stdout.print(
                f"{extract.name}: {report.published:,} events, {len(report.faults):,} faults",
                markup=False,
            )

    # What is wrong with the bus itself must not refuse the extracts that arrive.
    subjects.lookup(settings)
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    stderr.print(f"watching {folder}; Ctrl-C ends it", markup=False)
    watch(folder, told, stopping.is_set)
    return {"extracts": extracts}


def _show(console: Console, report: Report) -> None:
    """What came of an extract, for a person."""
    table = Table(box=None, pad_edge=False)
    table.add_column(report.source)
    for change in CHANGES:
        table.add_column(change, justify="right")
    for kind, counts in report.records.items():
        table.add_row(
            kind, *(f"{counts[change]:,}" if counts[change] else "·" for change in CHANGES)
        )
    console.print(table)
    for kind, reason in report.put_off.items():
        console.print(f"not withdrawn: {kind}: {reason}", markup=False)
    for fault in sorted(report.faults, key=lambda fault: not fault.fatal)[:SHOWN]:
        place = f"{fault.file}:{fault.line}" if fault.line else fault.file or "the extract"
        found = f" ({fault.value_class})" if fault.value_class else ""
        told = " ".join(part for part in (place, fault.column, fault.reason) if part)
        console.print(f"{'✗' if fault.fatal else '·'} {told}{found}", markup=False)
    if report.faults:
        console.print(f"{len(report.faults):,} faults in all: see bus quarantine list")
