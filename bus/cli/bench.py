"""`bus bench`: how fast it is, on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bus.cli.output import Json, emit, failures, stderr

if TYPE_CHECKING:
    from bus.bench.figures import Comparison

app = typer.Typer(help="Measure how fast it is, on this machine.", no_args_is_help=True)


Rounds = Annotated[int, typer.Option(min=1, help="How often each works; the middle counts.")]


@app.callback()
def _bench() -> None:
    """Measure how fast it is, on this machine."""


@app.command()
def consume(
    students: Annotated[int, typer.Option(min=100, help="The district's size.")] = 100_000,
    partitions: Annotated[list[int] | None, typer.Option(help="Of each topic; repeatable.")] = None,
    processes: Annotated[list[int] | None, typer.Option(help="Copies; repeatable.")] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often each works; the middle counts.")
    ] = 3,
    quixstreams: Annotated[bool, typer.Option(help="Measure that peer too.")] = True,
    json: Json = False,
) -> None:
    """From events to Canvas's CSV, beside a bare loop and the same job in quixstreams.

    On a bus of its own in the folder `bench` of BUS_HOME.
    """
    with failures(json):
        from bus.bench.consume import measure
        from bus.settings import load

        found = measure(
            load().home / "bench",
            students=students,
            partitions=partitions or [4, 8],
            processes=processes or [1, 2, 4],
            rounds=rounds,
            peer=quixstreams,
            progress=lambda step: stderr.print(f"{step} …", markup=False),
        )
        _emit(json, found)


@app.command()
def produce(
    students: Annotated[int, typer.Option(min=100, help="The district's size.")] = 50_000,
    partitions: Annotated[list[int] | None, typer.Option(help="Of each topic; repeatable.")] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often each works; the middle counts.")
    ] = 3,
    json: Json = False,
) -> None:
    """From CSV rows to acknowledged events, beside encoding and sending alone.

    On a bus of its own in the folder `bench` of BUS_HOME.
    """
    with failures(json):
        from bus.bench.produce import measure
        from bus.settings import load

        found = measure(
            load().home / "bench",
            students=students,
            partitions=partitions or [4, 8],
            rounds=rounds,
            progress=lambda step: stderr.print(f"{step} …", markup=False),
        )
        _emit(json, found)


@app.command()
def district(
    students: Annotated[int, typer.Option(min=100, help="The district's size.")] = 1_000_000,
    change: Annotated[float, typer.Option(min=0, max=1, help="Changed on day 2.")] = 0.01,
    json: Json = False,
) -> None:
    """Two days of a big district, whole, the second beside a bare join of both days' files.

    On a bus of its own in the folder `bench` of BUS_HOME. A million students take 15 GB there.
    """
    with failures(json):
        from bus.bench.district import measure
        from bus.settings import load

        found = measure(
            load().home / "bench",
            students=students,
            change=change,
            progress=lambda step: stderr.print(f"{step} …", markup=False),
        )
        _emit(json, found)


@app.command()
def freshness(
    rate: Annotated[int, typer.Option(min=1, help="Changes a second.")] = 200,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure.")] = 30.0,
    json: Json = False,
) -> None:
    """From a POST of attendance to the webhook product's own log, at a steady rate.

    On a bus of its own in the folder `bench` of BUS_HOME.
    """
    with failures(json):
        from bus.bench.freshness import measure
        from bus.bench.machine import machine
        from bus.settings import load

        found = measure(load().home / "bench", rate, seconds)
        named = machine()

        def show(console: Console) -> None:
            table = Table(
                f"ms, {found.sent:,} at {found.rate:g}/s", "p50", "p99", "worst", box=None
            )
            for name, figures in (
                ("POST to 202", found.accepted),
                ("POST to the product's log", found.delivered),
            ):
                table.add_row(name, *(f"{value:.0f}" for value in figures.values()))
            console.print(table)
            console.print(named)

        emit(json, {"machine": named, **asdict(found)}, show)


@app.command()
def plot(
    results: Annotated[list[Path], typer.Argument(help="Files with what --json printed.")],
    out: Annotated[Path, typer.Option(help="The picture, .svg or .png.")] = Path("bench.svg"),
    json: Json = False,
) -> None:
    """Draw what benchmarks found, bars side by side."""
    with failures(json):
        from bus.bench.plot import draw

        draw(results, out)
        emit(json, {"out": str(out)}, lambda console: console.print(str(out)))


def _emit(json: bool, found: list[Comparison]) -> None:
    """Comparisons with the machine named."""
    from bus.bench.machine import machine

    named = machine()

    def show(console: Console) -> None:
        for comparison in found:
            comparison.show(console)
            console.print()
        console.print(named)

    emit(json, {"machine": named, "comparisons": [each.as_json() for each in found]}, show)
