"""The master key, which wraps the keys of all agreements.

It is a file of 64 hexadecimal digits that only its owner can read: `BUS_HOME/vendors/master.key`,
or the file that `[vendors] master_key_file` names. `bus vendors apply` makes it once. Without it,
the bus can neither make a pseudonym nor find its real id. So keep a copy in the district's backup,
but not in the same place as the backup of Kafka.

During a rotation of the master key (`bus.vendors.key_rotation`), the file has one more line, the
earlier key. The key in the first line wraps all new keys. Each master key in the file opens the
keys that it has wrapped.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bus.errors import Stop
from bus.local import private_file
from bus.settings import Settings

KEY_BYTES = 32


def path(settings: Settings) -> Path:
    """Return the file of the master key."""
    named = settings.vendors.master_key_file
    return Path(named) if named else settings.home / "vendors" / "master.key"


def read(settings: Settings) -> tuple[bytes, ...]:
    """Return the master keys, 32 bytes each: first the one that wraps, then an earlier one.

    Raises `Stop` if the file is missing, has no keys, or can be read by other users.
    """
    return read_file(path(settings))


def read_file(file: Path) -> tuple[bytes, ...]:
    """Return the master keys of a file; see `read`."""
    try:
        shared = file.stat().st_mode & 0o077
        lines = file.read_text("ascii").split()
    except FileNotFoundError:
        raise Stop(
            f"the master key {file} is missing: restore it from the backup, or set [vendors] "
            "master_key_file to the file that has it. Without it, the vendors' ids are lost"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(f"the master key {file} cannot be read ({type(error).__name__})") from None
    if shared and os.name == "posix":
        raise Stop(f"other users can read the master key {file}: run `chmod 600 {file}`")
    try:
        keys = tuple(bytes.fromhex(line) for line in lines)
    except ValueError:
        keys = ()
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise Stop(f"{file} is not a master key of 64 hexadecimal digits; restore it")
    return keys


def replace_file(file: Path, keys: Sequence[bytes]) -> None:
    """Write master keys into a file that only its owner can read, whole or not at all.

    After a power failure at any moment, the file has either the earlier or the new content.
    Raises OSError.

    keys: the master keys, first the one that wraps.
    """
    file = file.resolve()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private_file.write(file, "".join(f"{key.hex()}\n" for key in keys).encode())


def new_key() -> bytes:
    """Return a new master key."""
    return secrets.token_bytes(KEY_BYTES)


def read_or_make(settings: Settings, *, needed: bool) -> tuple[bytes, ...]:
    """Return the master keys, and make one if there is none yet; see `read`.

    needed: whether wrapped keys exist already. Then a missing master key is an error, because a new
            one would not open them.
    """
    file = path(settings)
    if needed or file.exists():
        return read(settings)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = private_file.written_beside(file, f"{new_key().hex()}\n".encode())
    try:
        with suppress(FileExistsError):  # another process has just made it
            os.link(part, file)
    finally:
        part.unlink()
    return read(settings)
