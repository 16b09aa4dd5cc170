"""What deliveries into folders share: files for their owner alone, on the disk; faults told.

What a disk refuses is `RetryLater` where it may pass (a full disk), `Stop` where a person must act
(no such folder, no permission).
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
    """Turn what the disk says of this folder into the bus's terms; a lock's `Timeout` goes through,
    although it is an OSError."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        said = f"the folder {out} cannot be written to: {os.strerror(error.errno or 0)}"
        if error.errno in WRONG_PLACE:
            raise Stop(f"{said}; name another (--out DIR) or mend its permissions") from error
        raise RetryLater(f"{said}; trying again") from error


@contextmanager
def private(path: Path) -> Iterator[BinaryIO]:
    """A new file (0600); its content is on the disk when the block ends, its name after `sync`."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, for the mode
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """The names of the files in a folder, on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
