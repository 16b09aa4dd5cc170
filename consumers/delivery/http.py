"""Delivery by HTTP: one POST for each row, in parallel, with each student's rows in strict order.

Rows whose records have the same owner (a student's record, enrollments, attendance) form a lane.
The requests of a lane follow one another; lanes run in parallel. A part is finished before the next
one begins, so referenced records arrive before the records that refer to them.

`consumers.delivery.endpoint` says what an answer means: accepted, refused (this event becomes a
dead letter), again later, or gone (the endpoint is switched off). There are two guards:

* The program stops after `refusals_in_a_row` refusals without an accepted event between them. So a
  wrong secret does not turn all events of a district into dead letters.
* An event that is answered 500 for `give_up_hours` becomes a dead letter. So one event that breaks
  the vendor's program does not block all others. (502, 503, 504 and missing answers are about the
  endpoint; an event waits as long as they last.)

Under an agreement, the delivery checks before each request whether the agreement is still active
and whether the event may still be sent. A revocation also ends the requests that are in progress.
Each record has its own lane then, because a record may lack the field that names its student.

When `deliver` raises `RetryLater`, the delivery remembers in memory which rows of the batch the
endpoint has accepted or refused. It does not send them again with the same batch. After a crash it
sends them again, and the receiver recognizes an event by its id. One try of a batch lasts at most
about `TRY_SECONDS`, so that the consumer stays in its group while an endpoint is slow.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import aiohttp
import httpx2
from pydantic import Field, ValidationInfo, model_validator
from yarl import URL

from bus.delivery import Batch, Part, Position, Refusal, Terms
from bus.errors import BusError, Never, RetryLater, Stop
from bus.local.event_loop import new_event_loop
from bus.settings import Model, load
from bus.standard import KINDS
from bus.standard.fault_codes import FaultCode, Reason, code_of
from bus.web.public_address import guarded_sockets
from consumers.delivery import endpoint
from consumers.delivery.endpoint import EndpointState, Outcome

if TYPE_CHECKING:
    from confluent_kafka import Message

    from bus.delivery import Row

ANSWER_BYTES = 65_536
TRY_SECONDS = 60.0
IDLE_SECONDS = 4.0
"""A connection that was idle for this many seconds is not used again: many servers close theirs
after 5 s."""
BROKE, THROTTLED = "status 500", "status 429"
REPLAY = "schoolbus-replay"
"""The header with the id of the replay that sends the request."""
WATCH_SECONDS = 0.25
"""While requests under an agreement are in progress, the agreement is checked once in this many
seconds."""
FEW = 3
"""After this many failures in one try no further request is begun: the endpoint is down."""


@dataclass(frozen=True, slots=True)
class Post:
    """The body and the headers of one request."""

    body: bytes
    headers: Mapping[str, str]


Compose = Callable[[str, "Row", "Message"], Post | None]
"""A function from kind, row and message to the request. It is called for each try. It returns
None if the endpoint does not receive the row. It raises `Never` if the row cannot be sent."""


class HttpSettings(Model):
    """The settings of an endpoint; times are in seconds unless the name says otherwise.

    url:                where to POST; https, or http to this machine.
    concurrency:        the greatest number of requests at the same time.
    connect_seconds:    the time limit for a connection.
    total_seconds:      the time limit for one request and its answer, including the connection.
    disable_after_hours: the endpoint is switched off after this many hours without any success.
    refusals_in_a_row:  the program stops after this many refused events without an accepted one.
    give_up_hours:      an event that is answered 500 for this many hours becomes a dead letter.
    state:              the folder of the file that says since when an endpoint has failed; None
                        means the folder `products` of the home.
    """

    url: str = Field(default="", repr=False)
    concurrency: int = Field(default=16, ge=1, le=256)
    connect_seconds: float = Field(default=5.0, gt=0)
    total_seconds: float = Field(default=15.0, gt=0)
    disable_after_hours: float = Field(default=120.0, gt=0)
    refusals_in_a_row: int = Field(default=100, ge=1)
    give_up_hours: float = Field(default=6.0, ge=0)
    state: Path | None = None
    _home: Path | None = None
    _terms: Terms | None = None

    @model_validator(mode="after")
    def _of_this_bus(self, info: ValidationInfo) -> Self:
        self._home = (info.context or {}).get("home")
        self._terms = (info.context or {}).get("terms")
        return self

    @property
    def terms(self) -> Terms | None:
        """What may be delivered to a vendor; None for the district's own endpoints."""
        return self._terms

    @property
    def folder(self) -> Path:
        """Return `state`, or the folder `products` of the home.

        Each agreement has a separate folder in it, so that two agreements with the same address do
        not switch off each other's endpoint. Raises `Stop` if the settings of the bus are invalid.
        """
        found = self.state or (self._home or load().home) / "products"
        return found / "agreements" / self._terms.agreement if self._terms else found

    @property
    def earlier_folder(self) -> Path | None:
        """Return the folder that version 0.1.0 used, or None if `state` is set.

        That version ignored `home` of bus.toml, and had no agreements.
        """
        if self.state or self._terms:
            return None
        return Path(os.environ.get("BUS_HOME", ".bus")) / "products"


class Place(NamedTuple):
    """The identity of one row: its table and the position of its message."""

    table: str
    topic: str
    partition: int
    offset: int


@dataclass(slots=True)
class Try:
    """The progress of one call of `deliver`."""

    ends: float
    taken: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    after: float | None = None
    switch_off: str = ""
    refusal: str = ""
    halted: bool = False
    forbidden: BusError | None = None


class Http:
    """A `bus.delivery.Redelivery` to one endpoint; `compose` makes the requests."""

    def __init__(self, settings: HttpSettings, compose: Compose) -> None:
        self._terms = settings.terms
        self._url = (
            endpoint.vendor_address(settings.url, self._terms)
            if self._terms
            else endpoint.address(settings.url)
        )
        self._shown = endpoint.shown(self._url)
        self._target = URL(str(self._url), encoded=True)
        self._settings = settings
        self._compose = compose
        self._endpoint_state = EndpointState(
            settings.folder,
            self._url,
            timedelta(hours=settings.disable_after_hours),
            settings.earlier_folder,
        )
        # Both are of the current batch.
        self._settled: dict[Place, str] = {}  # "" if accepted, else the reason of the refusal
        self._broke: dict[Place, float] = {}  # when the row was first answered 500
        self._refused = 0
        self._extra: dict[str, str] = {}
        self._loop = new_event_loop()
        self._client = self._loop.run_until_complete(self._open())

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Forget what was accepted of these partitions: an operator may want it sent again.

        Returns no offsets, because the endpoint stores none.
        """
        again = set(partitions)
        self._settled = {
            place: why
            for place, why in self._settled.items()
            if Position(place.topic, place.partition) not in again
        }
        return {}

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Send all rows that were not accepted yet, by the rules of the module's docstring."""
        attempt = Try(ends=time.monotonic() + TRY_SECONDS)
        self._loop.run_until_complete(self._watched(batch, attempt))
        if attempt.taken:
            self._endpoint_state.well()
        if attempt.forbidden:
            raise attempt.forbidden
        if attempt.switch_off:
            self._endpoint_state.disable(attempt.switch_off)
        if self._refused >= self._settings.refusals_in_a_row:
            raise Stop(
                f"{self._shown} refused the last {self._refused} events and accepted none "
                f"({attempt.refusal}); check its secret, address and kinds, then start again"
            )
        if attempt.failures:
            whys = ", ".join(f"{why} ({n}x)" for why, n in attempt.failures.most_common())
            self._endpoint_state.ill(whys)
            raise RetryLater(
                f"{self._shown} does not accept events now: {whys}; the rest is sent later",
                after=attempt.after,
            )
        if attempt.halted:
            raise RetryLater(
                f"{self._shown} is slow: it accepted {attempt.taken} events in "
                f"{TRY_SECONDS:.0f} seconds; the rest is sent later"
            )
        refusals = {
            id(message): Refusal(message, why, code_of(why))
            for part in batch.parts
            for message in part.messages
            if (why := self._settled.get(_place(part, message)))
        }
        self._settled.clear()
        self._broke.clear()
        return list(refusals.values())

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]:
        """Send the batch as `deliver` does, each request with the header `schoolbus-replay`."""
        self._extra = {REPLAY: replay}
        return self.deliver(batch)

    def settle(self) -> None:
        """Do nothing: `deliver` defers nothing."""

    def release(self, partitions: Iterable[Position]) -> None:
        """Do nothing: nothing needs to be handed over."""

    def close(self) -> None:
        """Cancel the running requests and close the connections."""
        if self._loop.is_closed():
            return
        self._loop.run_until_complete(self._end(asyncio.all_tasks(self._loop)))
        self._loop.close()

    async def _open(self) -> aiohttp.ClientSession:
        settings, terms = self._settings, self._terms
        near = endpoint.loopback(self._url.host) and not terms
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.concurrency,
                keepalive_timeout=IDLE_SECONDS,
                # The environment names a district's own certificates, as it names the proxy.
                ssl=httpx2.create_ssl_context(trust_env=not near),
                socket_factory=guarded_sockets(terms.networks, loopback=terms.loopback)
                if terms
                else None,
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_seconds),
            proxy=None if near or terms else endpoint.proxy(self._url),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def _end(self, under_way: Iterable[asyncio.Task[object]]) -> None:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._client.close()
        await asyncio.sleep(0)  # lets the loop release the closed connections
        await self._loop.shutdown_default_executor()

    async def _watched(self, batch: Batch, attempt: Try) -> None:
        """Send a batch. Under an agreement, end all requests when it is no longer active."""
        sending = asyncio.ensure_future(self._send(batch, attempt))
        while self._terms and not (await asyncio.wait([sending], timeout=WATCH_SECONDS))[0]:
            if self._is_forbidden(attempt):
                sending.cancel()
                await asyncio.wait([sending])
        if not sending.cancelled():
            await sending

    def _is_forbidden(self, attempt: Try) -> bool:
        """Return whether nothing more may be sent, and note why."""
        if self._terms and attempt.forbidden is None:
            try:
                self._terms.permission.check()
            except BusError as error:
                attempt.forbidden, attempt.halted = error, True
        return attempt.forbidden is not None

    async def _send(self, batch: Batch, attempt: Try) -> None:
        for _ in range(3):  # lets the loop notice the connections that the endpoint has closed
            await asyncio.sleep(0)
        for part in batch.parts:
            owner = "sourcedId" if self._terms else KINDS[part.kind].owner
            lanes: dict[str, list[int]] = {}
            for i, message in enumerate(part.messages):
                if _place(part, message) not in self._settled:
                    lanes.setdefault(part.records[i][owner], []).append(i)
            waiting = deque(lanes.values())

            async def work(part: Part = part, waiting: deque[list[int]] = waiting) -> None:
                while waiting and not attempt.halted:
                    await self._lane(part, waiting.popleft(), attempt)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._settings.concurrency, len(lanes))):
                    group.create_task(work())
            if attempt.halted or attempt.failures:
                return

    async def _lane(self, part: Part, rows: list[int], attempt: Try) -> None:
        """Send these rows one after another; stop at the first that must be sent again later."""
        for i in rows:
            if attempt.halted or time.monotonic() > attempt.ends:
                attempt.halted = True
                return
            message, place = part.messages[i], _place(part, part.messages[i])
            if self._is_forbidden(attempt):
                return
            if self._terms and self._terms.permission.outdated(message):
                self._settled[place] = ""
                continue
            try:
                post = self._compose(part.kind, part.rows[i], message)
            except Never as never:
                code = never.code or FaultCode.UNTRANSLATABLE
                self._settled[place] = Reason(str(never), code)
                continue
            if post and not self._note(place, await self._request(post), attempt):
                return

    def _note(self, place: Place, outcome: Outcome, attempt: Try) -> bool:
        """Remember the result of a request, and return whether its lane may continue."""
        verdict, why, after = outcome
        if verdict == "taken":
            self._settled[place] = ""
            self._refused = 0
            attempt.taken += 1
        elif verdict == "refused":
            reason = f"the endpoint refused it with {why}"
            self._settled[place] = Reason(reason, FaultCode.REFUSED)
            self._refused += 1
            attempt.refusal = why
            attempt.halted |= self._refused >= self._settings.refusals_in_a_row
        elif verdict == "gone":
            attempt.switch_off, attempt.halted = why, True
        elif why == BROKE and self._given_up(place):
            hours = self._settings.give_up_hours
            reason = f"the endpoint answered {why} to it for {hours:g} hours"
            self._settled[place] = Reason(reason, FaultCode.ENDPOINT_FAILS)
        else:
            attempt.failures[why] += 1
            if after is not None:
                attempt.after = max(after, attempt.after or 0.0)
            # A Retry-After applies to all requests, not only to this one.
            throttled = after is not None or why == THROTTLED
            attempt.halted |= throttled or attempt.failures.total() >= FEW
            return False
        return True

    def _given_up(self, place: Place) -> bool:
        now = time.monotonic()
        return now - self._broke.setdefault(place, now) > self._settings.give_up_hours * 3600

    async def _request(self, post: Post) -> Outcome:
        """Send one request and return what its answer means."""
        outcome: Outcome | None = None
        try:
            async with (
                asyncio.timeout(self._settings.total_seconds),
                self._client.post(
                    self._target,
                    data=post.body,
                    headers={**post.headers, **self._extra},
                    allow_redirects=False,
                ) as answer,
            ):
                outcome = endpoint.judge(answer.status, answer.headers.get("retry-after"))
                size = 0
                # A connection can be used again only after its answer was read to the end.
                async for chunk in answer.content.iter_any():
                    size += len(chunk)
                    if size > ANSWER_BYTES:
                        break
        except (aiohttp.ClientError, OSError) as error:
            return outcome or Outcome("later", endpoint.explain(error))
        return outcome


def _place(part: Part, message: Message) -> Place:
    return Place(
        part.table.name, message.topic() or "", message.partition() or 0, message.offset() or 0
    )
