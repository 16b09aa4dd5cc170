"""Files that only their owner can read: passwords, keys, certificates, crosswalks."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from bus.errors import Stop


def write(file: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises OSError.

    After a power failure at any moment, the file has either the earlier content or the new one.
    """
    part = written_beside(file, content)
    try:
        part.replace(file)
    except BaseException:
        part.unlink()
        raise
    with suppress(OSError):  # some file systems do not sync folders
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def written_beside(file: Path, content: bytes) -> Path:
    """Write a new file in the folder of this one; return it. Its content is on disk.

    Only its owner can read it. Its name begins with a dot. Raises OSError, and then leaves no file.
    """
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        part.unlink()
        raise
    return part


def check_folder(folder: Path) -> None:
    """Raise `Stop` if other users of this machine can read a folder, or if it does not exist."""
    try:
        open_to = folder.stat().st_mode & 0o077
    except OSError as error:
        raise Stop(
            f"the folder {folder} cannot be used ({error.strerror}): make it first"
        ) from None
    if open_to and os.name == "posix":
        raise Stop(
            f"{folder} is open to other users of this machine: run `chmod 700 {folder}`, or name "
            "another folder"
        )
