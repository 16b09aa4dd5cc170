"""What deliveries into folders share: private files, durable writes, and the errors of the disk.

An error of the disk becomes `RetryLater` if it may pass (a full disk). It becomes `Stop` if a
person must act (no such folder, no permission).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import Timeout

from bus.errors import RetryLater, Stop

WRONG_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EEXIST)


@contextmanager
def explained(out: Path) -> Iterator[None]:
    """Turn an OSError about this folder into `Stop` or `RetryLater`.

    A lock's `Timeout` is an OSError too, but passes through unchanged.
    """
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        said = f"the folder {out} cannot be written to: {os.strerror(error.errno or 0)}"
        if error.errno in WRONG_PLACE:
            raise Stop(
                f"{said}; name another folder (--out DIR) or correct its permissions"
            ) from error
        raise RetryLater(f"{said}; trying again") from error


@contextmanager
def private(path: Path) -> Iterator[BinaryIO]:
    """Open a new file with mode 0600 that is written to the disk when the block ends.

    The file's name is durable only after `sync` of its folder.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, for the mode
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Write the names of the files in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
