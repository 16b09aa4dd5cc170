"""`bus topics`: shows and changes how long the topics keep history, and the disk it takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bus.cli.output import Json, emit, failures

app = typer.Typer(
    help="Show or change how long the topics keep history, and how much disk that takes.",
    no_args_is_help=True,
)


@app.callback()
def _topics() -> None:
    """Show or change how long the topics keep history, and how much disk that takes."""


@app.command()
def plan(
    students: Annotated[
        int, typer.Option(min=1, help="How many students the district has.")
    ] = 10_000,
    staff: Annotated[
        int,
        typer.Option(min=0, help="How many staff members it has; 0: one for every 20 students."),
    ] = 0,
    enrollments: Annotated[
        int, typer.Option(min=0, help="How many enrollments it has; 0: eight for each student.")
    ] = 0,
    attendance: Annotated[
        int,
        typer.Option(
            "--attendance-per-day", min=0, help="How many attendance events a school day has."
        ),
    ] = 0,
    changes: Annotated[
        float, typer.Option(min=0, max=1, help="The share of records that change on a school day.")
    ] = 0.01,
    replication: Annotated[
        int,
        typer.Option(
            min=0, help="Replicas of each record; 0: [kafka] replication, or 3 if that is not set."
        ),
    ] = 0,
    apply: Annotated[
        bool, typer.Option("--apply", help="Change the topics to match [retention].")
    ] = False,
    allow_loss: Annotated[
        bool,
        typer.Option(
            "--allow-loss", help="With --apply: change the topics even if that deletes history."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Show how long each topic keeps history, and how much disk that takes.

    Changes nothing without `--apply`. Set the times in `[retention]`; see docs/retention.md.
    """
    with failures(json):
        from bus import settings
        from bus.kafka import retention
        from bus.kafka.reachability import check_reachable

        loaded = settings.load()
        district = retention.DistrictSize(students, staff, enrollments, attendance, changes)
        replication = replication or loaded.kafka.replication or 3
        found = retention.plan(loaded, district, replication)
        if apply and not loaded.embedded:
            check_reachable(loaded)
        changed = retention.apply(loaded, allow_loss=allow_loss) if apply else {}
        first, later = sum(t.first for t in found), sum(t.later for t in found)
        result = {
            "topics": [asdict(topic) for topic in found],
            "firstDay": first,
            "later": later,
            "changed": changed,
        }

        def show(console: Console) -> None:
            table = Table(box=None, pad_edge=False)
            for name in ("topic", "records", "a year", "first day", "later", "kept"):
                left = name in ("topic", "kept")
                table.add_column(name, justify="left" if left else "right", no_wrap=True)
            for topic in found:
                table.add_row(
                    topic.name.rpartition(".")[2],
                    f"{topic.records:,}",
                    f"{topic.a_year:,}",
                    _size(topic.first),
                    _size(topic.later),
                    topic.kept,
                )
            console.print(table)
            console.print("* every change for this time, the newest state of each record forever")
            console.print(
                f"in total {_size(first)} after the first day and {_size(later)} later, on all "
                f"brokers ({replication} replicas of each record)"
            )
            for name, what in changed.items():
                for key, (before, after) in what.items():
                    console.print(f"{name}: {key} was {before or 'not set'}, is now {after}")
            if apply and not changed:
                console.print("all topics match [retention] already")

        emit(json, result, show)


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:,.0f} {unit}"
        number /= 1000
    return f"{number:,.1f} GB"
