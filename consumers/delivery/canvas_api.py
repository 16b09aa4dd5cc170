"""Requests to Canvas's API, with its error answers turned into the errors of the bus.

Sources: Canvas LMS API documentation, "Throttling" (429, or 403 with "Rate Limit Exceeded"),
"Account Reports" (start, status, attachment); instructure/canvas-lms,
gems/plugins/account_reports/lib/account_reports/sis_exporter.rb (the files and columns of
`sis_export_csv`, which are those of an SIS import).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from pydantic import SecretStr

from bus.errors import RetryLater, Stop
from consumers.delivery.disk import private

TIMEOUT = httpx2.Timeout(60.0, connect=10.0, write=300.0)
FILES = ("accounts", "terms", "courses", "sections", "users", "enrollments")
LONGEST = 3600.0
"""The greatest number of seconds that a report of all SIS data may take."""
POLL = 5.0


class CanvasApi:
    """The API of one Canvas, with the token of a user who has the permissions for SIS data."""

    def __init__(self, url: str, token: SecretStr) -> None:
        self._client = httpx2.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {token.get_secret_value()}"},
            timeout=TIMEOUT,
        )
        self._elsewhere = httpx2.Client(timeout=TIMEOUT)  # without the token

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._elsewhere.close()

    def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send a request and return the JSON object of a 2xx answer.

        Raises `RetryLater` when Canvas cannot answer now, and `Stop` when a person must act.
        """
        try:
            value = self._request(self._client, method, path, **options).json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Stop("the server at the url of canvas is not Canvas; correct the url")
        return value

    def file(self, url: str) -> bytes:
        """Download a file that an answer names.

        The file may be on another host with its own keys. Only requests to Canvas's own host carry
        the token.
        """
        there, here = httpx2.URL(url), self._client.base_url
        same = (there.scheme, there.host, there.port) == (here.scheme, here.host, here.port)
        client = self._client if same else self._elsewhere
        return self._request(client, "GET", url, follow_redirects=True).content

    def _request(
        self, client: httpx2.Client, method: str, url: str, **options: Any
    ) -> httpx2.Response:
        try:
            answer = client.request(method, url, **options)
        except httpx2.RequestError as error:
            raise RetryLater(
                f"Canvas cannot be reached ({type(error).__name__}); trying again"
            ) from None
        code = answer.status_code
        if answer.is_success:
            return answer
        throttled = code == 403 and "rate limit exceeded" in answer.text.lower()
        if throttled or code in (408, 425, 429) or code >= 500:
            raise RetryLater(f"Canvas answered {code}; trying again", after=_after(answer))
        advice = {
            401: "the token is no longer valid, or its user may not import SIS data",
            403: "the token's user needs the permissions to import and manage SIS data, and the "
            "account must be a root account with SIS imports enabled",
            404: "the account does not exist; correct url and account in [products.canvas]",
            413: "the zip is too large for this Canvas",
        }.get(code, "correct url and account in [products.canvas]")
        raise Stop(f"Canvas answered {code} to {method} {answer.url.path}: {advice}")


def export(
    url: str,
    token: SecretStr,
    account: str,
    folder: Path,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download Canvas's report "SIS Export" into `folder` and return the path of the zip.

    Raises `Stop` when Canvas cannot create the report, and `RetryLater` when Canvas cannot be
    reached or needs more than `LONGEST` seconds.
    """
    canvas = CanvasApi(url, token)
    try:
        path = f"/api/v1/accounts/{account}/reports/sis_export_csv"
        wanted = {f"parameters[{name}]": "true" for name in FILES}
        report = canvas.ask("POST", path, data=wanted)
        waited = 0.0
        while report.get("status") not in ("complete", "error", "aborted", "deleted"):
            if waited > LONGEST:
                raise RetryLater(
                    f"Canvas did not finish its report in {LONGEST:.0f} seconds; try again later"
                )
            sleep(POLL)
            waited += POLL
            report = canvas.ask("GET", f"{path}/{report['id']}")
        attached = (report.get("attachment") or {}).get("url")
        if report["status"] != "complete" or not attached:
            raise Stop(
                f"Canvas could not create its report of SIS data ({report['status']}); look at it "
                "under Admin > Settings > Reports, or name an export that you have: --export PATH"
            )
        target = folder / "canvas.zip"
        with private(target) as file:
            file.write(canvas.file(attached))
        return target
    finally:
        canvas.close()


def _after(answer: httpx2.Response) -> float | None:
    """Return the seconds of Retry-After (RFC 9110, section 10.2.3), or None."""
    value = answer.headers.get("retry-after", "")
    return float(value) if value.isdigit() else None
