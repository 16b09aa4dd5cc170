"""Watches, while a consumer delivers under an agreement, whether the agreement is still active.

`bus vendors revoke` writes to `PREFIX.vendors`. A thread asks Kafka twice a second for the end of
that topic, and reads the topic again when something was added. So a consumer learns of a revocation
within a second. If Kafka does not answer for `UNKNOWN_SECONDS`, the consumer delivers nothing until
Kafka answers again, because it does not know whether the agreement is still active.

The thread also reads the agreement's own topics ahead of the consumer and remembers deletions. A
consumer that lags, or that tries again after a failure, asks the thread before it delivers an old
state. So the consumer does not deliver a record that an opt-out has deleted. It does not deliver a
state from before a change of the agreement or of its ids either (`bus.vendors.outbox`): the
projection writes again what the vendor may still receive.

A message of another edition of the agreement may also be newer than what the thread knows. Then the
consumer must start again, and must not skip the message. So the thread first asks Kafka whether the
agreement has changed since the message was written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from datetime import date
from typing import TYPE_CHECKING

import structlog

from bus.delivery import AgreementOver, Position
from bus.errors import BusError, RetryLater, Stop
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.kafka.cloudevents import header
from bus.kafka.offsets import Offsets, retryable
from bus.kafka.reader import Reader, position
from bus.settings import Settings
from bus.vendors import applied as applied_agreements
from bus.vendors import written_editions
from bus.vendors.applied import Applied
from bus.vendors.outbox import SCOPE, scope_mark

if TYPE_CHECKING:
    from confluent_kafka import Message

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""Kafka is asked for news of agreements once in this many seconds."""
UNKNOWN_SECONDS = 3.0
"""After this many seconds without an answer, it is unknown whether the agreement is active."""
DOUBT_SECONDS = 0.02
"""How long the consumer waits before it asks again whether a message is of an earlier edition."""
READ_SECONDS = 0.1
"""How long one call waits for messages."""
START_SECONDS = 60.0
"""How long a start waits for Kafka's answer."""
KEPT = 100_000
"""When the watch remembers more deletions than this, it drops those that the group has delivered.
It does so again when the rest has doubled."""

FAILURE = "could not ask whether the agreement still holds: Kafka reports {}"


class AgreementChanged(AgreementOver):
    """The agreement or its ids have changed. The consumer must start again."""


class AgreementWatch:
    """A `bus.delivery.Permission`. Use it as a context manager; entering it waits for Kafka.

    applied: the agreement under which the consumer began.
    names:   the agreement's topics that the consumer reads.
    group:   the consumer's group, without the prefix.
    over:    why the agreement is over, if the caller knows it already.
    today:   returns the day in the district's calendar.
    clock:   a monotonic clock in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        applied: Applied,
        names: Collection[str],
        group: str,
        *,
        over: Stop | None = None,
        today: Callable[[], date] = applied_agreements.today,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._applied = applied
        self._scope = scope_mark(applied.edition)
        self._names = names
        self._group = group
        self._today = today
        self._clock = clock
        self._end = over
        self._complete = False
        self._most = KEPT
        self._asked = self._confirmed = -UNKNOWN_SECONDS
        self._seen: tuple[int, date] | None = None
        self._behind: set[Position] | None = None
        self._deleted: dict[tuple[Position, bytes], int] = {}
        self._caught_up = threading.Event()
        self._doubt = threading.Event()  # whether the next look must set `_earlier`
        self._earlier: dict[Position, int] = {}  # what lies before is no newer than this edition
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agreement-watch", daemon=True)

    def __enter__(self) -> AgreementWatch:
        """Wait until the thread knows the agreement's state and all deletions.

        Raises `Stop` if the agreement is not active, `RetryLater` if Kafka does not answer.
        """
        began = self._clock()
        self._confirmed = self._asked = began - LOOK_SECONDS
        self._thread.start()
        while not self._caught_up.wait(0.05):
            self._raise_end()
            if self._clock() - max(self._confirmed, began) > START_SECONDS:
                self.close()
                raise RetryLater(FAILURE.format("no answer"))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(5.0)

    # ---- for the consumer ----------------------------------------------------------------------

    def check(self) -> None:
        """See `bus.delivery.Permission.check`."""
        self._raise_end()
        silence = self._clock() - self._confirmed
        if silence > UNKNOWN_SECONDS:
            raise RetryLater(
                f"Kafka has not answered for {silence:.0f} s, so it is unknown whether the "
                f"agreement {self._applied.name} still holds; nothing is sent until it answers"
            )

    def complete(self) -> bool:
        """See `bus.delivery.Permission.complete`."""
        return self._complete

    def outdated(self, message: Message) -> bool:
        """See `bus.delivery.Permission.outdated`."""
        place, offset = position(message), message.offset() or 0
        at = self._deleted.get((place, message.key() or b""))
        if at is not None and at > offset:
            return True
        if message.value() is None or header(message, SCOPE) in (None, self._scope):
            return False
        while offset >= self._earlier.get(place, 0):
            self._doubt.set()
            time.sleep(DOUBT_SECONDS)
            self.check()  # raises if the message is of a newer edition
        return True

    def _raise_end(self) -> None:
        if (end := self._end) is not None:
            raise type(end)(str(end))

    # ---- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and self._end is None:
                try:
                    self._follow()
                except RetryLater as error:
                    log.info("asking again whether the agreement is active", why=str(error))
                    self._stopping.wait(LOOK_SECONDS)
        except BusError as error:
            self._end = Stop(str(error))
        except Exception as error:  # without this thread, the consumer may deliver nothing
            log.exception("the watch of the agreement failed")
            self._end = Stop(
                f"it is unknown whether the agreement {self._applied.name} still holds "
                f"({type(error).__name__}); start the consumer again"
            )

    def _follow(self) -> None:
        """Look at the agreement and read its topics until something fails."""
        with (
            Reader(self._settings, FAILURE, seconds=1.0) as asking,
            Reader(self._settings, FAILURE) as reading,
        ):
            self.look(asking)
            reading.assign(self._unread())
            while not self._stopping.is_set() and self._end is None:
                if self._doubt.is_set() or self._clock() - self._asked >= LOOK_SECONDS:
                    self.look(asking)
                self.read(reading)

    def look(self, reader: Reader) -> None:
        """Ask Kafka for news of the agreement, and the calendar for the day."""
        self._asked, day = self._clock(), self._today()
        written: dict[Position, int] = {}
        if self._doubt.is_set():
            self._doubt.clear()
            # Before the agreement is read: the projection writes messages of a new edition only
            # after that edition was stored.
            written = reader.ends(self._names)
        ends = reader.ends([topics.vendors(self._settings)])
        seen = sum(ends.values()), day
        if seen != self._seen:
            stored = applied_agreements.read(self._settings).get(self._applied.name)
            edition = written_editions.read(self._settings, self._applied.name)
            self._complete = edition == self._applied.edition
            self._end = why_over(self._applied, stored, day)
            self._seen = seen
        if self._end is None:
            self._earlier = self._earlier | written
        self._confirmed = self._asked

    def read(self, reader: Reader) -> None:
        """Remember the deletions among the next messages of the agreement's topics."""
        messages, ended = reader.take(patience=READ_SECONDS)
        for message in messages:
            if message.value() is None:
                key = position(message), message.key() or b""
                self._deleted[key] = message.offset() or 0
        if self._behind is not None:
            self._behind.difference_update(place for place, _ in ended)
            if not self._behind:
                self._caught_up.set()
        if len(self._deleted) > self._most:
            self._drop_delivered()

    def _unread(self) -> dict[Position, int]:
        """Return the offset in each partition before which the group has delivered everything."""
        committed = self._committed()
        self._behind = set(committed)
        if not committed:
            self._caught_up.set()
        return committed

    def _drop_delivered(self) -> None:
        committed = self._committed()
        self._deleted = {
            (place, key): at
            for (place, key), at in self._deleted.items()
            if at >= committed.get(place, 0)
        }
        self._most = max(KEPT, 2 * len(self._deleted))

    def _committed(self) -> dict[Position, int]:
        client = Offsets(group_settings(self._settings, self._group), self._stopping.wait)
        try:
            with retryable():
                places = client.partitions(self._names)
                return {place: max(at, 0) for place, at in client.committed(places).items()}
        finally:
            client.close()


def why_over(began: Applied, stored: Applied | None, day: date) -> Stop | None:
    """Return why a consumer that began under an agreement must end, or None.

    stored: the agreement as it is stored now.
    day:    today, in the district's calendar.
    """
    name = began.name
    if stored is None:
        return AgreementOver(f"the agreement {name} is not stored any more; nothing more is sent")
    if stored.state == "revoked":
        return AgreementOver(
            f"the agreement {name} was revoked; nothing more is sent to the vendor"
        )
    if stored.over(day):
        return AgreementOver(
            f"the agreement {name} ended on {stored.agreement.until}; nothing more is sent to the "
            "vendor. If an agreement renews it, start that agreement's own consumer"
        )
    if not stored.active(day):
        return Stop(f"the agreement {name} begins on {stored.agreement.from_}; nothing is sent yet")
    if stored.edition != began.edition:
        return AgreementChanged(f"the agreement {name} was changed")
    return None
