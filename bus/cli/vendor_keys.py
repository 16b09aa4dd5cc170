"""The commands of `bus vendors` that replace the master key or the key of a vendor's ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bus.cli.agreement_name import AgreementName
from bus.cli.cluster import settings_of_reached
from bus.cli.output import Json, emit, failures


def register(app: typer.Typer) -> None:
    """Add the commands to `bus vendors`."""
    app.command("rotate-master-key")(rotate_master_key)
    app.command("rekey")(rekey)


def rotate_master_key(
    new_key_file: Annotated[
        Path | None,
        typer.Option(
            help="A new file for the new key, if Schoolbus may not write the file of the present "
            "key. Mount it when the command says so, and run the command again."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Replace the master key, which wraps the keys of all agreements. No id changes.

    After an interruption, run the same command again to complete the rotation.
    """
    with failures(json):
        from bus.vendors import key_rotation

        done = key_rotation.rotate(settings_of_reached(), new_key_file)
        file = done.file.absolute()

        def show(console: Console) -> None:
            if not done.finished:
                text = (
                    f"{file} has the new key and the earlier key. Mount it in place of the master "
                    "key for every program of Schoolbus, restart the programs, and run the same "
                    "command again. No key was wrapped again yet."
                )
            elif done.mount:
                text = (
                    f"{done.rewrapped:,} agreements have keys wrapped by the new master key. Mount "
                    f"{file} once more: it has the new key alone. Put it into the backup."
                )
            else:
                text = (
                    f"{done.rewrapped:,} agreements have keys wrapped by the new master key. Now "
                    f"{file} has only the new key. Put it into the backup."
                )
            console.print(text, markup=False)

        result = {
            "file": str(file),
            "rewrapped": done.rewrapped,
            "finished": done.finished,
            "mount": done.mount,
        }
        emit(json, result, show)


def rekey(
    name: AgreementName,
    crosswalk: Annotated[
        Path,
        typer.Option(
            help="The file to write for the vendor, with each old id and the new id. Nobody else "
            "may have access to its folder."
        ),
    ],
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Write the crosswalk of the last rekey again, and change no id."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> None:
    """Give a vendor new ids for all its records, and write the crosswalk from the old ones.

    After an interruption, run the same command again. It continues with the same ids.
    """
    with failures(json):
        from datetime import UTC, datetime

        from bus.vendors import applied, revocation
        from bus.vendors import rekey as rekeying
        from bus.vendors.disclosures import DisclosureWriter

        loaded = settings_of_reached()
        one = revocation.find(applied.read(loaded), name)
        if again:
            done = rekeying.repeat(loaded, name, crosswalk)
        else:
            if not (yes or one.next_key or crosswalk.exists()):
                typer.confirm(
                    f"Change all ids of {name}? {one.agreement.vendor} then loses what it keeps "
                    "under the old ones, unless it uses the crosswalk.",
                    abort=True,
                    err=True,
                )
            with DisclosureWriter(loaded) as record:
                done = rekeying.rekey(loaded, name, crosswalk, datetime.now(UTC), record)
        file = crosswalk.absolute()

        def show(console: Console) -> None:
            console.print(
                f"{', '.join(done.agreements)}: {file} has {done.rows:,} ids. `bus vendors run` "
                "now writes the topics with the new ids. Send the file to the vendor over a secure "
                "channel, and then delete it.",
                markup=False,
            )

        result = {
            "name": name,
            "agreements": done.agreements,
            "crosswalk": str(file),
            "ids": done.rows,
            "times": done.times,
        }
        emit(json, result, show)
