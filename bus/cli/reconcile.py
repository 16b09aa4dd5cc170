"""`bus reconcile PRODUCT`: whether a product has what the topics say."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.cli.cluster import settings_of_reached
from bus.cli.differences import emit_differences
from bus.cli.output import Json, failures, stderr
from bus.cli.products import ProductName
from bus.cli.replay_run import replayed

if TYPE_CHECKING:
    from bus.product import Product

MOST = 10_000
"""So many records are mended one by one; more of them are a case for a replay."""


def reconcile(
    product: ProductName,
    export: Annotated[
        Path | None,
        typer.Option(
            help="What the product has: its export, or the folder to which its consumer delivers. "
            "Without it the product itself is asked, where it has an API for that.",
        ),
    ] = None,
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
        from bus import plugins
        from bus.errors import Stop
        from bus.registry import subjects
        from bus.replay.compare import reconcile as compare

        loaded = settings_of_reached()
        what = plugins.product(product)
        subjects.must_have_some(loaded)
        with (
            TemporaryDirectory(prefix="schoolbus-") as folder,
            stderr.status("asking the product") as status,
        ):
            has = export or _asked(what, loaded, Path(folder))
            status.update("reading the topics")
            found, concerned = compare(
                loaded,
                what,
                has,
                lambda folder: what.open(plugins.settings_into(what, loaded, str(folder))),
                lambda number: status.update(f"read {number:,} events"),
            )
        more: dict[str, Any] = {"export": export and str(export), "repaired": None}
        number = sum(map(len, concerned.values()))
        if repair and number > MOST:
            raise Stop(
                f"{number:,} records differ; send all again: bus replay {product} --only-current"
            )
        if repair and concerned:
            ended = replayed(loaded, product, concerned, why or "repair", out, url)
            more["repaired"] = ended
        emit_differences(json, product, found, more)
        if found.found and (more["repaired"] or {}).get("status") != "done":
            raise typer.Exit(1)


def _asked(product: Product, loaded: Any, folder: Path) -> Path:
    """What the product itself says it has; raises `Stop` when it cannot be asked."""
    from bus import plugins
    from bus.errors import Stop

    if product.export is None:
        raise Stop(f"{product.name} cannot be asked what it has: name an export (--export PATH)")
    return product.export(plugins.product_settings(product, loaded), folder)
