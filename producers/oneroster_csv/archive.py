"""Turns an extract, which arrives as a zip or a folder, into plain CSV files.

By the OneRoster 1.1 and 1.2 CSV Binding, all CSV files lie at the top of one zip. One folder inside
the zip is accepted as well, because zipping a folder by hand creates one. Input from outside is not
trusted. The whole extract is refused if a name leads out of the zip, or if the zip has links, is a
zip bomb or is damaged. Reading only a part of it would look like a withdrawal of the rest.
"""

from __future__ import annotations

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from bus.errors import Stop

MOST_BYTES = 20 * 1024**3
"""Maximum number of bytes that a zip may unpack to."""
MOST_FILES = 1_000
"""Maximum number of files in an extract."""
MOST_RATIO = 200
"""Maximum ratio of unpacked to packed bytes."""
RATIO_COUNTS_FROM = 100 * 1024**2
"""The ratio is checked from this many unpacked bytes on. A small file of zeros may shrink more than
200-fold, but a bomb is large.
"""

LONGEST_NAME = 100
"""Characters in a file's name. Longer names are replaced; no OneRoster file has one."""

CHUNK = 1024**2
"""Bytes that are unpacked at a time."""

DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
)
"""What `zipfile` raises for a zip that is truncated, damaged or made in a way that it does not
support.
"""


def files(path: Path, folder: Path) -> list[Path]:
    """Return the CSV files of an extract, which are all in one folder.

    path:   a zip, or a folder with the CSV files. The files of a folder are read in place.
    folder: where a zip is unpacked. Only the owner can read the unpacked files.

    Raises `Stop` when the extract must not or cannot be read.
    """
    if not path.exists():
        raise Stop(f"{path} does not exist; name a zip or a folder with the files of the extract")
    if path.is_dir():
        found = _in_folder(path)
    elif path.suffix.lower() == ".csv" and not zipfile.is_zipfile(path):
        raise Stop(
            f"{path} is a single CSV file; name the zip or the folder with all CSV files of the "
            "extract"
        )
    elif path.is_file():
        found = _unpacked(path, folder)
    else:
        raise Stop(
            f"{path} is neither a zip nor a folder; name a zip or a folder with the files of the "
            "extract"
        )
    if not found:
        raise Stop(
            f"{path} contains no CSV file; name a zip or a folder with a OneRoster CSV extract"
        )
    if len({file.parent for file in found}) > 1:
        raise Stop(
            f"{path} contains CSV files in more than one folder; make a zip for each extract"
        )
    return sorted(found)


def _wanted(name: PurePosixPath) -> bool:
    """Return whether a name is that of a CSV file, and not of one that macOS adds."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() == ".csv" and not hidden


def _in_folder(path: Path) -> list[Path]:
    found = []
    for file in path.rglob("*"):
        if not _wanted(PurePosixPath(file.relative_to(path).as_posix())):
            continue
        if file.is_symlink() or not file.is_file():
            raise Stop(
                f"{path} contains a link or something else that is not a file; "
                "replace it with a file"
            )
        found.append(file)
        if len(found) > MOST_FILES:
            raise _too_many(path)
    return found


def _unpacked(path: Path, folder: Path) -> list[Path]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_FILES:
                raise _too_many(path)
            _refuse_unsafe(path, entries)
            return _extract(path, archive, entries, folder)
    except DAMAGE as error:
        raise _damaged(path) from error
    except OSError as error:
        if error.errno is None:  # an error of bz2
            raise _damaged(path) from error
        raise Stop(f"{path} could not be unpacked: {os.strerror(error.errno)}") from error


def _refuse_unsafe(path: Path, entries: Iterable[zipfile.ZipInfo]) -> None:
    seen = set()
    for number, entry in enumerate(entries, 1):
        name, place = _name(entry), f"entry {number} of {path}"
        # The original name in the zip: ZipInfo truncates `filename` at a NUL.
        windows = PureWindowsPath(entry.orig_filename)
        if name.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
            raise Stop(f"{place} has a name that leads out of the zip; do not trust its origin")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise Stop(f"{place} is a link; zip the files themselves")
        if not _wanted(name) or entry.is_dir():
            continue
        if entry.flag_bits & 0x1:
            raise Stop(f"{place} is encrypted; create the zip without a password")
        if str(name).lower() in seen:
            raise Stop(f"{place} has the same name as an earlier entry; add each file once")
        seen.add(str(name).lower())


def _name(entry: zipfile.ZipInfo) -> PurePosixPath:
    """Return the name of an entry with slashes; some Windows programs write backslashes."""
    return PurePosixPath(entry.filename.replace("\\", "/"))


def _extract(
    path: Path, archive: zipfile.ZipFile, entries: Iterable[zipfile.ZipInfo], folder: Path
) -> list[Path]:
    """Unpack the CSV files.

    The unpacked bytes are counted here, because the sizes in the zip's headers can be false.
    """
    packed = path.stat().st_size
    written = 0
    found = []
    for number, entry in enumerate(entries, 1):
        name = _name(entry)
        # In this order, because is_dir fails for an empty name.
        if not _wanted(name) or entry.is_dir():
            continue
        # Files of different folders stay in different folders, so that `files` can report them.
        target = folder / "unpacked" / _place(name.parent) / name.name
        if len(name.name) > LONGEST_NAME:
            target = target.with_name(f"{number}.csv")
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.touch(mode=0o600, exist_ok=False)
        with archive.open(entry) as source, target.open("wb") as file:
            while chunk := source.read(CHUNK):
                written += len(chunk)
                if written > MOST_BYTES or (
                    written > RATIO_COUNTS_FROM and written > MOST_RATIO * packed
                ):
                    raise Stop(
                        f"{path} unpacks to far more data than an extract has (a zip bomb); "
                        "nothing was read. Check where it comes from"
                    )
                file.write(chunk)
        found.append(target)
    return found


def _place(parent: PurePosixPath) -> str:
    """Return a safe folder name for the files of one folder in a zip."""
    return f"{zlib.crc32(str(parent).encode('utf-8', 'surrogatepass')):08x}"


def _too_many(path: Path) -> Stop:
    return Stop(
        f"{path} contains more than {MOST_FILES:,} files; put only the files of the extract into it"
    )


def _damaged(path: Path) -> Stop:
    return Stop(
        f"{path} is truncated or damaged (it is not a complete zip file); nothing was read. "
        "Copy it or create it again"
    )
