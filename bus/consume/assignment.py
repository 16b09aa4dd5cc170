"""The partitions that this instance of a consumer has: how far each was read, which is read now.

References are read before referrers: while a topic is behind, those that refer to it wait, so a
first day of eight million enrollments does not have to be held in memory until the classes have
been read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Consumer, TopicPartition

from bus.delivery import Position
from bus.kafka.offsets import Offsets
from bus.standard import KINDS

BEHIND_SECONDS = 1.0
"""A partition that is read for so long without coming to an end is behind."""


class Assignment:
    """Knows the partitions of this instance, and pauses and resumes them.

    next:   for each partition the offset after the last record taken.
    joined: whether the group has given this instance its share, be it none.
    """

    def __init__(
        self,
        consumer: Consumer,
        inquiry: Offsets,
        kinds: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.next: dict[Position, int] = {}
        self.joined = False
        self._clock = clock
        self._consumer = consumer
        self._inquiry = inquiry
        self._kinds = kinds
        self._unannounced: dict[Position, int] = {}
        self._behind: set[Position] = set()  # not at their end, when assigned or for a while since
        self._unended: dict[Position, float] = {}  # since when they have been read without an end
        self._paused: set[Position] = set()

    @property
    def behind(self) -> int:
        """How many are behind."""
        return len(self._behind)

    # ---- which -------------------------------------------------------------------------------

    def locate(self, places: Iterable[Position], own: Mapping[Position, int]) -> None:
        """Find where to go on in these.

        own: offsets that the delivery itself stands for; else the group's committed ones count.
        """
        committed = self._inquiry.committed(places)
        for place, offset in committed.items():
            low, high = self._inquiry.marks(place)
            at = own.get(place, offset)
            if at < low or at > high:  # nothing committed yet, or the topic was made anew
                at = low
            self.next[place] = at
            if at < high:
                self._behind.add(place)

    def assign(self, places: Iterable[Position]) -> None:
        """Read these, which were located, from now on."""
        self.joined = True
        found = {place: self.next[place] for place in places}
        self._consumer.incremental_assign([TopicPartition(*at, o) for at, o in found.items()])
        self._unannounced |= found

    def seek(self) -> None:
        """Read all again from where `next` says."""
        for place, offset in self.next.items():
            self._consumer.seek(TopicPartition(*place, offset))

    def revoke(self, places: Iterable[Position]) -> None:
        """Forget these: another instance has them."""
        for place in places:
            self.next.pop(place, None)
            self._unended.pop(place, None)
            self._behind.discard(place)
            self._paused.discard(place)

    def untouched(self) -> dict[Position, int]:
        """Where those begin of which nothing was read yet, until they are `announced`."""
        self._unannounced = {p: o for p, o in self._unannounced.items() if self.next.get(p) == o}
        return self._unannounced

    def announced(self) -> None:
        """The group knows where each begins."""
        self._unannounced = {}

    # ---- how far -----------------------------------------------------------------------------

    def took(self, ends: Mapping[Position, int]) -> None:
        """Records were read: for each partition the offset after its last."""
        self.next |= ends
        now = self._clock()
        for place in ends:
            since = self._unended.setdefault(place, now)
            if now - since > BEHIND_SECONDS and place not in self._paused:
                self._behind.add(place)

    def ended(self, place: Position, offset: int) -> bool:
        """A partition was read to its end; whether the group does not know yet how far that is."""
        if place not in self.next:
            return False
        # Beyond the last record lie only transaction markers: nothing to deliver.
        end = max(self.next[place], offset)
        news = place in self._behind or end > self.next[place]
        self.next[place] = end
        self._behind.discard(place)
        self._unended.pop(place, None)
        return news

    # ---- read or paused ----------------------------------------------------------------------

    def gate(self, *, shut: bool, waiting: Iterable[str]) -> None:
        """Read what may be read now: references before referrers, no flood of what must wait.

        shut:    read nothing.
        waiting: the kinds of which so many records wait that no more of them are to be read.
        """
        level = {place: KINDS[self._kinds[place.topic]].level for place in self.next}
        pause: set[Position] = set()
        if shut:
            pause = set(self.next)
        elif self._behind:
            lowest = min(level[place] for place in self._behind)
            pause = {place for place in self.next if level[place] > lowest}
        elif held := [KINDS[kind].level for kind in waiting]:
            pause = {place for place in self.next if level[place] >= min(held)}
        if more := pause - self._paused:
            self._consumer.pause([TopicPartition(*place) for place in more])
        if fewer := (self._paused - pause) & self.next.keys():
            self._consumer.resume([TopicPartition(*place) for place in fewer])
        self._paused = pause
