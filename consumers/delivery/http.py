"""Delivery by HTTP: one POST for each row, several at a time, each student's strictly in order.

Rows whose records have the same owner (a student's record, enrollments, attendance) make a lane;
the requests of a lane follow one another, lanes run side by side. A part is finished before the
next one begins, so what is referred to arrives before what refers to it.

What an answer means is told in `consumers.delivery.endpoint`: taken, refused (this event goes to
the dead letters), again later, or gone (the endpoint is switched off). Two guards:

* After `refusals_in_a_row` refusals with nothing taken between them the program stops, so that a
  wrong secret does not send a whole district to the dead letters.
* An event that is answered 500 for `give_up_hours` goes to the dead letters, so that one event on
  which the vendor's program breaks does not stop all others. (502, 503, 504 and silence are about
  the endpoint; an event waits for as long as they last.)

When `deliver` raises `RetryLater`, what the endpoint has taken or refused of the batch is kept in
memory and not sent again with the same batch. After a crash it is sent again: the receiver knows it
by its id. One try of a batch lasts about `TRY_SECONDS` at most, so that the loop stays in its group
while an endpoint is slow.
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

from bus.delivery import Batch, Part, Position, Refusal
from bus.errors import Never, RetryLater, Stop
from bus.local.event_loop import new_event_loop
from bus.settings import Model, load
from bus.standard import KINDS
from bus.standard.fault_codes import FaultCode, Reason, code_of
from consumers.delivery import endpoint
from consumers.delivery.endpoint import Outcome, Standing

if TYPE_CHECKING:
    from confluent_kafka import Message

    from bus.delivery import Row

ANSWER_BYTES = 65_536
TRY_SECONDS = 60.0
IDLE_SECONDS = 4.0
"""After so long a connection is not used again: many servers close theirs after 5 s."""
BROKE, THROTTLED = "status 500", "status 429"
REPLAY = "schoolbus-replay"
"""The header that names the replay by which a request comes."""
FEW = 3
"""After so many failures in one try no further request is begun: the endpoint is down."""


@dataclass(frozen=True, slots=True)
class Post:
    """The body and the headers of one request."""

    body: bytes
    headers: Mapping[str, str]


Compose = Callable[[str, "Row", "Message"], Post | None]
"""From kind, row and message to the request; called anew for each try. None: not for this
endpoint. Raises `Never` when the row cannot be sent."""


class HttpSettings(Model):
    """An endpoint. Times in seconds unless the name says otherwise.

    url:                where to POST; https, or http to this very machine.
    concurrency:        how many requests are under way at most.
    total_seconds:      for one request and its answer; connecting is part of it.
    disable_after_hours: after so long without any success the endpoint is switched off.
    refusals_in_a_row:  after so many refused events, and none taken, the program stops.
    give_up_hours:      after so long an event that is answered 500 goes to the dead letters.
    state:              the folder of the file that says since when an endpoint fails; None: the
                        folder `products` of the home.
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

    @model_validator(mode="after")
    def _of_this_bus(self, info: ValidationInfo) -> Self:
        self._home = (info.context or {}).get("home")
        return self

    @property
    def folder(self) -> Path:
        """`state`, or where it lies without that; raises `Stop` for settings that are wrong."""
        return self.state or (self._home or load().home) / "products"

    @property
    def earlier_folder(self) -> Path | None:
        """Where version 0.1.0 had it, which did not look at `home` of bus.toml."""
        return None if self.state else Path(os.environ.get("BUS_HOME", ".bus")) / "products"


class Place(NamedTuple):
    """One row: its table and where its message is."""

    table: str
    topic: str
    partition: int
    offset: int


@dataclass(slots=True)
class Try:
    """One call of `deliver`."""

    ends: float
    taken: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    after: float | None = None
    gone: str = ""
    refusal: str = ""
    halted: bool = False


class Http:
    """The delivery; see the module's docstring. `compose` makes the requests."""

    def __init__(self, settings: HttpSettings, compose: Compose) -> None:
        self._url = endpoint.address(settings.url)
        self._shown = endpoint.shown(self._url)
        self._target = URL(str(self._url), encoded=True)
        self._settings = settings
        self._compose = compose
        self._standing = Standing(
            settings.folder,
            self._url,
            timedelta(hours=settings.disable_after_hours),
            settings.earlier_folder,
        )
        self._settled: dict[Place, str] = {}  # of the batch in hand: "" taken, else why refused
        self._broke: dict[Place, float] = {}  # of the batch in hand: when first answered 500
        self._refused = 0
        self._extra: dict[str, str] = {}
        self._loop = new_event_loop()
        self._client = self._loop.run_until_complete(self._open())

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Forget what was taken of these partitions: an operator may want it sent once more."""
        again = set(partitions)
        self._settled = {
            place: why
            for place, why in self._settled.items()
            if Position(place.topic, place.partition) not in again
        }
        return {}

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Send all that has not been taken yet; see the module's docstring."""
        attempt = Try(ends=time.monotonic() + TRY_SECONDS)
        self._loop.run_until_complete(self._send(batch, attempt))
        if attempt.taken:
            self._standing.well()
        if attempt.gone:
            self._standing.disable(attempt.gone)
        if self._refused >= self._settings.refusals_in_a_row:
            raise Stop(
                f"{self._shown} refused the last {self._refused} events and took none "
                f"({attempt.refusal}); check its secret, its address and its kinds, start again"
            )
        if attempt.failures:
            whys = ", ".join(f"{why} ({n}x)" for why, n in attempt.failures.most_common())
            self._standing.ill(whys)
            raise RetryLater(
                f"{self._shown} does not take events now: {whys}; the rest is sent again later",
                after=attempt.after,
            )
        if attempt.halted:
            raise RetryLater(
                f"{self._shown} is slow: {attempt.taken} events in {TRY_SECONDS:.0f} s; more follow"
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
        """Send it as `deliver` does, each request with the header `schoolbus-replay`."""
        self._extra = {REPLAY: replay}
        return self.deliver(batch)

    def settle(self) -> None:
        """Nothing is ever put off."""

    def release(self, partitions: Iterable[Position]) -> None:
        """Nothing is kept between batches."""

    def close(self) -> None:
        """Give up what is under way, close the connections."""
        if self._loop.is_closed():
            return
        self._loop.run_until_complete(self._end(asyncio.all_tasks(self._loop)))
        self._loop.close()

    async def _open(self) -> aiohttp.ClientSession:
        settings, near = self._settings, endpoint.loopback(self._url.host)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.concurrency,
                keepalive_timeout=IDLE_SECONDS,
                # A district's own certificates come from the usual environment, as the proxy does.
                ssl=httpx2.create_ssl_context(trust_env=not near),
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_seconds),
            proxy=None if near else endpoint.proxy(self._url),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def _end(self, under_way: Iterable[asyncio.Task[object]]) -> None:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._client.close()
        await asyncio.sleep(0)  # lets the closed connections go
        await self._loop.shutdown_default_executor()

    async def _send(self, batch: Batch, attempt: Try) -> None:
        for _ in range(3):  # so that connections which the endpoint has closed meanwhile are known
            await asyncio.sleep(0)
        for part in batch.parts:
            owner = KINDS[part.kind].owner
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
        """Send these rows one after another; the first that is not taken now ends it."""
        for i in rows:
            if attempt.halted or time.monotonic() > attempt.ends:
                attempt.halted = True
                return
            message, place = part.messages[i], _place(part, part.messages[i])
            try:
                post = self._compose(part.kind, part.rows[i], message)
            except Never as never:
                code = never.code or FaultCode.UNTRANSLATABLE
                self._settled[place] = Reason(str(never), code)
                continue
            if post and not self._note(place, await self._request(post), attempt):
                return

    def _note(self, place: Place, outcome: Outcome, attempt: Try) -> bool:
        """Remember what became of a request; whether its lane may go on."""
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
            attempt.gone, attempt.halted = why, True
        elif why == BROKE and self._given_up(place):
            hours = self._settings.give_up_hours
            reason = f"the endpoint answered {why} to it for {hours:g} hours"
            self._settled[place] = Reason(reason, FaultCode.ENDPOINT_FAILS)
        else:
            attempt.failures[why] += 1
            if after is not None:
                attempt.after = max(after, attempt.after or 0.0)
            # Who says when to come back means all requests, not this one alone.
            throttled = after is not None or why == THROTTLED
            attempt.halted |= throttled or attempt.failures.total() >= FEW
            return False
        return True

    def _given_up(self, place: Place) -> bool:
        now = time.monotonic()
        return now - self._broke.setdefault(place, now) > self._settings.give_up_hours * 3600

    async def _request(self, post: Post) -> Outcome:
        """One request and its answer."""
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
                async for chunk in answer.content.iter_any():  # to its end: for the next request
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
