"""Keeps, in the home, the address at which the gate last started."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from bus.errors import Stop
from bus.settings import Settings


def last_url(settings: Settings) -> str:
    """Return the address at which the gate last started; "" if it never started.

    It is also "" if the gate listens on all interfaces, because no client can use that address.
    """
    url = _read(settings)
    return "" if urlsplit(url).hostname in ("0.0.0.0", "::") else url


def last_port(settings: Settings) -> int:
    """Return the port of `last_url`, or 0."""
    try:
        return urlsplit(_read(settings)).port or 0
    except ValueError:
        return 0


def remember(settings: Settings, url: str) -> None:
    """Keep the address. Raises `Stop` if the home cannot be written."""
    file = _file(settings)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_text(url + "\n", "utf-8")
    except OSError as error:
        raise Stop(f"{file} cannot be written ({error.strerror}); correct its owner") from None


def _read(settings: Settings) -> str:
    try:
        return _file(settings).read_text("utf-8").strip()
    except OSError:
        return ""


def _file(settings: Settings) -> Path:
    return settings.home / "vendors" / "gate.url"
