"""`bus deadletters`: shows, retries and discards events that could not be delivered."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from bus.cli.cluster import settings_of_reached
from bus.cli.output import Json, emit, failures
from bus.cli.products import ProductName

if TYPE_CHECKING:
    from bus.consume.deadletters import DeadLetter
    from bus.settings import Settings

app = typer.Typer(
    help="Show, retry and discard events that could not be delivered.", no_args_is_help=True
)


@app.callback()
def deadletters() -> None:
    """Show, retry and discard events that could not be delivered."""


Reason = Annotated[str, typer.Option(help="Only dead letters whose reason contains this text.")]
Code = Annotated[
    str, typer.Option(help="Only dead letters with this code; docs/faults.md lists the codes.")
]
Since = Annotated[str, typer.Option(help="Only dead letters from this time on (ISO 8601).")]
Until = Annotated[str, typer.Option(help="Only dead letters from before this time (ISO 8601).")]
Kinds = Annotated[
    list[str] | None, typer.Option("--kind", help="Only this kind of record; repeatable.")
]
Places = Annotated[
    list[str] | None,
    typer.Argument(help="TOPIC/PARTITION/OFFSET, as `bus deadletters list` prints it."),
]
All = Annotated[bool, typer.Option("--all", help="Select every open dead letter.")]
Why = Annotated[str, typer.Option(help="Your reason, which is recorded with what you do.")]
Agreement = Annotated[
    str | None,
    typer.Option(help="Only the dead letters of the product's deliveries under this agreement."),
]
SHOWN = 200


@app.command("list")
def list_deadletters(
    product: ProductName,
    reason: Reason = "",
    code: Code = "",
    since: Since = "",
    until: Until = "",
    kind: Kinds = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also list dead letters that were retried or discarded.")
    ] = False,
    summary: Annotated[
        bool,
        typer.Option("--summary", help="Print only the number of dead letters for each reason."),
    ] = False,
    agreement: Agreement = None,
    json: Json = False,
) -> None:
    """List a product's dead letters: the ids of their records, and the reasons."""
    with failures(json):
        from bus.consume.deadletters import choose, read

        loaded = settings_of_reached()
        found = choose(
            read(loaded, _consumer(loaded, product, agreement)),
            kinds=kind or (),
            reason=reason,
            code=code,
            since=_moment(since, "--since"),
            until=_moment(until, "--until"),
        )
        dead_letters = [entry for entry in found if everything or not entry.state]
        counted = Counter(_without_ids(entry) for entry in dead_letters)
        codes = Counter(entry.code for entry in dead_letters)

        def show(console: Console) -> None:
            for entry in [] if summary else dead_letters[:SHOWN]:
                tries = "1 try" if entry.attempts == 1 else f"{entry.attempts:,} tries"
                name = escape(f"{entry.kind} {entry.id}")
                state = f", {entry.state}" if entry.state else ""
                console.print(
                    f"[bold]{name}[/]  {entry.time[:19]} UTC, {tries}, {entry.place}{state}"
                )
                console.print(f"    {escape(entry.reason)} \\[{escape(entry.code)}]")
            if not summary and len(dead_letters) > SHOWN:
                console.print(
                    f"and {len(dead_letters) - SHOWN:,} more: use --summary, or --json for all"
                )
            for why, number in counted.most_common() if summary else ():
                console.print(f"{number:>7,}  {escape(why)}")
            console.print(f"{len(dead_letters):,} dead letters of {product}")

        result = {
            "product": product,
            "deadLetters": [asdict(entry) for entry in dead_letters],
            "reasons": dict(counted.most_common()),
            "codes": dict(codes.most_common()),
        }
        emit(json, result, show)


def _without_ids(entry: DeadLetter) -> str:
    """Return a dead letter's reason with `…` for ids and numbers, so that equal ones are counted.

    A word with a digit counts as an id.
    """
    return re.sub(r"\b[\w.-]*\d[\w.-]*\b", "…", entry.reason)


def _moment(text: str, option: str) -> datetime | None:
    from bus.errors import Stop
    from bus.replay.window import moment

    if text and moment(text) is None:
        raise Stop(f"{option} {text!r} is not a time such as 2026-03-01 or 2026-03-01T07:00:00Z")
    return moment(text) if text else None


@app.command("show")
def show_deadletter(
    product: ProductName,
    place: Annotated[
        str, typer.Argument(help="TOPIC/PARTITION/OFFSET, as `bus deadletters list` prints it.")
    ],
    unmasked: Annotated[
        bool,
        typer.Option(
            "--unmasked",
            help="Show personal values. Needs --why. The bus records that you looked, and why.",
        ),
    ] = False,
    why: Why = "",
    agreement: Agreement = None,
    json: Json = False,
) -> None:
    """Show a dead letter with its record. Personal values are masked."""
    with failures(json):
        from bus.consume.deadletters import choose, content, read, record_look
        from bus.errors import Never
        from bus.replay.replay_log import user_at_machine
        from bus.standard.masking import masked

        loaded = settings_of_reached()
        name = _consumer(loaded, product, agreement)
        (entry,) = choose(read(loaded, name), places=[place])
        record: dict[str, Any] | None = None
        note = ""
        try:
            found: Any = content(loaded, name, place)
            if unmasked:
                record_look(loaded, name, place, why, user_at_machine())
            record = found if unmasked else masked(entry.kind, found)
        except Never as reason:
            note = str(reason)

        def show(console: Console) -> None:
            console.print(f"[bold]{escape(f'{entry.kind} {entry.id}')}[/]  {entry.place}")
            console.print(f"    {escape(entry.reason)} \\[{escape(entry.code)}]")
            for name, value in (record or {}).items():
                console.print(f"  {name}: {escape(str(value))}")
            if note:
                console.print(f"  cannot be decoded: {escape(note)}")

        emit(json, {**asdict(entry), "record": record, "note": note}, show)


@app.command()
def retry(
    product: ProductName,
    places: Places = None,
    reason: Reason = "",
    code: Code = "",
    everything: All = False,
    why: Why = "",
    out: Annotated[
        Path | None,
        typer.Option(help="The live consumer's folder, as you gave it to `bus consume`."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="The live consumer's address, as you gave it to `bus consume`."),
    ] = None,
    agreement: Agreement = None,
    json: Json = False,
) -> None:
    """Deliver the selected dead letters again, after you have fixed what made them fail.

    Select them with PLACES, --reason, --code or --all.

    Each record is delivered in its current state, so no later change is undone.
    """
    with failures(json):
        from bus.cli.replay_run import replayed
        from bus.consume.deadletters import mark, read
        from bus.kafka.cloudevents import now
        from bus.replay.replay_log import user_at_machine

        loaded = settings_of_reached()
        name = _consumer(loaded, product, agreement)
        dead_letters = _chosen(read(loaded, name), places, reason, code, everything)
        records: dict[str, set[str]] = {}
        for entry in dead_letters:
            records.setdefault(entry.kind, set()).add(entry.id)
        began = now()
        if dead_letters and agreement:
            _retry_under(agreement, loaded, product, records, out, url)
        elif dead_letters:
            replayed(loaded, product, records, why or "retry of dead letters", out, url)
        again = {(entry.kind, entry.id) for entry in read(loaded, name) if entry.time >= began}
        done = [entry for entry in dead_letters if (entry.kind, entry.id) not in again]
        mark(loaded, name, done, "retried", why, user_at_machine())
        result = {"product": product, "retried": len(done), "failed": len(dead_letters) - len(done)}

        def show(console: Console) -> None:
            console.print(f"{len(done):,} dead letters of {product} were delivered")
            if len(dead_letters) > len(done):
                console.print(
                    f"{len(dead_letters) - len(done):,} failed again: "
                    f"see bus deadletters list {product}"
                )

        emit(json, result, show)
        if len(dead_letters) > len(done):
            raise typer.Exit(1)


@app.command()
def discard(
    product: ProductName,
    places: Places = None,
    reason: Reason = "",
    code: Code = "",
    everything: All = False,
    why: Why = "",
    agreement: Agreement = None,
    json: Json = False,
) -> None:
    """Mark the selected dead letters as discarded. Needs a reason (--why).

    Select them with PLACES, --reason, --code or --all. They are not delivered, and are no longer
    open. `bus deadletters list --all` still shows them.
    """
    with failures(json):
        from bus.consume.deadletters import mark, read
        from bus.errors import Stop
        from bus.replay.replay_log import user_at_machine

        if not why.strip():
            raise Stop("a discard needs a reason, which is recorded: add --why")
        loaded = settings_of_reached()
        name = _consumer(loaded, product, agreement)
        dead_letters = _chosen(read(loaded, name), places, reason, code, everything)
        mark(loaded, name, dead_letters, "discarded", why, user_at_machine())
        emit(
            json,
            {"product": product, "discarded": len(dead_letters)},
            lambda console: console.print(
                f"{len(dead_letters):,} dead letters of {product} discarded"
            ),
        )


def _consumer(loaded: Settings, product: str, agreement: str | None) -> str:
    """Return the name of the consumer that wrote the dead letters."""
    if agreement is None:
        return product
    from bus.vendors.ways import stored_consumer_name

    return stored_consumer_name(loaded, product, agreement)


def _retry_under(
    agreement: str,
    loaded: Settings,
    product: str,
    records: dict[str, set[str]],
    out: Path | None,
    url: str | None,
) -> None:
    """Deliver records again under an agreement, to the address that it names."""
    from bus import plugins
    from bus.errors import Stop
    from bus.vendors.way_retry import retry as redeliver
    from bus.vendors.ways import open_way

    if out or url:
        raise Stop(
            "the address comes from the agreement: with --agreement, leave out --out and --url"
        )
    what = plugins.product(product)
    way = open_way(loaded, what, agreement)
    if way.over is not None:
        raise way.over
    with way.watch:
        delivery = what.open(plugins.settings_under(what, loaded, way.settings, way.terms))
        try:
            redeliver(loaded, what, way, delivery, records)
        finally:
            delivery.close()


def _chosen(
    dead_letters: list[DeadLetter],
    places: list[str] | None,
    reason: str,
    code: str,
    everything: bool,
) -> list[DeadLetter]:
    """Return the selected dead letters that are open. Raises `Stop` without any selection."""
    from bus.consume.deadletters import choose
    from bus.errors import Stop

    if not (places or reason or code or everything):
        raise Stop("no dead letters are selected: add places, --reason TEXT, --code CODE, or --all")
    found = choose(dead_letters, places=places or (), reason=reason, code=code)
    return [entry for entry in found if not entry.state]
