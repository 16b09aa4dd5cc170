"""A gate before the schema registry, which shows a vendor its own schemas and nothing else.

A registry with Confluent's API names all subjects to anybody who may read it. The gate answers only
the requests of this API that deserializers send, and looks only at the caller's own subjects:

    GET /schemas/ids/{id}
    GET /schemas/types
    GET /subjects
    GET /subjects/{subject}/versions
    GET /subjects/{subject}/versions/{version}     a number, or `latest`

The caller sends its Kafka user and its token as HTTP Basic (RFC 7617), or its token as a bearer
token (RFC 6750). A request without a valid token gets the same 401 for each path. A request for
something that is not the caller's gets the same 404, after the same work, whether that exists or
not. The gate refuses every request that writes.

Source: Confluent, "Schema Registry API Reference" (paths, answers, error codes).
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from binascii import Error as NotBase64
from dataclasses import dataclass, field

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bus.errors import BusError
from bus.registry.registry_client import (
    CONTENT_TYPE,
    NOT_THERE,
    RegisteredSchema,
    RegistryClient,
    RegistryError,
    answered,
    client,
)
from bus.settings import Settings
from bus.standard.kinds import KINDS
from bus.vendors.registry_tokens import TokenOwner, owner_of
from bus.vendors.vendor_schema import vendor_subject

log = structlog.get_logger("bus.vendors.gate")

REST = 1.0
"""The least number of seconds between two readings of one vendor's subjects."""

SUBJECT_NOT_FOUND = 40401
VERSION_NOT_FOUND = 40402
SCHEMA_NOT_FOUND = 40403

Versions = dict[str, dict[int, RegisteredSchema]]
"""The versions of each subject, by number, in order."""


@dataclass(slots=True)
class VendorSchemas:
    """The schemas of one vendor, as the registry last had them.

    name:     the vendor's name in its topics.
    subjects: the names of the subjects that the vendor can have.
    """

    settings: Settings
    name: str
    subjects: tuple[str, ...]
    _versions: Versions = field(default_factory=dict)
    _read_at: float = float("-inf")
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def fresh(self) -> Versions:
        """Return the versions of each subject, read from the registry after this call began.

        At most one reading a second is made, however many requests wait for it, so that a vendor
        that asks for many unknown ids does not load the registry. Raises `BusError` if the registry
        does not answer.
        """
        asked = time.monotonic()
        async with self._lock:
            if self._read_at < asked:
                await asyncio.sleep(max(0.0, self._read_at + REST - time.monotonic()))
                began = time.monotonic()
                self._versions = await asyncio.to_thread(self._read)
                self._read_at = began
            return self._versions

    async def by_id(self, schema_id: int) -> RegisteredSchema | None:
        """Return the vendor's schema with this id, or None."""
        return _with_id(self._versions, schema_id) or _with_id(await self.fresh(), schema_id)

    def _read(self) -> Versions:
        found = {}
        with client(self.settings) as registry:
            for name in self.subjects:
                known = self._versions.get(name, {})
                numbers = _numbers(registry, name)
                if numbers:
                    with answered():
                        found[name] = {
                            number: known.get(number) or registry.version(name, number)
                            for number in numbers
                        }
        return found


class RegistryGate:
    """Lets a request pass to `app` if it has a valid token and only reads.

    It checks before anything looks at the path, so that each path answers alike. It puts the
    caller's `VendorSchemas` into the request's state.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._vendors: dict[str, VendorSchemas] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            return
        if (owner := self._owner(Request(scope))) is None:
            await _error(401, 40101, {"WWW-Authenticate": 'Basic realm="schoolbus"'})(
                scope, receive, send
            )
        elif scope["method"] not in ("GET", "HEAD"):
            await _error(405, 405, {"Allow": "GET, HEAD"})(scope, receive, send)
        else:
            scope.setdefault("state", {})["schemas"] = self._schemas(owner)
            await self._app(scope, receive, send)

    def _owner(self, request: Request) -> TokenOwner | None:
        user, token = _credentials(request.headers.get("authorization", ""))
        found = owner_of(self._settings, token) if token else None
        return found if found is not None and user in (None, found.user) else None

    def _schemas(self, owner: TokenOwner) -> VendorSchemas:
        names = tuple(vendor_subject(self._settings, owner.ids_name, kind) for kind in KINDS)
        return self._vendors.setdefault(
            owner.ids_name, VendorSchemas(self._settings, owner.ids_name, names)
        )


def create(settings: Settings) -> Starlette:
    """Return the ASGI application."""
    app = Starlette(
        routes=[
            Route("/", _root),
            Route("/schemas/ids/{id}", _schema),
            Route("/schemas/types", _types),
            Route("/subjects", _subjects),
            Route("/subjects/{subject:path}/versions", _versions),
            Route("/subjects/{subject:path}/versions/{version}", _version),
        ],
        middleware=[Middleware(RegistryGate, settings=settings)],
        exception_handlers={
            HTTPException: _unknown_path,
            NotTheirs: _not_theirs,
            BusError: _away,
            Exception: _failed,
        },
    )
    app.router.redirect_slashes = False
    return app


class NotTheirs(Exception):  # noqa: N818 - an answer, not an error of the gate
    """What the caller asks for is not its own, or does not exist; `code` is the registry's."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


async def _root(_: Request) -> Response:
    return _json({})


async def _types(_: Request) -> Response:
    return _json(["AVRO"])


async def _subjects(request: Request) -> Response:
    return _json(list(await _of_caller(request).fresh()))


async def _versions(request: Request) -> Response:
    return _json(list(await _of_subject(request)))


async def _version(request: Request) -> Response:
    versions = await _of_subject(request)
    wanted = request.path_params["version"]
    number = max(versions) if wanted in ("latest", "-1") else _number(wanted)
    if number not in versions:
        raise NotTheirs(VERSION_NOT_FOUND)
    found = versions[number]
    return _json(
        {
            "subject": request.path_params["subject"],
            "version": found.version,
            "id": found.id,
            "schema": found.text,
        }
    )


async def _schema(request: Request) -> Response:
    found = await _of_caller(request).by_id(_number(request.path_params["id"]))
    if found is None:
        raise NotTheirs(SCHEMA_NOT_FOUND)
    return _json({"schema": found.text})


def _of_caller(request: Request) -> VendorSchemas:
    schemas: VendorSchemas = request.state.schemas
    return schemas


async def _of_subject(request: Request) -> dict[int, RegisteredSchema]:
    """Return the versions of the subject in the path, which is the caller's.

    The registry is asked in any case, so that the time of an answer does not show whose it is.
    """
    found = (await _of_caller(request).fresh()).get(request.path_params["subject"])
    if found is None:
        raise NotTheirs(SUBJECT_NOT_FOUND)
    return found


MESSAGES = {
    404: "HTTP 404 Not Found",
    405: "This registry is read-only",
    500: "The gate failed; its log says where",
    40101: "Unauthorized",
    SUBJECT_NOT_FOUND: "Subject not found",
    VERSION_NOT_FOUND: "Version not found",
    SCHEMA_NOT_FOUND: "Schema not found",
    50301: "The registry does not answer; try again later",
}
"""The message of each error code. None repeats a part of the request."""


async def _unknown_path(_: Request, __: Exception) -> Response:
    return _error(404, 404)


async def _not_theirs(_: Request, error: Exception) -> Response:
    assert isinstance(error, NotTheirs)
    return _error(404, error.code)


async def _away(request: Request, error: Exception) -> Response:
    # The reason may name the registry's address, which the answer must not.
    log.error("the registry does not answer", vendor=_of_caller(request).name, reason=str(error))
    return _error(503, 50301)


async def _failed(_: Request, __: Exception) -> Response:
    return _error(500, 500)


def _error(status: int, code: int, headers: dict[str, str] | None = None) -> Response:
    return _json({"error_code": code, "message": MESSAGES[code]}, status, headers)


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        json.dumps(body, ensure_ascii=False).encode(),
        status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type=CONTENT_TYPE,
    )


def _numbers(registry: RegistryClient, subject: str) -> list[int]:
    """Return the version numbers of a subject, in order; none if it does not exist."""
    with answered():
        try:
            return sorted(registry.versions(subject))
        except RegistryError as error:
            if error.code in NOT_THERE:
                return []
            raise


def _with_id(versions: Versions, schema_id: int) -> RegisteredSchema | None:
    return next(
        (one for found in versions.values() for one in found.values() if one.id == schema_id), None
    )


def _number(text: str) -> int:
    """Return a number of a path; -1, which nothing has, if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def _credentials(header: str) -> tuple[str | None, str]:
    """Return the user and the token of an Authorization header; the user is None with a bearer.

    The token is "" if there is none.
    """
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return None, value.strip()
    if scheme.lower() == "basic":
        try:
            user, _, token = b64decode(value.strip(), validate=True).decode().partition(":")
        except (NotBase64, ValueError):
            return None, ""
        return user, token
    return None, ""
