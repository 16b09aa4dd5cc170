"""`bus replay`: starts, lists, pauses, resumes and cancels replays, and compares their output."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from bus.cli.cluster import settings_of_reached
from bus.cli.differences import emit_differences
from bus.cli.output import Json, emit, failures, stderr
from bus.cli.products import ProductName
from bus.cli.replay_run import as_json, run_replay

if TYPE_CHECKING:
    from bus.replay.dry_run import DryRun
    from bus.replay.replay_log import ReplayEntry, ReplayRequest
    from bus.replay.window import Completeness, Window


class ProductOrCommand(TyperGroup):
    """Makes `bus replay canvas` mean `bus replay run canvas`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the named command, or `run` with a product."""
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=ProductOrCommand,
    help="Deliver a part of the history to a product again.\n\nStart with `bus replay PRODUCT`. "
    "`bus replay run --help` shows the options.",
    no_args_is_help=True,
    subcommand_metavar="PRODUCT | COMMAND [ARGS]...",
)
Id = Annotated[str, typer.Argument(help="The replay's id, as `bus replay list` prints it.")]


def per_second(said: str | float) -> float:
    """Parse a rate, 100 or 100/s; the default is a number already.

    Raises `typer.BadParameter` for anything else.
    """
    try:
        rate = float(str(said).strip().removesuffix("/s"))
    except ValueError:
        rate = -1.0
    if not 0 <= rate < inf:
        raise typer.BadParameter("give a number of records per second, such as 100 or 100/s")
    return rate


@app.callback()
def _replay() -> None:
    """Deliver a part of the history to a product again."""


@app.command("run", hidden=True)
def run(
    product: ProductName,
    since: Annotated[
        str,
        typer.Option(
            "--from",
            help="Where to start: 'beginning', a time, or offsets (student/0=120,student/1=98).",
        ),
    ] = "beginning",
    until: Annotated[
        str,
        typer.Option(
            "--to", help="Where to end: 'now', a time, or offsets. That point is not included."
        ),
    ] = "now",
    entity: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            "--entity",
            help="Only this kind of record, such as enrollment; repeatable. Both names of the "
            "option mean the same.",
        ),
    ] = None,
    school: Annotated[
        list[str] | None,
        typer.Option(help="Only records of the school with this sourcedId; repeatable."),
    ] = None,
    student: Annotated[
        list[str] | None,
        typer.Option(help="Only records about the student with this sourcedId; repeatable."),
    ] = None,
    only_current: Annotated[
        bool,
        typer.Option(
            "--only-current", help="Only the current state of each record: its newest event."
        ),
    ] = False,
    rate: Annotated[
        float,
        typer.Option(
            parser=per_second,
            metavar="N[/s]",
            show_default=False,
            help="The most records to deliver per second; 0: no limit.",
        ),
    ] = 0.0,
    into: Annotated[
        str | None,
        typer.Option(help="Deliver to this folder or address, not to the live consumer's."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report what the replay would do; deliver nothing.")
    ] = False,
    why: Annotated[str, typer.Option(help="Your reason, which is recorded with the replay.")] = "",
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
    """Deliver a part of the history to a product again.

    Without `--to`, the replay ends at the event that was the newest when the replay started. The
    live consumer keeps running. Ctrl-C pauses the replay, and `bus replay resume` continues it.
    """
    with failures(json):
        from bus import plugins
        from bus.errors import Stop
        from bus.kafka.cloudevents import now
        from bus.registry import subjects
        from bus.replay.replay_log import ReplayRequest, keyed, new_id, user_at_machine
        from bus.replay.selection import select
        from bus.replay.window import resolve

        loaded = settings_of_reached()
        what = plugins.product(product)
        subjects.must_have_some(loaded)
        chosen = select(
            loaded,
            what.kinds,
            entities=entity or (),
            schools=school or (),
            students=student or (),
        )
        window = resolve(loaded, chosen.kinds, since, until, chosen.students)
        if not len(window):
            raise Stop(
                "there are no events in that window, or Kafka has deleted them; widen --from and "
                "--to, and see docs/retention.md"
            )
        about = ReplayRequest(
            id=new_id(product),
            product=product,
            since=since,
            until=until,
            entities=tuple(entity or ()),
            schools=chosen.schools,
            students=chosen.students,
            only_current=only_current,
            rate=rate,
            into=_absolute(into),
            why=why,
            by=user_at_machine(),
            at=now(),
            start=keyed(window.start),
            stop=keyed(window.stop),
        )
        if dry_run:
            _dry_run(json, loaded, what, about, chosen)
            return
        whole = _completeness(loaded, about, about.window, chosen.kinds)
        _end(json, run_replay(loaded, about, None, out, url), whole)


def _absolute(into: str | None) -> str:
    """Return a folder as an absolute path, so that the replay can be resumed from any folder."""
    return "" if not into else into if "://" in into else str(Path(into).absolute())


def _dry_run(json: bool, loaded: Any, what: Any, about: ReplayRequest, chosen: Any) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from bus.replay.dry_run import plan
    from bus.replay.engine import needs_latest

    with Progress(
        TextColumn("reading {task.completed:,} of {task.total:,}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=len(about.window))
        found = plan(loaded, what, about, chosen, lambda n: bar.update(task, completed=n))
    result = {
        "product": about.product,
        "read": dict(found.read),
        "delivered": dict(found.chosen),
        "students": found.students,
        "first": found.first and found.first.isoformat(),
        "last": found.last and found.last.isoformat(),
        "untold": found.not_delivered,
        "seconds": round(found.seconds, 1),
        "complete": found.history.complete,
        "compacted": found.history.compacted,
        "deleted": found.history.deleted,
        "oldest": _iso(found.history.oldest),
        "sample": found.sample,
    }
    latest = needs_latest(what, about)
    emit(json, result, lambda console: _show_plan(console, about, found, latest=latest))


def _show_plan(console: Console, about: ReplayRequest, found: DryRun, *, latest: bool) -> None:
    what = "every change"
    if about.only_current:
        what = "the current state of each record"
    elif latest:
        what = "the current state of each record that last changed"
    into = escape(about.into) or f"the place where the live consumer of {about.product} delivers"
    console.print(
        f"[bold]dry run[/]: {what} from {about.since} to {about.until}; destination: {into}"
    )
    table = Table(box=None, pad_edge=False)
    for name, justify in (("kind", "left"), ("in the window", "right"), ("to deliver", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for kind, number in found.read.items():
        table.add_row(kind, f"{number:,}", f"{found.chosen[kind]:,}")
    console.print(table)
    if found.first and found.last:
        console.print(
            f"about {found.students:,} students; events from {found.first:%Y-%m-%d %H:%M} to "
            f"{found.last:%Y-%m-%d %H:%M} UTC"
        )
    if found.not_delivered:
        console.print(f"{found.not_delivered:,} records would not be delivered to {about.product}")
    console.print(f"at least {found.seconds:,.0f} s, plus the time that {about.product} needs")
    how = found.history
    if how.complete:
        console.print("the topics still have every change of this window")
    _show_losses(console, how)
    for name, row in found.sample.items():
        console.print(f"[bold]{name}[/], a row: " + ", ".join(f"{k} {v}" for k, v in row.items()))


def _show_losses(console: Console, how: Completeness) -> None:
    """Print which part of a window the topics may no longer have."""
    if how.compacted and how.since:
        console.print(
            f"[yellow]before {how.since:%Y-%m-%d} the topics may have only the current state of "
            f"each record[/] ({', '.join(how.compacted)})"
        )
    if how.deleted:
        left = "Kafka has none of it"
        if how.oldest:
            left = f"all of it is there only from {how.oldest:%Y-%m-%d %H:%M:%S} UTC on"
        console.print(
            f"[yellow]the window is not complete: Kafka has deleted older history[/] "
            f"({', '.join(how.deleted)}); {left}"
        )


def _completeness(
    loaded: Any, about: ReplayRequest, window: Window, kinds: tuple[str, ...]
) -> Completeness | None:
    """Return whether the topics have all of a window; None if Kafka does not show it.

    The replay itself does not need to know, so this never ends it.
    """
    from bus.errors import RetryLater
    from bus.replay.window import completeness

    try:
        return completeness(loaded, window, about.since, kinds)
    except RetryLater:
        return None


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


@app.command()
def compare(
    product: ProductName,
    old: Annotated[
        Path,
        typer.Argument(
            help="The folder with the files that the old version of the product's code wrote."
        ),
    ],
    new: Annotated[
        Path,
        typer.Argument(
            help="The folder with the files that the new version of the product's code wrote."
        ),
    ],
    json: Json = False,
) -> None:
    """Compare the files of two versions of a product's code (its translation) row by row.

    First replay the same history --into two folders: once with the old version of the code, once
    with the new one.
    """
    with failures(json):
        from bus import plugins
        from bus.replay.compare import folders

        found = folders(plugins.product(product), old, new)
        emit_differences(json, product, found, {"old": str(old), "new": str(new)})


@app.command("list")
def list_replays(json: Json = False) -> None:
    """List all replays, their progress, and who started them."""
    with failures(json):
        from bus.replay.presence import died
        from bus.replay.replay_log import entries

        loaded = settings_of_reached()
        found = list(entries(loaded).values())
        dead = died(loaded, found)

        def show(console: Console) -> None:
            table = Table(box=None, pad_edge=False)
            for name in ("replay", "status", "done", "delivered", "by", "why"):
                table.add_column(name, no_wrap=name != "why", overflow="fold")
            for one in found:
                table.add_row(
                    one.about.id,
                    "died" if one.about.id in dead else one.status,
                    f"{one.share:.0%}",
                    f"{sum(one.state.delivered.values()):,}",
                    escape(one.about.by),
                    escape(one.about.why),
                )
            console.print(table if found else "no replays yet")
            if dead:
                console.print("died: its process has ended; `bus replay resume` continues it")

        replays = [as_json(one, died=one.about.id in dead) for one in found]
        emit(json, {"replays": replays}, show)


@app.command()
def show(replay: Id, json: Json = False) -> None:
    """Show one replay."""
    with failures(json):
        from bus.replay.presence import died
        from bus.replay.replay_log import entry

        loaded = settings_of_reached()
        found = entry(loaded, replay)
        _emit(json, found, died=bool(died(loaded, [found])))


@app.command()
def pause(replay: Id, json: Json = False) -> None:
    """Pause a replay after its current batch. `bus replay resume` continues it."""
    _request(json, replay, "pause")


@app.command()
def cancel(replay: Id, json: Json = False) -> None:
    """End a replay for good, after its current batch. What it has delivered stays delivered."""
    _request(json, replay, "cancel")


def _request(json: bool, replay: str, to: Any) -> None:
    with failures(json):
        from bus.errors import Stop
        from bus.replay.replay_log import entry, request

        loaded = settings_of_reached()
        found = entry(loaded, replay)
        if found.status in ("done", "cancelled"):
            raise Stop(f"{replay} is {found.status} already")
        request(loaded, replay, to)
        text = f"{replay} was asked to {to}; it does so after its current batch"
        emit(json, {"replay": replay, "wish": to}, lambda console: console.print(text))


@app.command()
def resume(
    replay: Id,
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
    """Continue a replay that was paused or killed, or that failed."""
    with failures(json):
        from bus.errors import Stop
        from bus.replay.replay_log import entry, request

        loaded = settings_of_reached()
        found = entry(loaded, replay)
        if found.status in ("done", "cancelled"):
            raise Stop(f"{replay} is {found.status}; start a new replay")
        request(loaded, replay, "run")
        rest = found.about.window.after(found.state.reached)
        whole = _completeness(loaded, found.about, rest, ())
        _end(json, run_replay(loaded, found.about, found.state, out, url), whole)


def _end(json: bool, entry: ReplayEntry, whole: Completeness | None) -> None:
    """Print how a run ended. End with status 1 if records failed and none was delivered.

    whole: whether the topics had all of the window; None if that is not known.
    """
    result = as_json(entry)
    result["complete"] = whole and whole.complete
    result["compacted"] = whole.compacted if whole else ()
    result["deleted"] = whole.deleted if whole else ()
    result["oldest"] = _iso(whole.oldest) if whole else None

    def show(console: Console) -> None:
        _show(console, entry, result["status"])
        if whole is None:
            console.print("it is not known whether the topics still have all of the window")
        elif entry.about.only_current:  # compaction leaves the current states
            _show_losses(console, replace(whole, compacted=()))
        else:
            _show_losses(console, whole)

    emit(json, result, show)
    if entry.state.left_out and not sum(entry.state.delivered.values()):
        raise typer.Exit(1)


def _emit(json: bool, entry: ReplayEntry, *, died: bool = False) -> None:
    result = as_json(entry, died=died)
    emit(json, result, lambda console: _show(console, entry, result["status"]))


def _left_out_advice(about: ReplayRequest) -> str:
    """Return what a person can do about records that could not be delivered."""
    if not about.into:
        return f": see bus deadletters list {about.product}"
    return (
        f" into {escape(about.into)}. They have no dead letters, because a retry would deliver "
        "to the live consumer's place. The log of this replay has the reasons. Correct the cause, "
        "and replay again into an empty place"
    )


def _show(console: Console, entry: ReplayEntry, status: str) -> None:
    about, state = entry.about, entry.state
    listed = ", ".join(f"{number:,} {kind}" for kind, number in state.delivered.items())
    console.print(f"[bold]{about.id}[/] is {status}: {entry.share:.0%} of its window")
    console.print(f"  {about.product}, from {about.since} to {about.until}", end="")
    console.print(f", into {escape(about.into)}" if about.into else "")
    console.print(f"  delivered {listed or 'nothing'} in {state.seconds:,.1f} s", end="")
    rate = sum(state.delivered.values()) / state.seconds if state.seconds else 0.0
    console.print(f" ({rate:,.0f} a second)")
    if state.left_out:
        console.print(f"  {state.left_out:,} could not be delivered{_left_out_advice(about)}")
    if state.error:
        console.print(f"  {escape(state.error)}")
    why = f": {about.why}" if about.why else ""
    console.print(f"  by {escape(about.by)} at {about.at[:19]} UTC" + escape(why))
