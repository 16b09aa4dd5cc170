"""The crosswalk of a rekey: which new id each old id of a vendor has become.

It is a CSV file for the vendor (RFC 4180, UTF-8) with the columns `kind`, `oldId` and `newId`. Its
rows are sorted by these columns. With it, somebody can join the vendor's old data with the new
data, so it is as sensitive as the data. Only its owner can read it, and no line of it is logged.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from bus.errors import Stop
from bus.local import private_file
from bus.vendors.pseudonyms import Pseudonyms

COLUMNS = ("kind", "oldId", "newId")

Row = tuple[str, str, str]
"""A kind, an old id and the new id."""


def rows(found: Iterable[tuple[str, str]], old: Pseudonyms, new: Pseudonyms) -> set[Row]:
    """Return the rows for pairs of a kind and an id of a vendor, old or new.

    An id that neither key has made is left out.
    """
    result = set()
    for kind, id_ in found:
        real = old.real(id_)
        if real is None:
            real = new.real(id_)
        if real is not None:
            result.add((kind, old.pseudonym(real), new.pseudonym(real)))
    return result


def belongs(rows_: Iterable[Row], old: Pseudonyms, new: Pseudonyms) -> bool:
    """Return whether these two keys give the old and the new id of each row."""
    for _, was, is_ in rows_:
        real = old.real(was)
        if real is None or new.pseudonym(real) != is_:
            return False
    return True


def read(file: Path) -> set[Row] | None:
    """Return the rows of a crosswalk; None if there is no such file.

    Raises `Stop` if the file is no crosswalk.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            header, *found = [tuple(line) for line in csv.reader(lines)] or [()]
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Stop(f"{file} cannot be read ({type(error).__name__}); name another file") from None
    if header != COLUMNS or any(len(row) != len(COLUMNS) for row in found):
        raise Stop(f"{file} exists and is not a crosswalk; name another file")
    return {(kind, was, is_) for kind, was, is_ in found}


def write(file: Path, rows_: Iterable[Row]) -> None:
    """Write a crosswalk, whole or not at all. The same rows give the same bytes.

    Raises `Stop` if it cannot be written.
    """
    private_file.check_folder(file.absolute().parent)
    content = io.StringIO(newline="")
    csv.writer(content, lineterminator="\r\n").writerows([COLUMNS, *sorted(rows_)])
    try:
        private_file.write(file, content.getvalue().encode())
    except OSError as error:
        raise Stop(f"{file} cannot be written ({error.strerror}); name another file") from None
