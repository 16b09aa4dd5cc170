"""`bus reconcile PRODUCT`: compares a product with the topics."""

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
    from bus.replay.product_rows import Differences

MOST = 10_000
"""A repair replays at most this many records. For more, a replay of all records is faster."""


def reconcile(
    product: ProductName,
    export: Annotated[
        Path | None,
        typer.Option(
            help="What the product has: its own export, or the folder to which its consumer "
            "delivers. By default, the bus downloads an export from the product's API, if it "
            "has one.",
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Deliver again the records of missing, extra and different rows."
        ),
    ] = False,
    why: Annotated[str, typer.Option(help="Your reason, which is recorded with the repair.")] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="The live consumer's folder, as you gave it to `bus consume`."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="The live consumer's address, as you gave it to `bus consume`."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare what a product has with what the topics say that it should have.

    Reports missing, extra and different rows. A row of a withdrawn record is not extra if the row
    says that the record is withdrawn. `--repair` replays the current state of the records of all
    reported rows.
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
            stderr.status("reading what the product has") as status,
        ):
            has = export or _own_export(what, loaded, Path(folder), out, url)
            status.update("reading the topics")
            found, to_repair = compare(
                loaded,
                what,
                has,
                lambda folder: what.open(plugins.settings_into(what, loaded, str(folder))),
                lambda number: status.update(f"read {number:,} events"),
            )
        more: dict[str, Any] = {"export": export and str(export), "repaired": None}
        number = sum(map(len, to_repair.values()))
        if repair and number > MOST:
            raise Stop(
                f"{number:,} records differ, which is too many for a repair; deliver all again: "
                f"bus replay {product} --only-current"
            )
        if repair and to_repair:
            ended = replayed(loaded, product, to_repair, why or "repair", out, url)
            more["repaired"] = ended
        remarks = _remarks(product, found, number, more["repaired"], repair=repair)
        emit_differences(json, product, found, more, remarks)
        if found.found and not _repaired(found, more["repaired"]):
            raise typer.Exit(1)


def _repaired(found: Differences, repaired: dict[str, Any] | None) -> bool:
    """Return whether the repair delivered all records, and no difference is beyond repair."""
    ended = repaired is not None and repaired["status"] == "done"
    return ended and not (found.unknown or (repaired or {}).get("left_out"))


def _remarks(
    product: str, found: Differences, number: int, repaired: dict[str, Any] | None, *, repair: bool
) -> list[str]:
    """Return what a repair did, or could do, about the differences; one line each.

    number:   how many records cause the differences.
    repaired: the replay, as `--json` prints it.
    """
    remarks = []
    if repaired:
        sent = ", ".join(f"{n:,} {kind}" for kind, n in repaired["delivered"].items())
        name, status = repaired["id"], repaired["status"]
        remarks.append(
            f"repaired: {product} got {sent or 'nothing'} again, in their current state "
            f"(replay {name}: {status}); compare again when the product has processed that"
        )
        if status != "done":
            remarks.append(f"the repair has not ended; to continue it: bus replay resume {name}")
        if repaired["left_out"]:
            remarks.append(
                f"{repaired['left_out']:,} could not be delivered: see bus deadletters list "
                f"{product}"
            )
    elif number and not repair:
        remarks.append(f"--repair delivers these {number:,} records again")
    if found.unknown:
        remarks.append(
            f"{found.unknown:,} of the differences come from no record in the topics, so no repair "
            f"can fix them: remove them at {product}, or leave them"
        )
    return remarks


def _own_export(
    product: Product, loaded: Any, folder: Path, out: Path | None, url: str | None
) -> Path:
    """Return the export that the product itself gives. Raises `Stop` if it has no API for that."""
    from bus import plugins
    from bus.errors import Stop

    if product.export is None:
        raise Stop(f"{product.name} has no API that exports what it has; add --export PATH")
    return product.export(plugins.product_settings(product, loaded, out=out, url=url), folder)
