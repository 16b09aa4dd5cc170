"""The commands of declared sources. All sources of one kind have the same options and output."""

# No `from __future__ import annotations`: typer evaluates the annotations of a command, and these
# use local names of the enclosing function.

import shlex
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bus.cli.cluster import settings_of_reached
from bus.cli.fault_lines import print_groups
from bus.cli.output import Json, emit, failures, stderr, stdout
from bus.source import Extracts, Polled, Source, Staging, Streamed

if TYPE_CHECKING:
    from bus.ingest.report import ExtractDryRun, Report
    from bus.settings import Settings

SHOWN = 10
"""The most groups of faults to print, fatal ones first. `bus quarantine list` prints all."""

CHANGES = ("created", "updated", "withdrawn", "unchanged", "quarantined")

PublishAs = Annotated[
    str, typer.Option(help="The name under which the records of this SIS are published.")
]
AllowMassWithdrawal = Annotated[
    bool,
    typer.Option(
        "--allow-mass-withdrawal",
        help="Publish even if the extract withdraws more records of a kind than mass_withdrawal "
        "allows.",
    ),
]
MassWithdrawalShare = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Stop if more than this share of a record kind would be withdrawn. Replaces the "
        "setting mass_withdrawal.share; mass_withdrawal.records must be exceeded too.",
    ),
]


Rehearsal = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Report what would be published and which rows would be left out. Publish and store "
        "nothing.",
    ),
]
MostDifferences = Annotated[
    int,
    typer.Option(
        "--differences",
        min=0,
        metavar="N",
        help="With --dry-run: print the first N records of each kind that would be created, "
        "updated or withdrawn, with the fields that differ. Personal values are masked.",
    ),
]


def command_of(source: Source) -> Callable[..., None]:
    """Return the command function of a declared source, for typer."""
    reader = source.reader
    if isinstance(reader, Extracts):
        return _extracts(source, reader)
    if isinstance(reader, Polled):
        return _polled(source, reader)
    return _streamed(source, reader)


def _extracts(declared: Source, reader: Extracts) -> Callable[..., None]:
    def command(
        path: Annotated[Path, typer.Argument(help=reader.what)],
        source: PublishAs = declared.name,
        watch: Annotated[
            bool,
            typer.Option("--watch", help="PATH is a folder: publish each extract that arrives."),
        ] = False,
        allow: Annotated[
            str,
            typer.Option(
                metavar="NAME",
                help="PATH is a watched folder: publish the one extract NAME, which waits there "
                "because it withdraws more records than mass_withdrawal allows.",
            ),
        ] = "",
        allow_mass_withdrawal: AllowMassWithdrawal = False,
        mass_withdrawal_share: MassWithdrawalShare = None,
        dry_run: Rehearsal = False,
        differences: MostDifferences = 0,
        json: Json = False,
    ) -> None:
        with failures(json):
            _check_dry_run(dry_run, differences, watch)
            _check_allow(allow, dry_run or watch)
            _must_be_there(path, reader.what)
            run = _Run.of(declared, source, mass_withdrawal_share, allow_mass_withdrawal, json)

            def take(extract: Path) -> "Report":
                return run.take(lambda staging: reader.read(extract, run.own, staging))

            if dry_run:
                run.rehearse(lambda staging: reader.read(path, run.own, staging), differences)
            elif watch:
                from bus.ingest import drop_folder

                run.prepare_to_watch()
                stderr.print(f"watching {path}; press Ctrl-C to stop", markup=False)
                drop_folder.watch(
                    path,
                    partial(run.take_and_report, take),
                    run.stopping.is_set,
                    partial(run.yes, path),
                )
                emit(json, {"extracts": run.results}, lambda _: None)
            elif allow:
                from bus.ingest import drop_folder

                run.allow = True
                report = drop_folder.allow(path, allow, take)
                emit(json, report.as_json(), lambda console: _show(console, report))
                _fail_for_unread(report)
            else:
                report = take(path)
                emit(json, report.as_json(), lambda console: _show(console, report))
                _fail_for_unread(report)

    return command


def _fail_for_unread(report: "Report") -> None:
    """End with status 1 if a whole file could not be read. The other files are published."""
    if report.unread:
        stderr.print(f"could not be read: {', '.join(report.unread)}", markup=False)
        raise typer.Exit(1)


def _must_be_there(path: Path, what: str) -> None:
    """Raise `Stop` if the path does not exist, before any other check."""
    from bus.errors import Stop

    if not path.exists():
        where = "" if path.is_absolute() else f" (in {Path.cwd()})"
        raise Stop(f"{path} does not exist{where}; PATH is: {what}")


def _polled(declared: Source, reader: Polled) -> Callable[..., None]:
    def command(
        source: PublishAs = declared.name,
        watch: Annotated[
            bool, typer.Option("--watch", help="Poll repeatedly until you stop it.")
        ] = False,
        every: Annotated[
            float, typer.Option(min=0, help="With --watch: seconds from one poll to the next.")
        ] = reader.every,
        allow_mass_withdrawal: AllowMassWithdrawal = False,
        mass_withdrawal_share: MassWithdrawalShare = None,
        dry_run: Rehearsal = False,
        differences: MostDifferences = 0,
        json: Json = False,
    ) -> None:
        with failures(json):
            _check_dry_run(dry_run, differences, watch)
            run = _Run.of(declared, source, mass_withdrawal_share, allow_mass_withdrawal, json)

            def take() -> "Report":
                return run.take(lambda staging: reader.read(run.own, staging))

            if dry_run:
                run.rehearse(lambda staging: reader.read(run.own, staging), differences)
            elif watch:
                from bus.ingest import polling

                run.prepare_to_watch()
                stderr.print(f"polling every {every:g} s; press Ctrl-C to stop", markup=False)
                polling.poll(
                    lambda: run.take_and_report(lambda _: take(), None), every, run.stopping.is_set
                )
                emit(json, {"polls": run.results}, lambda _: None)
            else:
                report = take()
                emit(json, report.as_json(), lambda console: _show(console, report))
                _fail_for_unread(report)

    return command


def _streamed(declared: Source, reader: Streamed) -> Callable[..., None]:
    def command(
        source: PublishAs = declared.name,
        json: Json = False,
    ) -> None:
        with failures(json):
            from bus.ingest.streaming import stream

            run = _Run.of(declared, source, None, True, json)
            run.prepare_to_watch()
            stderr.print("following the source; press Ctrl-C to stop", markup=False)
            report = stream(run.settings, source, partial(reader.follow, run.own), run.stopping)
            result = {
                "source": report.source,
                "records": dict(report.records),
                "quarantined": report.quarantined,
            }
            emit(json, result, lambda console: console.print_json(data=result))

    return command


@dataclass(slots=True)
class _Run:
    """One run of a source's command.

    own:        the source's own settings.
    publish_as: the name under which the source publishes.
    results:    with `--watch`, the result of each extract or poll.
    """

    source: Source
    settings: "Settings"
    own: Any
    publish_as: str
    share: float | None
    allow: bool
    quiet: bool
    stopping: Event = field(default_factory=Event)
    results: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(
        cls, source: Source, publish_as: str, share: float | None, allow: bool, quiet: bool
    ) -> "_Run":
        """Load the settings and configure logs."""
        from bus import plugins
        from bus.observe import telemetry

        loaded = settings_of_reached()
        telemetry.configure(loaded.telemetry)
        own = plugins.source_settings(source, loaded)
        return cls(source, loaded, own, publish_as, share, allow, quiet)

    def take(self, read: Callable[[Staging], None]) -> "Report":
        """Publish the changes of one extract or poll."""
        from bus.ingest import pipeline

        return pipeline.produce(
            self.settings,
            self.publish_as,
            read,
            mass_withdrawal_share=self.share,
            allow_mass_withdrawal=self.allow,
            polled=isinstance(self.source.reader, Polled),
            progress=lambda step: stderr.print(f"{step} …", markup=False),
            rules=self.source.rules,
        )

    def rehearse(self, read: Callable[[Staging], None], most: int) -> None:
        """Print what one extract or poll would change; see `bus.ingest.pipeline.dry_run`."""
        from bus.ingest import pipeline

        # On SIGTERM, remove the working files as on Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        found = pipeline.dry_run(
            self.settings,
            self.publish_as,
            read,
            mass_withdrawal_share=self.share,
            allow_mass_withdrawal=self.allow,
            polled=isinstance(self.source.reader, Polled),
            progress=lambda step: stderr.print(f"{step} …", markup=False),
            rules=self.source.rules,
            most=most,
        )
        emit(self.quiet, found.as_json(), lambda console: _show_dry_run(console, found))

    def yes(self, folder: Path, name: str) -> str:
        """Return the command that allows an extract which the guard stopped."""
        declared = self.source.name
        named = [] if self.publish_as == declared else ["--source", self.publish_as]
        path = str(folder.absolute())
        return shlex.join(["bus", "produce", declared, path, *named, "--allow", name])

    def prepare_to_watch(self) -> None:
        """Fail now if the bus is not ready, and end cleanly on SIGTERM and Ctrl-C."""
        from bus.registry import subjects

        subjects.lookup(self.settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())

    def take_and_report(self, take: "Callable[[Any], Report]", extract: Path | None) -> None:
        """Publish one extract or poll, and keep the result."""
        from bus.errors import BusError, RetryLater, Stop
        from bus.kafka.cloudevents import now
        from bus.registry import subjects

        name = {"extract": extract.name} if extract else {"at": now()}
        try:
            report = take(extract)
        except Stop as reason:
            try:
                subjects.lookup(self.settings)
            except BusError as fault:
                # The bus is at fault, not the extract: keep it until the bus is ready.
                raise RetryLater(str(fault)) from None
            self.results.append({**name, "error": str(reason)})
            raise
        self.results.append({**name, **report.as_json()})
        if not self.quiet:
            stdout.print(
                f"{next(iter(name.values()))}: {report.published:,} events, "
                f"{len(report.faults):,} faults",
                markup=False,
            )


def _check_allow(allow: str, other: bool) -> None:
    from bus.errors import Stop

    if allow and other:
        raise Stop("--allow publishes one waiting extract; leave out --watch and --dry-run")


def _check_dry_run(dry_run: bool, differences: int, watch: bool) -> None:
    from bus.errors import Stop

    if dry_run and watch:
        raise Stop("a dry run reads one extract; leave out --watch or --dry-run")
    if differences and not dry_run:
        raise Stop("--differences works only in a dry run; add --dry-run")


def _show_dry_run(console: Console, found: "ExtractDryRun") -> None:
    """Print what a run would do."""
    from bus.ingest.fault_group import grouped

    report = found.report
    console.print("dry run: nothing was published; this is what would be", markup=False)
    _show_counts(console, report)
    for one in found.differences:
        fields = ", ".join(f"{name} {was} → {now}" for name, (was, now) in one.fields.items())
        line = f"{one.change} {one.kind} {one.id}" + (f": {fields}" if fields else "")
        console.print(line, markup=False)
    print_groups(console, grouped((report.source, fault) for fault in report.faults))
    if report.faults:
        console.print(f"{report.faulty:,} faults would be in quarantine")
    if found.guard:
        console.print(f"the guard would stop it: {found.guard}", markup=False)
    else:
        console.print(f"{report.published:,} events would be published")


def _show(console: Console, report: "Report") -> None:
    """Print the result of an extract."""
    from bus.ingest.fault_group import grouped

    _show_counts(console, report)
    groups = grouped((report.source, fault) for fault in report.faults)
    print_groups(console, groups[:SHOWN])
    if report.faults:
        console.print(f"{report.faulty:,} faults in all: see bus quarantine list")


def _show_counts(console: Console, report: "Report") -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column(report.source)
    for change in CHANGES:
        table.add_column(change, justify="right")
    for kind, counts in report.records.items():
        table.add_row(
            kind, *(f"{counts[change]:,}" if counts[change] else "·" for change in CHANGES)
        )
    console.print(table)
    for kind, reason in report.put_off.items():
        console.print(f"not withdrawn: {kind}: {reason}", markup=False)
