"""The source `oneroster-csv`: the nightly OneRoster CSV extract of a student information system."""

from __future__ import annotations

from pathlib import Path

from bus.source import Extracts, NoSettings, Source, Staging
from producers.oneroster_csv.read import RULES, read


def _read(extract: Path, _: NoSettings, staging: Staging) -> None:
    read(extract, staging)


SOURCE = Source(
    name="oneroster-csv",
    help=(
        "Publish the changes in a OneRoster CSV extract (OneRoster 1.0, 1.1 or 1.2).\n\n"
        "Each record that is new, changed or no longer there since the last extract of this source "
        "becomes an event. Reading the same extract again publishes nothing."
    ),
    reader=Extracts(_read, what="A zip or a folder with a OneRoster CSV extract."),
    rules=RULES,
)
