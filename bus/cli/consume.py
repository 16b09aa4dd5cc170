"""`bus consume PRODUCT`: runs a product's consumer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.cli.cluster import settings_of_reached
from bus.cli.output import Json, emit, failures
from bus.cli.products import ProductName
from bus.cli.stop_signals import stop_on_signals

if TYPE_CHECKING:
    from rich.console import Console

    from bus.consume.feed import Feed
    from bus.consume.worker_state import WorkerOutcome
    from bus.product import Product
    from bus.settings import Settings


def consume(
    product: ProductName,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write to, for a product that takes files.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The address to send to, for a product that takes requests.")
    ] = None,
    until_caught_up: Annotated[
        bool,
        typer.Option(
            "--until-caught-up",
            help="End when all events that are in the topics at the start are delivered.",
        ),
    ] = False,
    http_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve /livez, /readyz and /metrics on this port."),
    ] = None,
    agreement: Annotated[
        str | None,
        typer.Option(
            help="Deliver the data that this agreement shares to the address that it names. The "
            "command ends when the agreement ends or is revoked."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Deliver changes to a product as they happen.

    Runs until it is stopped. Ctrl-C and SIGTERM let it finish the current batch first. You can
    start several instances for one product; they share the work.
    """
    with failures(json):
        from bus import plugins
        from bus.consume.worker_state import WorkerOutcome
        from bus.observe import telemetry
        from bus.registry import subjects

        loaded = settings_of_reached()
        telemetry.configure(loaded.telemetry, passes_traces_on=False)
        what = plugins.product(product)
        subjects.must_have_some(loaded)
        outcome = WorkerOutcome()
        stopped = threading.Event()
        run = partial(
            _run, loaded, what, outcome, stopped, http_port, until_caught_up=until_caught_up
        )
        place: str | None = str(out) if out else url
        kinds = what.kinds
        if agreement is None:
            run(plugins.product_settings(what, loaded, out=out, url=url))
        else:
            place, kinds = _run_under(agreement, loaded, what, run, out, url)
        result: dict[str, Any] = {
            "product": product,
            "delivered": {kind: outcome.delivered[kind] for kind in kinds},
            "deadLettered": outcome.dead_lettered,
            "out": place,
        }
        which = product if agreement is None else f"{product} --agreement {agreement}"
        nothing = not (sum(outcome.delivered.values()) or outcome.dead_lettered)
        elsewhere = nothing and outcome.had_events and out is not None and _is_empty(out)
        emit(json, result, lambda console: _show(console, result, which, elsewhere=elsewhere))
        if until_caught_up and outcome.dead_lettered and not sum(outcome.delivered.values()):
            raise typer.Exit(1)  # there was something to deliver, and nothing was delivered


def _run(
    loaded: Settings,
    product: Product,
    total: WorkerOutcome,
    stopped: threading.Event,
    http_port: int | None,
    own_settings: Any,
    feed: Feed | None = None,
    *,
    until_caught_up: bool,
) -> None:
    """Run the consumer of a product, and add what it did to `total`.

    stopped: is set when a signal asks the program to end, even between two runs.
    """
    from bus.consume.worker import Worker
    from bus.observe import health
    from bus.observe.metrics import ConsumerMetrics

    delivery = product.open(own_settings)
    try:
        metrics = ConsumerMetrics()
        loop = Worker(loaded, product, delivery, metrics, feed=feed, brief=until_caught_up)

        def stop() -> None:
            stopped.set()
            loop.stop()

        stop_on_signals(stop)
        if stopped.is_set():
            loop.stop()
        how = loaded.consumer
        port = how.http_port if http_port is None else http_port
        with health.served(how.http_host, port, metrics.registry, live=loop.live, ready=loop.ready):
            try:
                loop.run(until_caught_up=until_caught_up)
            finally:
                total.delivered.update(loop.outcome.delivered)
                total.dead_lettered += loop.outcome.dead_lettered
                total.had_events |= loop.outcome.had_events
    finally:
        delivery.close()


def _run_under(
    agreement: str,
    loaded: Settings,
    product: Product,
    run: Callable[..., None],
    out: Path | None,
    url: str | None,
) -> tuple[str | None, tuple[str, ...]]:
    """Run the consumer of a product under an agreement.

    Starts again when the agreement is applied with changes. Returns the address to which it
    delivered, and the kinds that the agreement shares.
    """
    from bus import plugins
    from bus.errors import Stop
    from bus.vendors.agreement_watch import AgreementChanged
    from bus.vendors.ways import open_way

    if out or url:
        raise Stop(
            "the address comes from the agreement: with --agreement, leave out --out and --url"
        )
    while True:
        way = open_way(loaded, product, agreement)
        own = plugins.settings_under(product, loaded, way.settings, way.terms)
        place = way.settings.get("url") or way.settings.get("out")
        if way.over is not None:
            product.open(own).close()  # so that the delivery deletes what it delivered
            raise way.over
        try:
            with way.watch:
                run(own, way.feed)
            return place and str(place), tuple(way.terms.fields)
        except AgreementChanged:
            continue


def _is_empty(folder: Path) -> bool:
    """Return whether a folder has no delivered files. A delivery's own files are hidden."""
    return not any(not path.name.startswith(".") for path in folder.glob("*"))


def _show(console: Console, result: dict[str, Any], which: str, *, elsewhere: bool) -> None:
    """Print the result.

    which:     the arguments of `bus deadletters` for this consumer.
    elsewhere: whether the folder is new and everything was delivered to another place before.
    """
    delivered = {kind: number for kind, number in result["delivered"].items() if number}
    listed = ", ".join(f"{number:,} {kind}" for kind, number in delivered.items()) or "nothing new"
    console.print(f"[bold]{result['product']}[/] got {listed}")
    if result["deadLettered"]:
        console.print(
            f"{result['deadLettered']:,} became dead letters: "
            f"see [bold]bus deadletters list {which}[/]"
        )
    if result["out"] and delivered:
        console.print(f"  → {result['out']}")
    if elsewhere:
        console.print(
            f"{result['out']} is empty, because everything was delivered to another place before; "
            f"to deliver it here too: bus replay {result['product']} --into {result['out']}",
            markup=False,
        )
