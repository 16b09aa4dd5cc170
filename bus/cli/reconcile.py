"""`bus reconcile PRODUCT`: whether a product has what the topics say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bus.cli.output import Json, failures, stderr
from bus.cli.products import ProductName
from bus.cli.replay import emit_differences, replayed

MOST = 10_000
"""So many records are mended one by one; more of them are a case for a replay."""


def reconcile(
    product: ProductName,
    export: Annotated[
        Path,
        typer.Option(
            help="What the product has: its export, or the folder to which its consumer delivers.",
        ),
    ],
    repair: Annotated[
        bool, typer.Option("--repair", help="Send the records again that it lacks or has wrong.")
    ] = False,
    why: Annotated[str, typer.Option(help="The reason, which is kept.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="The folder of the live consumer, as `bus consume` has it.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The address of the live consumer, as `bus consume` has it.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare what a product has with what the topics say: missing, extra, different.

    `--repair` replays the latest state of just those records.
    """
    with failures(json):
        from bus import plugins, registry, settings
        from bus.failures import Stop
        from bus.replay.compare import reconcile as compare

        loaded = settings.load()
        what = plugins.product(product)
        registry.must_have_some(loaded)
        with stderr.status("reading the topics") as status:
            found, concerned = compare(
                loaded,
                what,
                export,
                lambda folder: what.open(plugins.settings_into(what, loaded, str(folder))),
                lambda number: status.update(f"read {number:,} events"),
            )
        more: dict[str, Any] = {"export": str(export), "repaired": None}
        number = sum(map(len, concerned.values()))
        if repair and number > MOST:
            raise Stop(
                f"{number:,} records differ; send all again: bus replay {product} --only-current"
            )
        if repair and concerned:
            ended = replayed(loaded, product, concerned, why or "repair", out, url)
            more["repaired"] = ended
        emit_differences(json, product, found, more)
