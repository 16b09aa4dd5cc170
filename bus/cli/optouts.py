"""`bus optouts`: enters, ends and lists opt-outs of students."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bus.cli.cluster import settings_of_reached
from bus.cli.output import Json, emit, failures

app = typer.Typer(help="Enter, end and list opt-outs of students.", no_args_is_help=True)


@app.callback()
def optouts() -> None:
    """Enter, end and list opt-outs of students."""


@app.command()
def add(
    student: Annotated[str, typer.Argument(help="The sourcedId of the student.")],
    scope: Annotated[
        str,
        typer.Option(
            help="What must not be disclosed: directoryInformation, vendor, purpose or protected "
            "(everything, to every vendor)."
        ),
    ],
    decided_by: Annotated[
        str,
        typer.Option(help="Who decided it: parent, eligibleStudent, district, court or unknown."),
    ],
    vendor: Annotated[
        str | None,
        typer.Option(help="With the scope vendor: the company, or the agreement with it."),
    ] = None,
    purpose: Annotated[
        str | None, typer.Option(help="With the scope purpose: the purpose, such as research.")
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="The first day on which it holds, YYYY-MM-DD. By default, it holds at once.",
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            "--until",
            help="The last day on which it holds. By default, it holds until it is ended.",
        ),
    ] = None,
    decision: Annotated[
        str,
        typer.Option(
            help="deny: an opt-out. allow: a written consent, for an agreement whose basis is "
            "consent. It needs the scope vendor and --from, the day of the signature."
        ),
    ] = "deny",
    json: Json = False,
) -> None:
    """Enter an opt-out or a consent of a student. Enter the same one again to correct it."""
    with failures(json):
        from bus.ingest import opt_outs
        from bus.standard.json import to_json

        record = opt_outs.add(
            settings_of_reached(),
            student,
            scope,
            decided_by=decided_by,
            vendor=vendor,
            purpose=purpose,
            begin=begin,
            end=end,
            decision=decision,
        )
        what = "consent" if record["decision"] == "allow" else "opt-out"
        emit(
            json,
            {"optOut": to_json(opt_outs.KIND, record)},
            lambda console: console.print(f"{what} {escape(record['sourcedId'])} published"),
        )


@app.command("none")
def none_(json: Json = False) -> None:
    """State that the district has no opt-outs yet, and that they will be entered here.

    No vendor receives data until a source gives opt-outs, or until you run this command.
    """
    with failures(json):
        from bus.ingest import opt_outs

        opt_outs.announce_none(settings_of_reached())
        emit(
            json,
            {"source": opt_outs.SOURCE},
            lambda console: console.print(
                "no opt-outs so far; enter each new one with `bus optouts add`"
            ),
        )


@app.command("end")
def end_optout(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="The opt-out's id, as `bus optouts list` prints it.")
    ],
    json: Json = False,
) -> None:
    """End an opt-out that was entered with `bus optouts add`."""
    with failures(json):
        from bus.ingest import opt_outs
        from bus.standard.json import to_json

        record = opt_outs.withdraw(settings_of_reached(), id_)
        emit(
            json,
            {"optOut": to_json(opt_outs.KIND, record)},
            lambda console: console.print(f"opt-out {escape(record['sourcedId'])} ended"),
        )


@app.command("list")
def list_optouts(
    student: Annotated[
        str, typer.Option(help="Only the opt-outs of the student with this sourcedId.")
    ] = "",
    why: Annotated[
        str, typer.Option(help="Your reason to look at personal data, which is recorded.")
    ] = "",
    json: Json = False,
) -> None:
    """List the opt-outs of all sources. Needs --why. The bus records that you looked, and why."""
    with failures(json):
        from bus.ingest import opt_outs
        from bus.kafka.audit import record_access
        from bus.replay.replay_log import user_at_machine
        from bus.standard.json import to_json

        loaded = settings_of_reached()
        by = user_at_machine()
        record_access(loaded, "listed opt-outs", why=why, by=by, student=student)
        found = opt_outs.active(loaded, student)

        def show(console: Console) -> None:
            for one in found:
                record = one.record
                named = record["vendor"] or record["purpose"]
                scope = f"{record['scope']} {named}" if named else record["scope"]
                scope = f"consent to {scope}" if record["decision"] == "allow" else scope
                since, until = record["beginDate"], record["endDate"]
                days = f"{f', from {since}' if since else ''}{f', until {until}' if until else ''}"
                console.print(
                    f"[bold]{escape(record['studentSourcedId'])}[/]  {escape(scope)}, decided by "
                    f"{record['decidedBy']}{days}"
                )
                console.print(f"    {escape(record['sourcedId'])}, source {escape(one.source)}")
            console.print(f"{len(found):,} opt-outs")

        listed = [{**to_json(opt_outs.KIND, one.record), "source": one.source} for one in found]
        emit(json, {"optOuts": listed}, show)
