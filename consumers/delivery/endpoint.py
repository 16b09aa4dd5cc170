"""An endpoint to which events are POSTed: its address, its answers, and whether it is switched off.

The meaning of an answer follows Standard Webhooks 1.0.0, "Delivery success and failure":

* 2xx: accepted, with any body.
* 410: the endpoint wants no more events and is switched off (see `EndpointState`).
* 408, 409, 425, 429, every 5xx, a time-out, a broken connection, failed TLS: send the event again
  later, and not before the time in Retry-After (RFC 9110, section 10.2.3).
* 3xx (redirects are not followed), 401, 402, 403, 404, 405, 407: the endpoint has a problem, not
  the event. Send the event again later as well.
* every other 4xx: this event is refused.

The operator sets the addresses of the district's own endpoints. So only a wrong setting can direct
a request into the district's internal network (the specification's "Server side request forgery").
Still, redirects are not followed, and no answer is shown or kept. HTTPS_PROXY is used, because the
specification recommends a filtering proxy.

Under an agreement, the vendor names the address. Then it must be https, and a connection is made
only to public addresses (`bus.web.public_address`). No proxy is used, because the bus cannot see to
which address a proxy connects.
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

from bus.delivery import Terms
from bus.errors import Stop
from bus.web.public_address import RefusedAddressError, is_inside

LATER = {408, 409, 425, 429}
ENDPOINT = {401, 402, 403, 404, 405, 407}
LONGEST_WAIT = 3600.0
"""The greatest number of seconds for which Retry-After is respected."""
FORGOTTEN = timedelta(days=1)
"""A new process ignores since when the endpoint has failed if the last try is longer ago than
this."""

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
    """The result of one request; `after` is the number of seconds from Retry-After."""

    verdict: Literal["taken", "refused", "later", "gone"]
    why: str
    after: float | None = None


def judge(status: int, retry_after: str | None = None) -> Outcome:
    """Return what an answer means, by the rules in the module's docstring."""
    why = f"status {status}"
    if 200 <= status < 300:
        return Outcome("taken", why)
    if status == 410:
        return Outcome("gone", "it answered 410 Gone")
    if 400 <= status < 500 and status not in LATER | ENDPOINT:
        return Outcome("refused", why)
    return Outcome("later", why, seconds(retry_after))


def seconds(retry_after: str | None) -> float | None:
    """Return how many seconds Retry-After asks to wait (RFC 9110, section 10.2.3).

    The header has seconds or a date. Returns None without a valid header.
    """
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
    """Return the type of a failure, without the error's text, which may include what was sent."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {cause.reason or 'failed'}"
        if isinstance(cause, RefusedAddressError):
            return f"its name leads to {cause}, to which nothing is sent"
        cause = cause.__cause__ or cause.__context__
    for kinds, words in FAILURES:
        if isinstance(error, kinds):
            return words
    return type(error).__name__


def address(url: str) -> httpx2.URL:
    """Return the URL of an endpoint.

    Raises `Stop` when the URL is missing or invalid, or would send records unencrypted.
    """
    if not url:
        raise Stop("no address is set for the events: set `url`, or give --url https://…")
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        raise Stop("`url` is not a URL; give one such as https://vendor.example/events") from None
    if not parsed.host or parsed.scheme not in ("http", "https"):
        raise Stop("`url` is not a web address; give one such as https://vendor.example/events")
    if parsed.scheme == "http" and not loopback(parsed.host):
        raise Stop(
            f"{shown(parsed)} would send records unencrypted; give its https:// address "
            "(http:// is allowed only for this machine)"
        )
    return parsed


def vendor_address(url: str, terms: Terms) -> httpx2.URL:
    """Return the URL of a vendor's endpoint.

    Raises the errors of `address`. Raises `Stop` if the URL is not https, if its host is an address
    to which nothing is sent, or if requests would go through a proxy.
    """
    parsed = address(url)
    if parsed.scheme != "https":
        raise Stop(f"{shown(parsed)} would send records unencrypted; a vendor's must be https://")
    if is_inside(parsed.host, terms.networks, loopback=terms.loopback):
        raise Stop(
            f"{shown(parsed)} is inside the district's network, to which nothing is sent for a "
            "vendor; put a public address into the agreement"
        )
    if proxy(parsed):
        raise Stop(
            f"{shown(parsed)} would be reached through a proxy (HTTPS_PROXY), and then the bus "
            f"cannot check to which address a request goes; add {parsed.host} to NO_PROXY"
        )
    return parsed


def loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def proxy(url: httpx2.URL) -> str | None:
    """Return the environment's proxy for a URL (HTTPS_PROXY, ALL_PROXY, NO_PROXY), or None."""
    if proxy_bypass(url.host):
        return None
    known = getproxies()
    return known.get(url.scheme) or known.get("all")


def shown(url: httpx2.URL) -> str:
    """Return the URL without user, password, query and fragment, for messages."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


class EndpointState:
    """Since when an endpoint has failed, and whether it is switched off, in one small JSON file.

    Without a file, the endpoint works. The file's name has a hash of the URL, so a new URL has no
    history. Several instances of a consumer on one machine share the file. An endpoint that is
    switched off stays so after a restart. To switch it on again, delete the file that the error
    names.
    """

    def __init__(
        self, folder: Path, url: httpx2.URL, patience: timedelta, earlier: Path | None = None
    ) -> None:
        """Raise `Stop` when the endpoint is switched off or the folder cannot be created.

        folder:   the folder of the file.
        url:      the URL of the endpoint.
        patience: an endpoint that has failed for this long is switched off.
        earlier:  a folder that may still have the file; the file is moved from there.
        """
        name = hashlib.sha256(str(url).encode()).hexdigest()[:12]
        self.file = folder / f"endpoint-{name}.json"
        self._shown = shown(url)
        self._patience = patience
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Stop(
                f"{folder} cannot be created ({error.strerror}); set `state` to another folder"
            ) from None
        if earlier is not None:
            self._move_from(earlier / self.file.name)
        known = self._read()
        if why := known.get("disabled"):
            raise self._stop(str(why))
        self._since = self._kept(known)

    def well(self) -> None:
        """Note that the endpoint has just accepted an event."""
        self._since = None
        if self.file.exists() and "disabled" not in self._read():
            self.file.unlink(missing_ok=True)

    def ill(self, why: str) -> None:
        """Note that the endpoint has just failed.

        If it has failed for `patience`, switch it off and raise `Stop`.
        """
        now = datetime.now(UTC)
        if self._since is None or not self.file.exists():  # another instance succeeded
            self._since = now
            self._write({"failingSince": now.isoformat()})
        elif now - self._since >= self._patience:
            hours = (now - self._since).total_seconds() / 3600
            self.disable(f"it has failed for {hours:.0f} hours, last with {why}")
        else:
            os.utime(self.file)

    def disable(self, why: str) -> None:
        """Switch the endpoint off, also for later runs, and raise `Stop`."""
        self._write({"disabled": why, "at": datetime.now(UTC).isoformat(timespec="seconds")})
        raise self._stop(why)

    def _move_from(self, old: Path) -> None:
        """Move the file of an earlier version here, so that an endpoint stays switched off."""
        if self.file.exists() or not old.is_file():
            return
        try:
            shutil.move(old, self.file)  # keeps the file's time, which is that of the last try
        except OSError as error:
            raise Stop(
                f"{old} cannot be moved to {self.file} ({error.strerror}); move it yourself, "
                "because it says whether the endpoint is switched off"
            ) from None

    def _stop(self, why: str) -> Stop:
        return Stop(
            f"{self._shown} is switched off: {why}. Ask its owner. When it accepts events again, "
            f"delete {self.file} and start again: delivery continues where it ended"
        )

    def _kept(self, known: dict[str, Any]) -> datetime | None:
        """Return since when the endpoint has failed, from the file's content.

        Returns None if the file does not say it, or if the last try is longer ago than `FORGOTTEN`.
        """
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
        """Write the file as a whole or not at all."""
        new = self.file.with_suffix(f".{os.getpid()}.new")
        try:
            new.write_text(json.dumps({"endpoint": self._shown, **known}) + "\n", "utf-8")
            new.replace(self.file)
        except OSError as error:
            raise Stop(
                f"{self.file} cannot be written ({error.strerror}); set `state` to another folder"
            ) from None
