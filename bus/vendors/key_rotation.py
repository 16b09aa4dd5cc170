"""Replaces the master key, which wraps the keys of all agreements.

No id changes, and no vendor notices it. Running programs continue, because at each moment the file
has a master key for every wrapped key in `PREFIX.vendors`. The steps are:

1. Write a new key into the file, before the present one.
2. Wrap the keys of all agreements with the new key, and store them.
3. Remove the earlier key from the file.

After a kill in between, the file has two keys. The next run completes the rotation with them.

If the file is mounted as a secret, Schoolbus may not write it. A person then replaces it twice,
before and after step 2. The command writes the new content into a separate file each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bus.errors import RetryLater, Stop
from bus.settings import Settings
from bus.vendors import applied as store
from bus.vendors import master_key
from bus.vendors.applied import Applied
from bus.vendors.pseudonyms import WrongMasterKey, unwrapped, wrapped

ATTEMPTS = 5
"""How many times the agreements are stored again when other commands write them as well."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did.

    file:      the file with the master key.
    rewrapped: the number of agreements whose keys were wrapped again.
    finished:  whether the new key alone opens all keys. If not, no key was wrapped again yet.
    mount:     whether a person must mount `file` now.
    """

    file: Path
    rewrapped: int
    finished: bool
    mount: bool


def rotate(settings: Settings, new_key_file: Path | None = None) -> Rotation:
    """Replace the master key, or complete a rotation that was interrupted.

    new_key_file: the file for the new key, if Schoolbus may not write the present file. The first
                  call makes it. The second call, after a person has mounted it, wraps all keys.

    Raises `Stop` if a key is missing, does not open the keys of all agreements, or cannot be
    written. Raises `RetryLater` if Kafka does not answer.
    """
    keys = master_key.read(settings)
    for one in store.read(settings).values():
        _rewrapped(one, keys)  # so that an error comes before anything changes
    if new_key_file is None:
        return _in_place(settings, keys)
    return _mounted(settings, keys, new_key_file)


def keep_up(settings: Settings, keys: Sequence[bytes]) -> None:
    """Wrap the keys of all agreements again if somebody has rotated the master key meanwhile.

    keys: the master keys with which they were stored.
    """
    now = master_key.read(settings)
    if now[0] != keys[0]:
        _rewrap(settings, (*now, *keys))


def _in_place(settings: Settings, keys: Sequence[bytes]) -> Rotation:
    file = master_key.path(settings)
    if len(keys) == 1:
        keys = (master_key.new_key(), *keys)
        _write(file, keys, "if it is mounted as a secret, give --new-key-file FILE")
    number = _rewrap(settings, keys)
    _write(file, keys[:1], "run the same command again to complete the rotation")
    return Rotation(file, number, finished=True, mount=False)


def _mounted(settings: Settings, keys: Sequence[bytes], file: Path) -> Rotation:
    new = master_key.read_file(file) if file.exists() else (master_key.new_key(),)
    if new[0] in keys[1:]:
        raise Stop(f"{file} has an earlier master key; name a file that does not exist yet")
    if new[0] != keys[0]:
        _write(file, (new[0], *keys), "name another one")
        return Rotation(file, 0, finished=False, mount=True)
    number = _rewrap(settings, keys)
    again = len(keys) > 1
    if len(new) > 1:
        _write(file, new[:1], "run the same command again to complete the rotation")
    return Rotation(file, number, finished=True, mount=again)


def _write(file: Path, keys: Sequence[bytes], what_to_do: str) -> None:
    try:
        master_key.replace_file(file, keys)
    except OSError as error:
        raise Stop(f"{file} cannot be written ({error.strerror}): {what_to_do}") from None


def _rewrap(settings: Settings, keys: Sequence[bytes]) -> int:
    """Wrap the keys of all agreements with the first master key.

    Returns the number of agreements whose keys it wrapped, once the first master key alone opens
    every key that Kafka has.
    """
    done: set[str] = set()
    for _ in range(ATTEMPTS):
        left = [one for one in store.read(settings).values() if not _opens(one, keys[:1])]
        if not left:
            return len(done)
        try:
            store.write(settings, *(_rewrapped(one, keys) for one in left))
        except store.StaysOver:  # revoked since it was read: read it again, and wrap that
            continue
        done |= {one.name for one in left}
    raise RetryLater(
        "other commands wrote the agreements at the same time, again and again; the earlier master "
        "key is kept; run the same command again to complete the rotation"
    )


def _rewrapped(one: Applied, keys: Sequence[bytes]) -> Applied:
    """Return an agreement whose keys the first master key has wrapped."""
    present, earlier, coming = (
        wrapped(unwrapped(sealed, keys), keys[0]) if sealed else b"" for sealed in _sealed(one)
    )
    return replace(
        one,
        wrapped_key=present,
        earlier_key=earlier,
        next_key=coming,
        key_version=one.key_version + 1,
    )


def _opens(one: Applied, keys: Sequence[bytes]) -> bool:
    try:
        for sealed in _sealed(one):
            if sealed:
                unwrapped(sealed, keys)
    except WrongMasterKey:
        return False
    return True


def _sealed(one: Applied) -> tuple[bytes, bytes, bytes]:
    """Return all wrapped keys of an agreement. A missing or deleted key is empty."""
    return one.wrapped_key, one.earlier_key, one.next_key
