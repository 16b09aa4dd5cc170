"""`bus vendors`: checks, plans and applies agreements, and shows and revokes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bus.cli import agreement_end, certify, disclosures, vendor_keys
from bus.cli.agreement_name import AgreementName
from bus.cli.cluster import settings_of_reached
from bus.cli.output import Json, emit, failures, stderr, warn
from bus.cli.stop_signals import stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bus.settings import Settings
    from bus.vendors.agreement import Agreement
    from bus.vendors.applied import Applied
    from bus.vendors.check import AgreementFile
    from bus.vendors.plan import PlannedChange
    from bus.vendors.problem import Problem

app = typer.Typer(
    help="Check, plan and apply the agreements with vendors; show and revoke them.",
    no_args_is_help=True,
)
Agreements = Annotated[
    Path | None,
    typer.Option(
        "--agreements",
        help="The folder of the agreement files. By default, the setting vendors.agreements.",
    ),
]
MARKS = {"new": "+", "changed": "~", "ended": "-", "missing": "!", "unchanged": " ", "over": " "}


@app.callback()
def _vendors() -> None:
    """Check, plan and apply the agreements with vendors; show and revoke them."""


@app.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Only problems of these agreements. By default, of all."),
    ] = None,
    agreements: Agreements = None,
    json: Json = False,
) -> None:
    """Report what is wrong with agreement files. Changes nothing.

    Works without a bus. Then it cannot check whether schools and classes exist, and cannot compare
    the files with what was applied before. Exits with 1 if there is an error.
    """
    with failures(json):
        from bus import settings
        from bus.errors import BusError, Stop
        from bus.standard import KINDS
        from bus.vendors import check as checks
        from bus.vendors.agreement import names as files_of
        from bus.vendors.applied import today

        loaded = settings.load()
        folder = agreements or loaded.vendors.agreements
        files, problems = checks.load(folder)
        existing = files_of(folder)
        if unknown := [name for name in names or () if name not in existing]:
            raise Stop(f"{folder} has no agreement {', '.join(unknown)}")
        try:
            known = checks.ask(settings_of_reached(), files, today())
        except BusError:
            known = checks.Known(today(), None, None, None, loaded.vendors)
        problems += checks.check(files, KINDS, known)
        if names:
            wanted = {"", *(f"{name}.toml" for name in names)}
            problems = [one for one in problems if one.file in wanted]
        errors = [one for one in problems if one.level == "error"]
        checked = len(names or existing)

        def show(console: Console) -> None:
            _show_problems(console, problems)
            console.print(
                f"{_many(checked, 'agreement')}, {_many(len(errors), 'error')}, "
                f"{_many(len(problems) - len(errors), 'warning')}"
            )

        emit(json, {"agreements": checked, "problems": _plain(problems)}, show)
        if errors:
            raise typer.Exit(1)


@app.command()
def plan(agreements: Agreements = None, json: Json = False) -> None:
    """Show which fields and how many students `bus vendors apply` would add or remove.

    Changes nothing.
    """
    with failures(json):
        loaded = settings_of_reached()
        files, problems = _checked(loaded, agreements)
        changes = _planned(loaded, files)
        stopped = any(one.level == "error" for one in problems)

        def show(console: Console) -> None:
            _show_problems(console, problems)
            for change in changes:
                _show_change(console, change)
            console.print(_summed(changes))
            if stopped:
                console.print("[bold red]apply would stop[/] because of the errors above")

        result = {
            "changes": [change.as_json() for change in changes],
            "problems": _plain(problems),
        }
        emit(json, result, show)
        if stopped:
            raise typer.Exit(1)


@app.command()
def apply(
    agreements: Agreements = None,
    credentials: Annotated[
        Path | None,
        typer.Option(
            help="A folder that only you can read. It gets a file with credentials for each vendor "
            "that has no Kafka user yet."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Apply the agreement files: create topics, schemas and keys, so that data can be sent.

    A second run gives the same result. A missing file does not end an agreement: use `bus vendors
    revoke`.
    """
    with failures(json):
        from datetime import UTC, datetime

        from bus.errors import Stop
        from bus.vendors import applied, expiry, rollout, vendor_access
        from bus.vendors.disclosures import HEAD_FILE, DisclosureWriter, keep_head

        loaded = settings_of_reached()
        files, problems = _checked(loaded, agreements)
        if errors := [one for one in problems if one.level == "error"]:
            listed = "\n".join(f"  {_place(one)}{one.text}" for one in errors)
            raise Stop(f"nothing was applied, because of errors in the agreements:\n{listed}")
        _show_problems(stderr, problems)
        changes = _planned(loaded, files, numbers=False)
        with DisclosureWriter(loaded) as record:
            now, day = datetime.now(UTC), applied.today()
            try:
                found = rollout.apply(loaded, changes, now, record, credentials)
            finally:  # what is over ends, also if the others cannot be applied
                deleted, failed = expiry.settle_all(loaded, day, now, record, warn)
                for failure in failed:
                    stderr.print(f"[bold red]error:[/] {escape(str(failure))}")
        head = keep_head(loaded, (agreements or loaded.vendors.agreements) / HEAD_FILE)
        if found and not vendor_access.protected(loaded):
            warn(rollout.UNPROTECTED)
            if credentials is not None:
                warn(f"nothing was written to {credentials}")
        for note in dict.fromkeys(note for one in found.values() for note in one.notes):
            warn(note)

        def show(console: Console) -> None:
            for change in changes:
                console.print(f"{MARKS[change.action]} [bold]{change.name}[/]  {change.action}")
                if access := found.get(change.name):
                    console.print(f"    topics: {', '.join(access.topics.values())}")
                    console.print(f"    consumer groups: {access.group}…")
                    if access.credentials:
                        console.print(f"    credentials: {access.credentials}", markup=False)
            for name in deleted:
                console.print(f"{name}: topics, groups, users, schemas and key are deleted")
            console.print(_summed(changes))
            console.print(f"head of the record of disclosures: {head.number} {head.sha256}")

        emit(json, {"vendors": {name: one.as_json() for name, one in found.items()}}, show)
        if failed:
            raise typer.Exit(1)


@app.command()
def run(
    until_caught_up: Annotated[
        bool,
        typer.Option(
            "--until-caught-up",
            help="End when everything that is in the topics now is with the vendors.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Keep the vendors' topics current, until stopped.

    One instance works at a time. Others wait, and take over when it ends. With `vendors.shards`
    above 1, several instances share the work.
    """
    with failures(json):
        from bus.observe import telemetry
        from bus.vendors.runner import Runner

        settings = settings_of_reached()
        telemetry.configure(settings.telemetry)
        runner = Runner(settings)
        stop_on_signals(runner.stop)
        outcome = runner.run(until_caught_up=until_caught_up)
        emit(
            json,
            {
                "agreements": outcome.agreements,
                "sent": outcome.sent,
                "undecodable": outcome.undecodable,
            },
            lambda console: console.print(
                f"{_many(outcome.sent, 'message')} to {_many(len(outcome.agreements), 'vendor')}"
            ),
        )


@app.command("list")
def list_(json: Json = False) -> None:
    """List the applied agreements, and mark those that need attention.

    An agreement needs attention if it ends soon, if an attestation or a deletion is due, or if the
    vendor has never read its data or reads late. "Reads late" names the consumer groups that have
    left messages unread for more than 30 days: they may have missed deletions.
    """
    with failures(json):
        from bus.kafka import overview
        from bus.vendors import agreement_list, applied

        loaded = settings_of_reached()
        stored = applied.read(loaded).values()
        groups = overview.reading_groups(loaded) if stored else {}
        found = agreement_list.listed(loaded, stored, groups, applied.today())

        def show(console: Console) -> None:
            table = Table(box=None, pad_edge=False)
            for name in ("agreement", "vendor", "purpose", "until", "state", "note"):
                table.add_column(name)
            for row in found:
                table.add_row(
                    *(row.name, escape(row.vendor), row.purpose),
                    *(str(row.until), row.state, escape(row.note)),
                )
            console.print(table if found else "no agreement was applied: run `bus vendors apply`")

        emit(json, {"agreements": [row.as_json() for row in found]}, show)


@app.command()
def show(
    name: AgreementName,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print one page of Markdown, for a school board.")
    ] = False,
    agreements: Agreements = None,
    json: Json = False,
) -> None:
    """Show what an agreement shares, in the categories of its schedule of data.

    Shows the agreement as it was applied, or its file if it was not applied.
    """
    with failures(json):
        from bus import settings
        from bus.vendors import applied, summary

        loaded = settings.load()
        stored, agreement = _applied_or_file(loaded, name, agreements)
        sections = summary.sections(agreement, stored, applied.today())
        page = summary.markdown(agreement, sections) if markdown else summary.text(sections)
        result = {
            "name": name,
            "applied": stored is not None,
            "fingerprint": applied.fingerprint(agreement),
            "agreement": applied.as_table(agreement),
            "sections": [{"title": one.title, "lines": one.lines} for one in sections],
        }
        emit(json, result, lambda console: console.print(page, markup=False))


@app.command()
def revoke(
    name: AgreementName,
    why: Annotated[str, typer.Option(help="The reason, which is kept with the agreement.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> None:
    """End an agreement at once. This cannot be undone: the vendor then needs a new agreement."""
    with failures(json):
        from datetime import UTC, datetime

        from bus.errors import Stop
        from bus.vendors import applied, expiry, revocation
        from bus.vendors.disclosures import DisclosureWriter

        if not why.strip():
            raise Stop("give a reason: --why TEXT")
        loaded = settings_of_reached()
        stored = applied.read(loaded)
        one = revocation.find(stored, name)
        if not yes and one.state != "revoked":
            typer.confirm(
                f"Revoke the agreement {name} with {one.agreement.vendor}?", abort=True, err=True
            )
        with DisclosureWriter(loaded) as record:
            revoked = expiry.revoke(loaded, name, why.strip(), datetime.now(UTC), record, warn)
        heirs = [
            other.name
            for other in stored.values()
            if other.ids_name == one.ids_name
            and other.name != name
            and not other.over(applied.today())
        ]
        result = {
            "name": name,
            "state": revoked.state,
            "endedAt": revoked.ended_at and revoked.ended_at.isoformat(),
            "why": revoked.why,
            "renewals": heirs,
        }

        def show(console: Console) -> None:
            console.print(f"{name} is revoked: {escape(revoked.why)}")
            for other in heirs:
                console.print(f"[yellow]warning[/] {other} shares its topics and is not revoked")

        emit(json, result, show)


@app.command()
def allow(name: AgreementName, json: Json = False) -> None:
    """Let students enter or leave whom the guard has held back. First look at the change."""
    with failures(json):
        from dataclasses import replace

        from bus.vendors import applied, revocation

        loaded = settings_of_reached()
        one = revocation.find(applied.read(loaded), name)
        allowed = replace(one, confirmed=one.confirmed + 1)
        applied.write(loaded, allowed)
        emit(
            json,
            {"name": name, "confirmed": allowed.confirmed},
            lambda console: console.print(f"{name}: the guard lets these students enter and leave"),
        )


@app.command()
def contracts(
    name: AgreementName,
    out: Annotated[Path, typer.Option(help="The folder for the files.")],
    bootstrap: Annotated[
        str, typer.Option(help="Kafka's address for the vendor. By default, that in bus.toml.")
    ] = "",
    agreements: Agreements = None,
    json: Json = False,
) -> None:
    """Write the data contracts of an agreement: a file for each topic, and an AsyncAPI document.

    Describes the agreement as it was applied, or its file if it was not applied.
    """
    with failures(json):
        from bus import settings
        from bus.vendors.contracts import write
        from bus.vendors.scope import compile_scope

        loaded = settings.load()
        stored, agreement = _applied_or_file(loaded, name, agreements)
        written = write(
            loaded,
            stored.ids_name if stored else agreement.renews or name,
            compile_scope(agreement),
            out,
            bootstrap=bootstrap or loaded.kafka.bootstrap,
        )
        result = {"files": {what: str(path) for what, path in written.items()}}
        emit(json, result, lambda console: console.print(f"{_many(len(written), 'file')} in {out}"))


@app.command()
def gate(
    host: Annotated[str, typer.Option(help="Address on which to accept requests.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on which to accept requests. 0: a free one.")
    ] = 0,
    certificate_file: Annotated[
        str,
        typer.Option(
            help="The certificate for TLS, as a PEM file. By default, a secure bus's own."
        ),
    ] = "",
    key_file: Annotated[str, typer.Option(help="The key of the certificate, as a PEM file.")] = "",
    json: Json = False,
) -> None:
    """Show each vendor its own schemas, and nothing else, with the API of a schema registry.

    Runs until stopped. Reads the vendors' tokens in BUS_HOME.
    """
    with failures(json):
        from bus.local.home import is_secure, tls
        from bus.observe import telemetry
        from bus.vendors.gate_server import serve

        loaded = settings_of_reached()
        telemetry.configure(loaded.telemetry)
        if not certificate_file and loaded.embedded and is_secure(loaded.home):
            from bus.local.certificates import SERVER

            certificate_file = key_file = str(tls(loaded.home.absolute()) / SERVER)

        def ready(url: str) -> None:
            emit(json, {"url": url}, lambda console: console.print(f"schemas for vendors at {url}"))
            if not certificate_file and host not in ("127.0.0.1", "::1", "localhost"):
                stderr.print(
                    "tokens are sent unencrypted: name --certificate-file and --key-file, or let "
                    "only a TLS proxy reach this address"
                )

        serve(
            loaded,
            ready,
            host=host,
            port=port,
            certificate_file=certificate_file,
            key_file=key_file,
        )


@app.command()
def rotate(
    name: AgreementName,
    credentials: Annotated[
        Path, typer.Option(help="The folder for the vendors' credentials, as for `apply`.")
    ],
    finish: Annotated[
        bool,
        typer.Option(
            "--finish", help="Delete the earlier user. Only the user in the folder remains."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Give a vendor new credentials. The earlier credentials work until `--finish`."""
    with failures(json):
        from bus.errors import Stop
        from bus.vendors import applied, revocation, rollout, vendor_access

        loaded = settings_of_reached()
        if not vendor_access.protected(loaded):
            raise Stop(rollout.UNPROTECTED)
        stored, day = applied.read(loaded), applied.today()
        one = revocation.find(stored, name)
        if one.over(day):
            raise Stop(f"{name} has ended: its vendor gets no credentials")
        running = [it for it in stored.values() if it.ids_name == one.ids_name and not it.over(day)]
        granted = revocation.grants(loaded, running, day)
        if not granted:
            raise Stop(f"{name} gives no access to Kafka yet")
        act = vendor_access.finish if finish else vendor_access.rotate
        done = act(loaded, granted[0], credentials)
        revocation.correct_access(loaded, one.ids_name)  # `run` or `apply` may have changed it
        for note in done.notes:
            warn(note)
        result = {
            "name": name,
            "username": done.username,
            "credentials": done.credentials and str(done.credentials),
            "ca": done.ca and str(done.ca),
        }

        def show(console: Console) -> None:
            console.print(f"{done.username}: {done.credentials}", markup=False)
            if not finish:
                console.print("the earlier credentials work until `--finish`", markup=False)

        emit(json, result, show)


disclosures.register(app)
vendor_keys.register(app)
certify.register(app)
agreement_end.register(app)


def _applied_or_file(
    loaded: Settings, name: str, folder: Path | None
) -> tuple[Applied | None, Agreement]:
    """Return an agreement as it was applied, and the agreement; or None, and that of its file."""
    from bus.errors import BusError
    from bus.vendors import applied
    from bus.vendors.agreement import load

    try:
        stored = applied.read(settings_of_reached()).get(name)
    except BusError:
        warn("the bus does not answer; this is the file's content")
        stored = None
    path = (folder or loaded.vendors.agreements) / f"{name}.toml"
    return stored, stored.agreement if stored else load(path)


def _checked(
    settings: Settings, agreements: Path | None
) -> tuple[list[AgreementFile], list[Problem]]:
    """Return the agreements of the folder, and what is wrong with them."""
    from bus.standard import KINDS
    from bus.vendors import check as checks
    from bus.vendors.applied import today

    files, problems = checks.load(agreements or settings.vendors.agreements)
    known = checks.ask(settings, files, today())
    return files, [*problems, *checks.check(files, KINDS, known)]


def _planned(
    settings: Settings, files: Iterable[AgreementFile], *, numbers: bool = True
) -> list[PlannedChange]:
    """Return what applying would do.

    numbers: whether to count students, for which the whole roster is read.
    """
    from bus.vendors import applied, district_counts
    from bus.vendors.plan import plan as planned

    day = applied.today()
    return planned(
        [file.agreement for file in files],
        applied.read(settings),
        day,
        (lambda changes: district_counts.count(settings, changes, day))
        if numbers
        else (lambda changes: {name: district_counts.CohortCounts() for name in changes}),
    )


def _show_problems(console: Console, problems: Iterable[Problem]) -> None:
    for one in problems:
        color = "red" if one.level == "error" else "yellow"
        console.print(f"[{color}]{one.level}[/] {escape(_place(one))}{escape(one.text)}")


def _place(problem: Problem) -> str:
    place = ", ".join(part for part in (problem.file, problem.key) if part)
    return f"{place}: " if place else ""


def _show_change(console: Console, change: PlannedChange) -> None:
    if change.action in ("unchanged", "over") and not (change.lines or change.warnings):
        return
    what = {
        "missing": "its file is missing, but the agreement stays active",
        "over": "is over, and will be deleted",
    }.get(change.action, change.action)
    console.print(f"{MARKS[change.action]} [bold]{change.name}[/]  {what}")
    for line in change.lines:
        console.print(f"    {escape(line)}")
    if change.counts is not None:
        console.print(
            f"    {_many(len(change.more_fields), 'field')} more and "
            f"{_many(len(change.fewer_fields), 'field')} fewer; "
            f"{_many(change.counts.enter, 'student')} more and "
            f"{_many(change.counts.leave, 'student')} fewer "
            f"({change.counts.before:,} before, {change.counts.after:,} after)"
        )
    for text in change.warnings:
        console.print(f"    [yellow]warning[/] {escape(text)}")


def _summed(changes: Iterable[PlannedChange]) -> str:
    actions = [change.action for change in changes]
    counted = [
        (actions.count("new"), "new"),
        (actions.count("changed"), "changed"),
        (actions.count("unchanged"), "unchanged"),
        (actions.count("ended"), "ended now"),
        (actions.count("missing"), "without a file"),
        (actions.count("over"), "ended or revoked before"),
    ]
    return ", ".join(f"{number} {what}" for number, what in counted if number) or "no agreements"


def _plain(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    from dataclasses import asdict

    return [asdict(one) for one in problems]


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
