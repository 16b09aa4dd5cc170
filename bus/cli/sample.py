"""`bus sample`: writes the extracts of a made-up district."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bus.cli.output import Json, emit, failures

OPT_OUTS = 0.01
"""The share of students with an opt-out."""


def sample(
    path: Annotated[Path, typer.Argument(help="The .zip or the folder to write.")],
    students: Annotated[
        int, typer.Option(min=1, help="How many students the district has.")
    ] = 1_000,
    day: Annotated[int, typer.Option(min=1, help="Which day's extract to write.")] = 1,
    seed: Annotated[int, typer.Option(help="A number that selects the district.")] = 1,
    change: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="The share of students whose records change from one day to the next.",
        ),
    ] = 0.01,
    json: Json = False,
) -> None:
    """Write a OneRoster extract of a made-up district. The same seed gives the same district."""
    with failures(json):
        from bus.demo.sample import District

        District(seed, students, change, opt_outs=OPT_OUTS).write(path, day)
        result = {"path": str(path), "students": students, "day": day, "seed": seed}
        emit(
            json,
            result,
            lambda console: console.print(f"day {day} of {students:,} students: {path}"),
        )
