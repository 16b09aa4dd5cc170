"""`bus bench`: measures how fast Schoolbus is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.console import Console

from bus.cli.output import Json, emit, failures, stderr

if TYPE_CHECKING:
    from bus.bench.figures import Comparison

app = typer.Typer(help="Measure how fast Schoolbus is on this machine.", no_args_is_help=True)


Rounds = Annotated[
    int, typer.Option(min=1, help="How many times to run each job. The median is reported.")
]


@app.callback()
def _bench() -> None:
    """Measure how fast Schoolbus is on this machine."""


@app.command()
def consume(
    students: Annotated[
        int, typer.Option(min=100, help="How many students the district has.")
    ] = 100_000,
    partitions: Annotated[
        list[int] | None,
        typer.Option(help="Partitions of each topic, by default 4 and 8; repeatable."),
    ] = None,
    processes: Annotated[
        list[int] | None,
        typer.Option(help="How many instances to run, by default 1, 2 and 4; repeatable."),
    ] = None,
    rounds: Rounds = 3,
    quixstreams: Annotated[
        bool, typer.Option(help="Also measure the same job in the library quixstreams.")
    ] = True,
    json: Json = False,
) -> None:
    """Measure delivery, from events to CSV files for Canvas.

    Also measures a bare loop and the same job in quixstreams, for comparison. Runs on a separate
    bus in the folder `bench` of BUS_HOME.
    """
    with failures(json):
        from bus.bench.consume_benchmark import measure
        from bus.settings import load

        found = measure(
            load().home / "bench",
            students=students,
            partitions=partitions or [4, 8],
            processes=processes or [1, 2, 4],
            rounds=rounds,
            peer=quixstreams,
            progress=_progress,
        )
        _emit(json, found)


@app.command()
def produce(
    students: Annotated[
        int, typer.Option(min=100, help="How many students the district has.")
    ] = 50_000,
    partitions: Annotated[
        list[int] | None,
        typer.Option(help="Partitions of each topic, by default 4 and 8; repeatable."),
    ] = None,
    rounds: Rounds = 3,
    json: Json = False,
) -> None:
    """Measure publishing, from CSV rows to acknowledged events.

    Also measures encoding and sending alone, for comparison. Runs on a separate bus in the folder
    `bench` of BUS_HOME.
    """
    with failures(json):
        from bus.bench.produce_benchmark import measure
        from bus.settings import load

        found = measure(
            load().home / "bench",
            students=students,
            partitions=partitions or [4, 8],
            rounds=rounds,
            progress=_progress,
        )
        _emit(json, found)


@app.command()
def district(
    students: Annotated[
        int, typer.Option(min=100, help="How many students the district has.")
    ] = 1_000_000,
    change: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="The share of students whose records change from day 1 to day 2."
        ),
    ] = 0.01,
    json: Json = False,
) -> None:
    """Measure publishing two daily extracts of a big district.

    Also measures a bare join of both days' files, for comparison with the second day. Runs on a
    separate bus in the folder `bench` of BUS_HOME. A district of a million students needs 15 GB of
    disk there.
    """
    with failures(json):
        from bus.bench.district_benchmark import measure
        from bus.settings import load

        found = measure(
            load().home / "bench",
            students=students,
            change=change,
            progress=_progress,
        )
        _emit(json, found)


@app.command()
def day(
    students: Annotated[
        list[int] | None,
        typer.Option(
            min=100,
            help="How many students the district has, by default 100,000 and 1,000,000; "
            "repeatable.",
        ),
    ] = None,
    product: Annotated[
        list[str] | None, typer.Option(help="Measure only this product; repeatable.")
    ] = None,
    change: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="The share of students whose records change from day 1 to day 2."
        ),
    ] = 0.01,
    json: Json = False,
) -> None:
    """Measure delivery of a district's first and second day to each product.

    Each figure includes the start of the program. Runs on a separate bus in the folder `bench` of
    BUS_HOME. A district of a million students needs 15 GB of disk there.
    """
    with failures(json):
        from bus.bench.day_benchmark import TITLES, measure
        from bus.errors import Stop
        from bus.settings import load

        if unknown := set(product or ()) - TITLES.keys():
            raise Stop(
                f"--product {min(unknown)}: there is no benchmark for it; choose one of "
                f"{', '.join(TITLES)}"
            )
        found = measure(
            load().home / "bench",
            students=students or [100_000, 1_000_000],
            products=product or [*TITLES],
            change=change,
            progress=_progress,
        )
        _emit(json, found)


@app.command()
def replay(
    students: Annotated[
        int, typer.Option(min=100, help="How many students the district has.")
    ] = 100_000,
    attendance: Annotated[
        int,
        typer.Option(
            min=0, help="How many attendance events there are. A tenth of them is in the window."
        ),
    ] = 10_000_000,
    rounds: Rounds = 3,
    json: Json = False,
) -> None:
    """Measure replays: of all history, for a new product, and of one school in a time window.

    Also measures a bare loop, for comparison. Runs on a separate bus in the folder `bench` of
    BUS_HOME.
    """
    with failures(json):
        from bus.bench.replay_benchmark import measure
        from bus.settings import load

        found = measure(
            load().home / "bench",
            students=students,
            attendance=attendance,
            rounds=rounds,
            progress=_progress,
        )
        _emit(json, found)


@app.command()
def freshness(
    rate: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Changes per second, by default 500 and 2,000; repeatable."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure each rate.")] = 30.0,
    beside_replays: Annotated[
        int,
        typer.Option(
            min=0,
            help="After that, measure again while a replay of the history of this many students "
            "runs; 0: do not.",
        ),
    ] = 0,
    json: Json = False,
) -> None:
    """Measure the time from a change in the SIS to the webhook product, at steady rates.

    Runs on a separate bus in the folder `bench` of BUS_HOME.
    """
    with failures(json):
        from bus.bench.freshness_benchmark import measure
        from bus.bench.machine_name import machine
        from bus.settings import load

        found = measure(
            load().home / "bench",
            rate or [500, 2000],
            seconds,
            _progress,
            history=beside_replays,
        )
        named = machine()

        def show(console: Console) -> None:
            for each in found:
                each.show(console)
                console.print()
            console.print(named)

        emit(json, {"machine": named, "rates": [each.as_json() for each in found]}, show)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long to run.")] = 30.0,
    rate: Annotated[int, typer.Option(min=1, help="Changes per second.")] = 500,
    json: Json = False,
) -> None:
    """Run for a long time, and check for leaks and for lost or duplicate events.

    Sends changes from the SIS to the webhook product, on a separate bus in the folder `bench` of
    BUS_HOME. Ends with status 1 if memory or open files grow, or an event is lost or duplicated.
    """
    with failures(json):
        from bus.bench.soak_benchmark import measure
        from bus.settings import load

        found = measure(load().home / "bench", minutes, rate)
        _emit_one(json, found)
    if not found.sound:
        raise typer.Exit(1)


@app.command()
def start(
    rounds: Annotated[
        int, typer.Option(min=1, help="How many times to start. The median is reported.")
    ] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure idle CPU.")] = 30.0,
    json: Json = False,
) -> None:
    """Measure how long `bus up` takes in a new home, and how much CPU idle processes use.

    Runs in the folder `bench` of BUS_HOME.
    """
    with failures(json):
        from bus.bench.start_benchmark import measure
        from bus.settings import load

        found = measure(load().home / "bench", rounds, seconds, _progress)
        _emit_one(json, found)


@app.command()
def vendors(
    students: Annotated[
        int, typer.Option(min=100, help="How many students the district has.")
    ] = 12_000,
    large: Annotated[
        int,
        typer.Option(
            min=100,
            help="How many students the other district has, in which a vendor is added and a field "
            "is taken out of an agreement.",
        ),
    ] = 12_000,
    rate: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Changes per second, by default 200 and 500; repeatable."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure each rate.")] = 30.0,
    rounds: Rounds = 3,
    json: Json = False,
) -> None:
    """Measure the projection to vendors' topics: throughput, freshness, opt-outs, revocations.

    Also measures a bare loop, for comparison. Runs on a separate bus in the folder `bench` of
    BUS_HOME.
    """
    with failures(json):
        from bus.bench.vendors_benchmark import measure
        from bus.settings import load

        found = measure(
            load().home / "bench",
            students=students,
            large=large,
            rates=rate or [200, 500],
            seconds=seconds,
            rounds=rounds,
            progress=_progress,
        )
        _emit_one(json, found)


def _progress(step: str) -> None:
    stderr.print(f"{step} …", markup=False)


@app.command()
def plot(
    results: Annotated[
        list[Path], typer.Argument(help="Files with the --json output of benchmarks.")
    ],
    out: Annotated[Path, typer.Option(help="A .svg or .png file.")] = Path("bench.svg"),
    json: Json = False,
) -> None:
    """Draw benchmark results as a bar chart."""
    with failures(json):
        from bus.bench.plot import draw

        draw(results, out)
        emit(json, {"out": str(out)}, lambda console: console.print(str(out)))


class _Measured(Protocol):
    """What one benchmark measured."""

    def show(self, console: Console) -> None: ...

    def as_json(self) -> dict[str, Any]: ...


def _emit_one(json: bool, found: _Measured) -> None:
    """Print what was measured, and the machine on which it was measured."""
    from bus.bench.machine_name import machine

    named = machine()

    def show(console: Console) -> None:
        found.show(console)
        console.print(named)

    emit(json, {"machine": named, **found.as_json()}, show)


def _emit(json: bool, found: list[Comparison]) -> None:
    """Print comparisons, and the machine on which they were measured."""
    from bus.bench.machine_name import machine

    named = machine()

    def show(console: Console) -> None:
        for comparison in found:
            comparison.show(console)
            console.print()
        console.print(named)

    emit(json, {"machine": named, "comparisons": [each.as_json() for each in found]}, show)
