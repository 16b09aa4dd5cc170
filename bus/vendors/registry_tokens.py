"""The tokens with which vendors ask the gate before the registry.

The gate cannot check a vendor's Kafka password, because Kafka stores SCRAM passwords as salted
hashes that it shows to nobody (RFC 5802). So each Kafka user of a vendor has a token beside it.

A token is 256 random bits. `BUS_HOME/vendors/tokens` has one file for each, named by its SHA-256.
The token itself is not stored. The file says whose token it is. The gate looks up the token of each
request, so it refuses a removed token at once.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from bus.errors import Stop
from bus.local import private_file
from bus.settings import Settings

PREFIX = "busv_"
"""Lets scanners find a token that leaked."""


@dataclass(frozen=True, slots=True)
class TokenOwner:
    """Whose a token is.

    ids_name: the name in the vendor's topics.
    user:     the Kafka user that the token belongs to, such as `vendor-math-app-a`.
    """

    ids_name: str
    user: str


def folder(settings: Settings) -> Path:
    """Return the folder of the tokens' hashes."""
    return settings.home / "vendors" / "tokens"


def new_token(settings: Settings, ids_name: str, user: str) -> str:
    """Create a token for a vendor's Kafka user, and return it. Nobody can read it again.

    Earlier tokens of the user stay valid until `remove_tokens`. Raises `Stop` if the folder cannot
    be written.
    """
    token = PREFIX + secrets.token_urlsafe(32)
    where = folder(settings)
    text = json.dumps({"ids_name": ids_name, "user": user}) + "\n"
    try:
        where.mkdir(parents=True, exist_ok=True, mode=0o700)
        private_file.write(where / _hash(token), text.encode())
    except OSError as error:
        raise Stop(f"{where} cannot be written ({error.strerror}); correct its owner") from None
    return token


def remove_tokens(settings: Settings, ids_name: str, user: str | None = None) -> int:
    """Remove the tokens of a vendor, or of one of its users, and return how many there were.

    From then on the gate refuses them. Raises `Stop` if one cannot be removed.
    """
    removed = 0
    try:
        for path in _files(settings):
            owner = _owner(path)
            if owner and owner.ids_name == ids_name and user in (None, owner.user):
                path.unlink(missing_ok=True)
                removed += 1
    except OSError as error:
        raise Stop(
            f"a token in {folder(settings)} cannot be removed ({error.strerror}), so the gate "
            "still accepts it: correct the folder's owner and repeat the command"
        ) from None
    return removed


def owner_of(settings: Settings, token: str) -> TokenOwner | None:
    """Return whose a token is, or None if it is unknown."""
    return _owner(folder(settings) / _hash(token))


def _hash(token: str) -> str:
    return sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _files(settings: Settings) -> Iterator[Path]:
    where = folder(settings)
    if where.is_dir():
        yield from (path for path in where.iterdir() if not path.name.startswith("."))


def _owner(path: Path) -> TokenOwner | None:
    """Return the owner that a file names, or None if the file is missing or not a token's."""
    try:
        found = json.loads(path.read_text("utf-8"))
        return TokenOwner(str(found["ids_name"]), str(found["user"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
