"""What a request must be before its body is looked into; each check raises its `Problem`."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from producers.http.clients import Client
from producers.http.problems import Problem, plain


def may_write(client: Client, kind: str) -> None:
    """403 unless the client has the scope for this kind (RFC 6750, section 3.1)."""
    if kind not in client.kinds:
        raise Problem(
            403,
            "kind-not-allowed",
            f"this client may not write {kind}; the district's operator gives it the scope",
            headers={"WWW-Authenticate": 'Bearer realm="schoolbus", error="insufficient_scope"'},
        )


def is_json(request: Request) -> None:
    """415 for anything but plain JSON (RFC 9110, section 15.5.16)."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if media != "application/json" or coding != "identity":
        raise Problem(
            415,
            "not-application-json",
            "send the body as Content-Type: application/json, without a Content-Encoding",
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )


async def read(request: Request, most: int, seconds: float) -> bytes:
    """The body: 413 as soon as it is larger than `most` bytes, 408 when it takes too long."""
    too_large = Problem(413, "too-large", f"the body is larger than {most} bytes; send it in parts")
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
        raise plain(408, "the body did not arrive in time") from None
    return bytes(body)
