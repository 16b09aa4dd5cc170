"""What goes wrong with a request, as the client is told: RFC 9457, "Problem Details for HTTP APIs".

A problem names the field and what is wrong with it, never the value: answers end up in the logs of
clients and of what lies between. `errors` follows the extension in RFC 9457, section 3 (its
example): a JSON Pointer as a URI fragment (RFC 6901, section 6) and a detail for each.
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

    name:    the last part of the problem's type; what a program tells problems apart by.
    detail:  what happened and what to do, for a person.
    errors:  (JSON Pointer, detail) for each thing wrong with the body.
    headers: further headers of the response.
    """

    status: int
    name: str
    detail: str
    errors: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The problem's name in words: the same for all problems of this type (section 3.1.3)."""
        return self.name.replace("-", " ").capitalize()


def response(problem: Problem) -> Response:
    """The problem as an HTTP response."""
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
    """A place in the body: `pointer(3, "eventDate")` is `#/3/eventDate`, `pointer()` the whole."""
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in parts if part != "")
    return "#" + "".join("/" + quote(part, safe="~!$&'()*+,;=:@") for part in escaped)


def plain(status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> Problem:
    """A problem that is no more than its status code, such as a path that is not there."""
    phrase = HTTPStatus(status).phrase
    return Problem(status, phrase.lower().replace(" ", "-"), detail or phrase, (), headers or {})


def busy(detail: str, seconds: float) -> Problem:
    """Too many requests (RFC 6585, section 4): come again after so many seconds."""
    return Problem(429, "too-many-requests", detail, headers=_retry(seconds))


def unavailable(detail: str, seconds: float) -> Problem:
    """Kafka has not taken it (RFC 9110, section 15.6.4)."""
    return Problem(503, "not-taken", detail, headers=_retry(seconds))


def in_progress() -> Problem:
    """The same request is being worked on (draft-ietf-httpapi-idempotency-key-header)."""
    return Problem(
        409,
        "request-in-progress",
        "a request with this Idempotency-Key has not been answered yet; send it again a little "
        "later, as it is",
        headers=_retry(1),
    )


def _retry(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, round(seconds + 0.5)))}
