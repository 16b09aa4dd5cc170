"""The commands of `bus vendors` that read and check the record of disclosures, or erase from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from bus.cli.cluster import settings_of_reached
from bus.cli.output import Json, emit, failures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bus.vendors.disclosure_chain import Entry
    from bus.vendors.disclosure_questions import Disclosure

SHOWN = 200
Why = Annotated[
    str,
    typer.Option(
        help="Your reason. It is recorded with your name and kept, so do not name a person in it."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `bus vendors`."""
    app.command("disclosures")(disclosures)
    app.command("held")(held)
    app.command("verify")(verify)
    app.command("erase")(erase)


def disclosures(
    student: Annotated[str, typer.Option(help="The student's sourcedId.")] = "",
    vendor: Annotated[str, typer.Option(help="A company, or the name of an agreement.")] = "",
    accesses: Annotated[
        bool,
        typer.Option("--accesses", help="Show who asked this record what, and why."),
    ] = False,
    why: Why = "",
    json: Json = False,
) -> None:
    """Show what was disclosed about a student, or to a vendor. Needs a reason (--why).

    Give --student, --vendor or --accesses. The bus records that you asked, and why.
    """
    with failures(json):
        from bus.errors import Stop

        if bool(student) + bool(vendor) + accesses != 1:
            raise Stop("name one: --student ID, --vendor NAME, or --accesses")
        if student:
            _about_student(student, why, json)
        elif vendor:
            _about_vendor(vendor, why, json)
        else:
            _accesses(json)


def _about_student(student: str, why: str, json: bool) -> None:
    from bus.replay.replay_log import user_at_machine
    from bus.vendors.disclosure_questions import by_student
    from bus.vendors.disclosures import ask

    loaded = settings_of_reached()
    entries, students = ask(loaded, user_at_machine(), why, "student", student=student)
    found = by_student(entries, students, student)

    def show(console: Console) -> None:
        for one in found:
            _show_scope(console, one)
            console.print(f"  {_period(one.from_, one.to)}")
        if not found:
            console.print("The record has no disclosure about this student.")

    emit(json, {"student": student, "disclosures": [one.as_json() for one in found]}, show)


def _about_vendor(vendor: str, why: str, json: bool) -> None:
    from itertools import groupby

    from bus.replay.replay_log import user_at_machine
    from bus.vendors.disclosure_questions import (
        agreements_of,
        by_vendor,
        history_of,
        periods_json,
    )
    from bus.vendors.disclosures import ask

    loaded = settings_of_reached()
    entries, students = ask(loaded, user_at_machine(), why, "vendor", vendor)
    names = _known(agreements_of(entries, vendor), vendor)
    found = by_vendor(entries, students, vendor)
    history = history_of(entries, names)

    def show(console: Console) -> None:
        def scope(one: Disclosure) -> tuple[Any, ...]:
            return one.agreement, one.purpose, one.basis, one.categories, repr(one.fields)

        for _, same in groupby(found, key=scope):
            group = list(same)
            _show_scope(console, group[0])
            last = (
                None
                if any(one.to is None for one in group)
                else max(one.to for one in group if one.to)
            )
            number = len({one.student for one in group if one.student})
            erased = sum(not one.student for one in group)
            console.print(f"  {_period(min(one.from_ for one in group), last)}")
            console.print(f"  {number:,} students (--json lists them){_erased(erased)}")
        for entry in history:
            console.print(escape(_event(entry)))
        if not found:
            console.print(f"Nothing was disclosed under {escape(', '.join(names))}.")

    result = {
        "vendor": vendor,
        "agreements": names,
        "periods": periods_json(found),
        "history": [_without_link(entry) for entry in history],
    }
    emit(json, result, show)


def _accesses(json: bool) -> None:
    from bus.vendors.disclosure_questions import accesses
    from bus.vendors.disclosures import decoded_entries, entries

    found = accesses(decoded_entries(entries(settings_of_reached())))

    def show(console: Console) -> None:
        for entry in found:
            what = entry.get("question", "erased")
            about = entry.get("about") or (f"{entry['count']:,}" if "count" in entry else "")
            line = f"{entry['at'][:19]} UTC  {entry['by']}  {what} {about}  {entry['why']}"
            console.print(escape(line))
        console.print(f"{len(found):,} times")

    emit(json, {"accesses": [_without_link(entry) for entry in found]}, show)


def held(
    name: Annotated[str, typer.Argument(help="The name of the agreement.")],
    at: Annotated[
        str,
        typer.Option(
            help="A time (2026-03-01T07:00:00-06:00; UTC without a zone), or a day in UTC "
            "(2026-03-01). For a day, the answer has all that the vendor held at any moment of it."
        ),
    ] = "",
    why: Why = "",
    json: Json = False,
) -> None:
    """Show what a vendor held at a time, even after the agreement's end. Needs a reason (--why).

    A vendor holds what it has received until it attests that it has deleted it. The bus records
    that you asked, and why.
    """
    with failures(json):
        from bus.replay.replay_log import user_at_machine
        from bus.vendors import disclosure_questions
        from bus.vendors.disclosures import ask

        since, until = _window(at)
        loaded = settings_of_reached()
        entries, students = ask(loaded, user_at_machine(), why, "held", name)
        _known(disclosure_questions.agreements_of(entries, name) & {name}, name)
        found = disclosure_questions.held(entries, students, name, since, until)
        erased = sum(not one.student for one in found)
        counted: dict[str, int] = {}
        for one in found:
            for category in one.categories:
                counted[category] = counted.get(category, 0) + 1

        def show(console: Console) -> None:
            listed = [one for one in found if one.student]
            for one in listed[:SHOWN]:
                what = ", ".join(one.categories) or _fields(one.fields)
                console.print(escape(f"{one.student}  {_period(one.from_, one.to)}  {what}"))
            if len(listed) > SHOWN:
                console.print(f"and {len(listed) - SHOWN:,} more: use --json for all")
            for category, number in counted.items():
                console.print(f"{number:>9,}  {escape(category)}")
            console.print(f"{len(listed):,} students{_erased(erased)}")

        result = {
            "agreement": name,
            "from": since.isoformat(),
            "until": until.isoformat(),
            "students": [one.as_json() for one in found if one.student],
            "erased": erased,
            "categories": counted,
        }
        emit(json, result, show)


def verify(
    head: Annotated[
        Path | None,
        typer.Option(
            help="A file with the head of the record. By default, disclosures.head in the "
            "folder of agreements."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check that no entry of the record of disclosures was changed, removed or added.

    Exits with status 1 if something is wrong.
    """
    with failures(json):
        from dataclasses import asdict

        from bus.errors import Stop
        from bus.vendors import disclosure_chain
        from bus.vendors.disclosures import HEAD_FILE, chain_head, entries, read_head

        settings = settings_of_reached()
        path = head or settings.vendors.agreements / HEAD_FILE
        saved_head = read_head(path)
        if head is not None and saved_head is None:
            raise Stop(f"{head} does not exist; `bus vendors apply` writes the head of the record")
        values = entries(settings)
        problems = disclosure_chain.verify(values, saved_head)
        last = chain_head(values)

        def show(console: Console) -> None:
            for one in problems:
                console.print(f"[bold red]{one.code}[/]  {escape(one.text)}")
            if saved_head is None:
                console.print(
                    f"{escape(str(path))} does not exist. Without it, nothing shows whether the "
                    "end of the record was cut off."
                )
            verdict = f"{len(problems):,} problems" if problems else "The record is whole"
            against = f", compared with entry {saved_head.number:,} of {path}" if saved_head else ""
            console.print(escape(f"{verdict}: {len(values):,} entries{against}"))
            console.print(f"head: {last.number} {last.sha256} {last.at}")

        result = {
            "entries": len(values),
            "head": asdict(last),
            "compared": asdict(saved_head) if saved_head else None,
            "problems": [asdict(one) for one in problems],
        }
        emit(json, result, show)
        if problems:
            raise typer.Exit(1)


def erase(
    student: Annotated[
        list[str], typer.Option(help="The sourcedId of a student to erase; repeatable.")
    ],
    why: Why = "",
    json: Json = False,
) -> None:
    """Erase students from the record of disclosures. Needs a reason (--why).

    After that, nobody can find out which students the entries are about. This cannot be undone. The
    record stays valid. Erase a student only after the district has deleted the student's education
    records. Until then, 34 CFR 99.32 requires the district to keep the record.
    """
    with failures(json):
        from bus.replay.replay_log import user_at_machine
        from bus.vendors.disclosures import DisclosureWriter

        with DisclosureWriter(settings_of_reached()) as writer:
            count = writer.erase(student, user_at_machine(), why)
        emit(
            json,
            {"erased": count, "unknown": len(set(student)) - count},
            lambda console: console.print(
                f"{count:,} students erased from the record; "
                f"{len(set(student)) - count:,} were not in it"
            ),
        )


def _known(names: set[str], vendor: str) -> list[str]:
    from bus.errors import Stop

    if not names:
        raise Stop(
            f"the record of disclosures has no agreement or vendor {vendor!r}; `bus vendors list` "
            "shows the agreements"
        )
    return sorted(names)


def _window(text: str) -> tuple[datetime, datetime]:
    """Return the first and the last moment that `--at` means."""
    from bus.errors import Stop
    from bus.replay.window import moment

    found = moment(text)
    if found is None:
        raise Stop(
            f"--at {text!r} is not a day such as 2026-03-01 or a time such as "
            "2026-03-01T07:00:00-06:00"
        )
    whole_day = len(text) <= len("2026-03-01")
    return found, found + timedelta(days=1, microseconds=-1) if whole_day else found


def _show_scope(console: Console, one: Disclosure) -> None:
    console.print(f"[bold]{escape(one.vendor)}[/]  {escape(one.agreement)}")
    console.print(f"  for {escape(one.purpose)}, on the basis {escape(one.basis)}")
    for category in one.categories:
        console.print(f"  {escape(category)}")
    console.print(f"  fields: {escape(_fields(one.fields))}")


def _fields(fields: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{kind}.{name}" for kind, names in fields.items() for name in names)


def _period(since: datetime, to: datetime | None) -> str:
    """Return a time of disclosure for a person."""
    begin = f"{since.astimezone(UTC):%Y-%m-%d %H:%M}"
    return f"{begin} UTC to {to.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if to else f"since {begin} UTC"


def _erased(number: int) -> str:
    return f", and {number:,} who were erased from the record" if number else ""


def _event(entry: Entry) -> str:
    """Return one line about an entry: new ids, the end or the deletion of an agreement."""
    detail = {
        "rekeyed": ": it receives new ids",
        "revoked": f": {entry.get('why')}",
        "attested": f" the deletion by {entry.get('by')}",
        "deleted": ": "
        + ", ".join(f"{len(names)} {what}" for what, names in entry.get("objects", {}).items()),
    }.get(entry["what"], "")
    return f"{entry['at'][:16].replace('T', ' ')} UTC  {entry['agreement']} {entry['what']}{detail}"


def _without_link(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "previous"}
