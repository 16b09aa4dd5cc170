"""`bus up`, `bus down`, `bus status`, `bus doctor`: run the embedded bus, and check a bus."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bus.cli.cluster import settings_of_reached
from bus.cli.output import Json, emit, failures, stderr


def up(
    timeout: Annotated[
        float,
        typer.Option(
            min=1, help="How many seconds to wait until both Kafka and the registry answer."
        ),
    ] = 120.0,
    secure: Annotated[
        bool,
        typer.Option(
            "--secure",
            help="Use TLS, passwords and access rules on every port. BUS_HOME then stays secure.",
        ),
    ] = False,
    advertise: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A host name or an IPv4 address at which vendors reach this machine. Vendors "
            "connect to the first one; the certificate has all of them. BUS_HOME keeps them. Only "
            "for a secure bus.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Start Kafka and the schema registry on this machine. Their data is in BUS_HOME."""
    with failures(json):
        from bus import local, settings
        from bus.errors import Stop

        named = settings.load()
        if not named.embedded:
            raise Stop(
                f"bus.toml or the environment names a cluster ({named.kafka.bootstrap}), and "
                "`bus up` starts only the embedded bus; remove [kafka] bootstrap to use that"
            )
        found = local.up(
            named.home,
            say=_say,
            ready_seconds=timeout,
            secure=secure,
            advertise=advertise or (),
        )

    def text(out: Console) -> None:
        out.print(f"Kafka     {found.bootstrap}")
        if found.secure:
            out.print(f"vendors   {found.vendors}")
        out.print(f"registry  {found.registry}")
        out.print(f"home      {escape(str(named.home.absolute()))}")
        out.print("Next: `bus schemas apply` registers the standard's schemas.")

    result = {
        "home": named.home.absolute(),
        **asdict(found),
        "vendors": found.vendors or None,
        "ca": local.credentials(named.home).ca_file if found.secure else None,
    }
    emit(json, result, text)


def down(json: Json = False) -> None:
    """Stop Kafka and the schema registry of BUS_HOME. Their data is kept.

    Reads only BUS_HOME, so it also works while other settings are wrong.
    """
    with failures(json):
        from bus import local, settings

        home = settings.load_home().absolute()
        stopped = local.down(home)

    def text(out: Console) -> None:
        if stopped:
            out.print(f"stopped {' and '.join(stopped)}; the data stays in {escape(str(home))}")
        else:
            out.print(f"nothing was running in {escape(str(home))}")

    emit(json, {"home": home, "stopped": stopped}, text)


def status(json: Json = False) -> None:
    """Show the addresses of the bus, its topics, and the lag of each consumer."""
    with failures(json):
        from bus import local
        from bus.kafka.overview import Overview, overview

        named = settings_of_reached()
        state = local.status(named.home) if named.embedded else None
        if state is None:
            bootstrap, registry = named.kafka.bootstrap, named.registry.url
        else:
            bootstrap = state.endpoints.bootstrap if state.endpoints else ""
            registry = state.endpoints.registry if state.endpoints else ""
            registry = named.registry.url or registry
        found = overview(named) if bootstrap else Overview({}, {})

    result: dict[str, Any] = {
        "bootstrap": bootstrap or None,
        "registry": registry or None,
        "groups": {group: {"lag": lag} for group, lag in found.lag.items()},
        "topics": {name: asdict(topic) for name, topic in found.topics.items()},
        "running": {name: asdict(one) for name, one in state.running.items()} if state else {},
        "dead": list(state.dead) if state else [],
    }

    def text(out: Console) -> None:
        if state is not None:
            for name, one in state.running.items():
                out.print(f"{name:9} {one.version}, process {one.pid}, 127.0.0.1:{one.port}")
            for name in state.dead:
                out.print(f"{name:9} [red]was started and is not running[/]: run `bus up`")
        if not bootstrap:
            out.print(f"the bus in {escape(str(named.home.absolute()))} is not up: run `bus up`")
            return
        out.print(f"Kafka     {escape(bootstrap)}")
        out.print(f"registry  {escape(registry)}")
        out.print(_table("topic", ("partitions", "records"), result["topics"]))
        if not all(topic.exact for topic in found.topics.values()):
            out.print("≤: the offsets of a long topic, which are at least as many as its records")
        out.print(_table("group", ("lag",), result["groups"]))

    emit(json, result, text)
    if not bootstrap:
        raise typer.Exit(1)


def doctor(json: Json = False) -> None:
    """Check everything that the bus needs, and say how to fix what is wrong."""
    with failures(json):
        from bus import plugins, settings
        from bus.errors import Stop
        from bus.observe.doctor import examine, examine_settings

        wrong = [*settings.misspelt_variables(), *plugins.misconfigured(settings.Tables.load())]
        try:
            named = settings.load()
        except Stop as fault:  # without settings there is nothing else to check
            findings = [examine_settings([str(fault), *wrong])]
        else:
            findings = [examine_settings(wrong), *examine(named)]
    ok = all(finding.ok for finding in findings)

    def text(out: Console) -> None:
        for finding in findings:
            mark = "[green]ok[/]   " if finding.ok else "[bold red]wrong[/]"
            out.print(f"{mark} {finding.name}: {escape(finding.says)}")

    emit(json, {"ok": ok, "checks": [asdict(finding) for finding in findings]}, text)
    if not ok:
        raise typer.Exit(1)


def _say(line: str) -> None:
    stderr.print(escape(line))


def _table(head: str, columns: tuple[str, ...], rows: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(head)
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        least = {"records": "" if row.get("exact", True) else "≤ "}
        cells = (f"{least.get(column, '')}{row[column]:,}" for column in columns)
        table.add_row(escape(name), *cells)
    return table
