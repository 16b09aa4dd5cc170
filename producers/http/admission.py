"""Checks that a request must pass before its body is parsed. Each check raises a `Problem`."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from producers.http.clients import Client
from producers.http.problems import Problem, plain


def may_write(client: Client, kind: str) -> None:
    """Raise a 403 `Problem` unless the client may write this kind (RFC 6750, section 3.1)."""
    if kind not in client.kinds:
        raise Problem(
            403,
            "kind-not-allowed",
            f"this client may not write {kind}; ask the district's operator for the scope",
            headers={"WWW-Authenticate": 'Bearer realm="schoolbus", error="insufficient_scope"'},
        )


def is_json(request: Request) -> None:
    """Raise a 415 `Problem` unless the body is unencoded JSON (RFC 9110, section 15.5.16)."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if media != "application/json" or coding != "identity":
        raise Problem(
            415,
            "not-application-json",
            "the body is not declared as plain JSON; send it with Content-Type: application/json "
            "and without Content-Encoding",
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )


async def read(request: Request, most: int, seconds: float) -> bytes:
    """Return the body of a request.

    Raises `Problem`: 413 as soon as the body is larger than `most` bytes, 408 when the body does
    not arrive within `seconds`.
    """
    too_large = Problem(
        413, "too-large", f"the body is larger than {most} bytes; send several smaller bodies"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise plain(408, "the body did not arrive in time; send the request again") from None
    return bytes(body)
