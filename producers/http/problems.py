"""The errors that a client receives: RFC 9457, "Problem Details for HTTP APIs".

A problem names the field and what is wrong with it, never the value. Answers may be logged by
clients and by proxies. `errors` follows the extension of the example in RFC 9457, section 3: each
entry has a JSON Pointer as a URI fragment (RFC 6901, section 6) and a detail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import quote

from starlette.responses import Response

CONTENT_TYPE = "application/problem+json"
TYPE = "urn:schoolbus:problem:"
ERRORS_SHOWN = 200


@dataclass(slots=True, eq=False)
class Problem(Exception):  # noqa: N818 - RFC 9457's own word
    """A request that is answered with a problem document.

    name:    the last part of the problem's type, by which programs distinguish problems.
    detail:  what happened and what to do, for a person.
    errors:  a JSON Pointer and a detail for each error in the body.
    headers: additional headers of the response.
    """

    status: int
    name: str
    detail: str
    errors: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name in words, the same for all problems of this type (section 3.1.3)."""
        return self.name.replace("-", " ").capitalize()


def response(problem: Problem) -> Response:
    """Return the problem as an HTTP response."""
    document: dict[str, object] = {
        "type": TYPE + problem.name,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.errors:
        document["errors"] = [
            {"pointer": pointer, "detail": detail}
            for pointer, detail in problem.errors[:ERRORS_SHOWN]
        ]
        if len(problem.errors) > ERRORS_SHOWN:
            document["errorsLeftOut"] = len(problem.errors) - ERRORS_SHOWN
    return Response(
        json.dumps(document, ensure_ascii=False).encode(),
        problem.status,
        headers={"Cache-Control": "no-store", **problem.headers},
        media_type=CONTENT_TYPE,
    )


def pointer(*parts: str | int) -> str:
    """Return a JSON Pointer into the body, as a URI fragment.

    `pointer(3, "eventDate")` is `#/3/eventDate`. `pointer()` is the whole body.
    """
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in parts if part != "")
    return "#" + "".join("/" + quote(part, safe="~!$&'()*+,;=:@") for part in escaped)


def plain(status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> Problem:
    """Return a problem that says no more than its status code, such as an unknown path."""
    phrase = HTTPStatus(status).phrase
    return Problem(status, phrase.lower().replace(" ", "-"), detail or phrase, (), headers or {})


def busy(detail: str, seconds: float) -> Problem:
    """Return a 429: too many requests, send again after `seconds` (RFC 6585, section 4)."""
    return Problem(429, "too-many-requests", detail, headers=_retry(seconds))


def unavailable(detail: str, seconds: float) -> Problem:
    """Return a 503: Kafka did not commit the request (RFC 9110, section 15.6.4)."""
    return Problem(503, "not-taken", detail, headers=_retry(seconds))


def in_progress() -> Problem:
    """Return a 409: a request with the same Idempotency-Key is in progress.

    See draft-ietf-httpapi-idempotency-key-header.
    """
    return Problem(
        409,
        "request-in-progress",
        "a request with this Idempotency-Key is still in progress; send the same request again "
        "later",
        headers=_retry(1),
    )


def _retry(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, round(seconds + 0.5)))}
