"""An endpoint to which events are POSTed: its address, what its answers mean, how it stands.

What an answer means follows Standard Webhooks 1.0.0, "Delivery success and failure":

* 2xx: taken, whatever the body says.
* 410: it wants no more events and is switched off (see `Standing`).
* 408, 409, 425, 429, every 5xx, a time-out, a broken connection, failed TLS: again later, and not
  before what Retry-After asks (RFC 9110, section 10.2.3).
* 3xx (redirects are not followed), 401, 402, 403, 404, 405, 407: something is wrong with the
  endpoint, not with the event: again later as well.
* every other 4xx: this event is refused.

Its address is set by the district's operator, never by the vendor, so a request to the district's
inside (the specification's "Server side request forgery") takes a wrong setting; still, redirects
are not followed, no answer is shown or kept, and HTTPS_PROXY is followed, as the specification
advises a filtering proxy.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import shutil
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2

from bus.errors import Stop

LATER = {408, 409, 425, 429}
ENDPOINT = {401, 402, 403, 404, 405, 407}
LONGEST_WAIT = 3600.0
"""Retry-After is followed up to this many seconds."""
FORGOTTEN = timedelta(days=1)
"""Since when it fails is forgotten when nobody has tried for so long."""

FAILURES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (
            *(httpx2.ConnectTimeout, httpx2.ConnectError, httpx2.ProxyError),
            *(aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError),
            aiohttp.ClientHttpProxyError,
        ),
        "no connection",
    ),
    ((httpx2.TimeoutException, TimeoutError), "no answer in time"),
    (
        (httpx2.NetworkError, httpx2.RemoteProtocolError, aiohttp.ClientError),
        "the connection broke",
    ),
)


class Outcome(NamedTuple):
    """What became of one request; `after` in seconds, as Retry-After says."""

    verdict: Literal["taken", "refused", "later", "gone"]
    why: str
    after: float | None = None


def judge(status: int, retry_after: str | None = None) -> Outcome:
    """What an answer means; see the module's docstring."""
    why = f"status {status}"
    if 200 <= status < 300:
        return Outcome("taken", why)
    if status == 410:
        return Outcome("gone", "it answered 410 Gone")
    if 400 <= status < 500 and status not in LATER | ENDPOINT:
        return Outcome("refused", why)
    return Outcome("later", why, seconds(retry_after))


def seconds(retry_after: str | None) -> float | None:
    """How long Retry-After asks us to wait: seconds, or a date (RFC 9110, section 10.2.3)."""
    if not retry_after:
        return None
    if retry_after.strip().isdecimal():
        wait = float(retry_after)
    else:
        try:
            date = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError):
            return None
        wait = (date.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return min(max(wait, 0.0), LONGEST_WAIT)


def explain(error: BaseException) -> str:
    """What kind of failure it was; nothing of its text, which may hold what was sent."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {cause.reason or 'failed'}"
        cause = cause.__cause__ or cause.__context__
    for kinds, words in FAILURES:
        if isinstance(error, kinds):
            return words
    return type(error).__name__


def address(url: str) -> httpx2.URL:
    """The URL of an endpoint; raises `Stop` when it is missing or would send records in clear."""
    if not url:
        raise Stop("it is not said where events go: set `url` (or give --url https://…)")
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        raise Stop("`url` is not a URL; give one such as https://vendor.example/events") from None
    if not parsed.host or parsed.scheme not in ("http", "https"):
        raise Stop("`url` is not a web address; give one such as https://vendor.example/events")
    if parsed.scheme == "http" and not loopback(parsed.host):
        raise Stop(
            f"{shown(parsed)} would send records unencrypted; give its https:// address "
            "(http:// is for this very machine only)"
        )
    return parsed


def loopback(host: str) -> bool:
    """Whether a host is this very machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def proxy(url: httpx2.URL) -> str | None:
    """The proxy that the environment (HTTPS_PROXY, ALL_PROXY, NO_PROXY) has for a URL."""
    if proxy_bypass(url.host):
        return None
    known = getproxies()
    return known.get(url.scheme) or known.get("all")


def shown(url: httpx2.URL) -> str:
    """A URL as it may be shown: without user, password, query and fragment."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


class Standing:
    """Since when an endpoint fails, and whether it is switched off: one small JSON file.

    No file: it is well. The file is named after a hash of the URL, so that another URL begins
    afresh, and several instances of a consumer on one machine share it. A restart finds an endpoint
    switched off as it was; to switch it on again, delete the file that the error names.
    """

    def __init__(
        self, folder: Path, url: httpx2.URL, patience: timedelta, earlier: Path | None = None
    ) -> None:
        """Raises `Stop` when the endpoint is switched off or the folder cannot be made.

        earlier: a folder in which the file may lie yet; it is moved from there.
        """
        name = hashlib.sha256(str(url).encode()).hexdigest()[:12]
        self.file = folder / f"endpoint-{name}.json"
        self._shown = shown(url)
        self._patience = patience
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Stop(
                f"{folder} cannot be made ({error.strerror}); set `state` to a folder that can"
            ) from None
        if earlier is not None:
            self._move_from(earlier / self.file.name)
        known = self._read()
        if why := known.get("disabled"):
            raise self._stop(str(why))
        self._since = self._kept(known)

    def well(self) -> None:
        """It has just taken an event."""
        self._since = None
        if self.file.exists() and "disabled" not in self._read():
            self.file.unlink(missing_ok=True)

    def ill(self, why: str) -> None:
        """It has just failed. When that goes on too long: switch it off and raise `Stop`."""
        now = datetime.now(UTC)
        if self._since is None or not self.file.exists():  # another instance had success
            self._since = now
            self._write({"failingSince": now.isoformat()})
        elif now - self._since >= self._patience:
            hours = (now - self._since).total_seconds() / 3600
            self.disable(f"it has failed for {hours:.0f} hours, last with {why}")
        else:
            os.utime(self.file)

    def disable(self, why: str) -> None:
        """Switch it off, also for later runs; raises `Stop`."""
        self._write({"disabled": why, "at": datetime.now(UTC).isoformat(timespec="seconds")})
        raise self._stop(why)

    def _move_from(self, old: Path) -> None:
        """Take over the file of an earlier version: with it an endpoint stays switched off."""
        if self.file.exists() or not old.is_file():
            return
        try:
            shutil.move(old, self.file)  # with its time, which says when it was tried last
        except OSError as error:
            raise Stop(
                f"{old} cannot be moved to {self.file} ({error.strerror}); move it, as it says "
                "whether the endpoint is switched off"
            ) from None

    def _stop(self, why: str) -> Stop:
        return Stop(
            f"{self._shown} is switched off: {why}. Ask its owner; when it takes events again, "
            f"delete {self.file} and start again: delivery goes on where it ended"
        )

    def _kept(self, known: dict[str, Any]) -> datetime | None:
        """Since when it fails by the file, unless nobody has tried for long."""
        try:
            since = datetime.fromisoformat(known["failingSince"]).astimezone(UTC)
            tried = datetime.fromtimestamp(self.file.stat().st_mtime, UTC)
        except (KeyError, TypeError, ValueError, OSError):
            return None
        return since if datetime.now(UTC) - tried < FORGOTTEN else None

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self.file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _write(self, known: dict[str, str]) -> None:
        """Write the file whole or not at all."""
        new = self.file.with_suffix(f".{os.getpid()}.new")
        try:
            new.write_text(json.dumps({"endpoint": self._shown, **known}) + "\n", "utf-8")
            new.replace(self.file)
        except OSError as error:
            raise Stop(f"{self.file} cannot be written ({error.strerror})") from None
