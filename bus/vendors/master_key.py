"""The master key, which wraps the keys of all agreements.

It is a file of 64 hexadecimal digits that only its owner can read: `BUS_HOME/vendors/master.key`,
or the file that `[vendors] master_key_file` names. `bus vendors apply` makes it once. Without it,
no pseudonym can be made or mapped back, so it belongs in the district's backup, apart from Kafka's.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from bus.errors import Stop
from bus.settings import Settings

KEY_BYTES = 32


def path(settings: Settings) -> Path:
    """Return the file of the master key."""
    named = settings.vendors.master_key_file
    return Path(named) if named else settings.home / "vendors" / "master.key"


def read(settings: Settings) -> bytes:
    """Return the master key, 32 bytes.

    Raises `Stop` if the file is missing, is not a key, or can be read by other users.
    """
    file = path(settings)
    try:
        shared = file.stat().st_mode & 0o077
        text = file.read_text("ascii").strip()
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
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise Stop(f"{file} is not a master key of 64 hexadecimal digits; restore it")
    return key


def read_or_make(settings: Settings, *, needed: bool) -> bytes:
    """Return the master key, and make it if there is none yet.

    needed: whether keys exist that this key wraps. Then a missing key is an error: a new one would
            not open them.
    """
    file = path(settings)
    if needed or file.exists():
        return read(settings)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as out:
            out.write(secrets.token_hex(KEY_BYTES) + "\n")
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):  # another process has just made it
            os.link(part, file)
    finally:
        part.unlink()
    return read(settings)
