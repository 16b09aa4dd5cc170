"""From what arrived, a zip or a folder, to the extract's files as plain files.

OneRoster 1.1 and 1.2 CSV Binding: the CSV files lie together in one zip. That they lie in one
folder inside it, as a person's own zipping makes, is accepted. What comes from outside is not
trusted: names that climb out, links, bombs and damage refuse the whole extract, because a part of
an extract would look like the withdrawal of the rest.
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
MOST_FILES = 1_000
MOST_RATIO = 200
RATIO_COUNTS_FROM = 100 * 1024**2
"""A small file of zeros may well shrink more than 200-fold; a bomb is large."""

LONGEST_NAME = 100
"""Characters; longer names than any file of OneRoster has are not kept."""

CHUNK = 1024**2

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
"""What `zipfile` raises for a zip that is cut short, damaged or made in a way it does not know."""


def files(path: Path, folder: Path) -> list[Path]:
    """The CSV files of an extract, all in one folder.

    path:   a zip, or a folder with the CSV files, which are then read where they lie.
    folder: where a zip is unpacked to; the files are readable by their owner only.

    Raises `Stop` when the extract must not or cannot be read.
    """
    if not path.exists():
        raise Stop(f"{path} is not there; name a zip or a folder with the files of the extract")
    if path.is_dir():
        found = _in_folder(path)
    elif path.suffix.lower() == ".csv" and not zipfile.is_zipfile(path):
        raise Stop(
            f"{path} is a single CSV file; name the zip, or the folder, with all CSV files of the "
            "extract"
        )
    elif path.is_file():
        found = _unpacked(path, folder)
    else:
        raise Stop(f"{path} is neither; name a zip or a folder with the files of the extract")
    if not found:
        raise Stop(f"{path} holds no CSV file; name a zip or a folder of a OneRoster CSV extract")
    if len({file.parent for file in found}) > 1:
        raise Stop(f"{path} holds CSV files in more than one folder; put one extract in each zip")
    return sorted(found)


def _wanted(name: PurePosixPath) -> bool:
    """Whether a name is a CSV file's, and not what macOS puts beside it."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() == ".csv" and not hidden


def _in_folder(path: Path) -> list[Path]:
    found = []
    for file in path.rglob("*"):
        if not _wanted(PurePosixPath(file.relative_to(path).as_posix())):
            continue
        if file.is_symlink() or not file.is_file():
            raise Stop(f"{path} holds a link or something else that is no file; put files in it")
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
        if error.errno is None:  # bz2's own errors
            raise _damaged(path) from error
        raise Stop(f"{path} could not be unpacked: {os.strerror(error.errno)}") from error


def _refuse_unsafe(path: Path, entries: Iterable[zipfile.ZipInfo]) -> None:
    seen = set()
    for number, entry in enumerate(entries, 1):
        name, place = _name(entry), f"entry {number} of {path}"
        # The name as it stands in the zip: ZipInfo cuts its own at a NUL.
        windows = PureWindowsPath(entry.orig_filename)
        if name.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
            raise Stop(f"{place} has a name that leads out of the zip; do not trust who made it")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise Stop(f"{place} is a link; zip the files themselves")
        if not _wanted(name) or entry.is_dir():
            continue
        if entry.flag_bits & 0x1:
            raise Stop(f"{place} is encrypted; make the zip without a password")
        if str(name).lower() in seen:
            raise Stop(f"{place} has the name of an earlier entry; zip each file once")
        seen.add(str(name).lower())


def _name(entry: zipfile.ZipInfo) -> PurePosixPath:
    """An entry's name; some makers of zips for Windows write backslashes."""
    return PurePosixPath(entry.filename.replace("\\", "/"))


def _extract(
    path: Path, archive: zipfile.ZipFile, entries: Iterable[zipfile.ZipInfo], folder: Path
) -> list[Path]:
    """Unpack the CSV files; what they measure is counted here, not taken from the headers."""
    packed = path.stat().st_size
    written = 0
    found = []
    for number, entry in enumerate(entries, 1):
        name = _name(entry)
        if not _wanted(name) or entry.is_dir():  # in this order: is_dir fails at an empty name
            continue
        # Files of different folders stay apart, for `files` to tell.
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
                        f"{path} unpacks to far more than an extract holds (a zip bomb); "
                        "nothing of it was read"
                    )
                file.write(chunk)
        found.append(target)
    return found


def _place(parent: PurePosixPath) -> str:
    """A folder's name for what lies in one folder of a zip, whatever it is called there."""
    return f"{zlib.crc32(str(parent).encode('utf-8', 'surrogatepass')):08x}"


def _too_many(path: Path) -> Stop:
    return Stop(f"{path} holds more than {MOST_FILES:,} files; put only the extract's files in it")


def _damaged(path: Path) -> Stop:
    return Stop(
        f"{path} is cut short or damaged (it is no whole zip file); nothing of it was read. "
        "Copy or make it again"
    )
