"""The partitions of one instance of a consumer: how far each was read, and which are paused.

Referenced records are read before the records that refer to them. While a partition is behind, all
partitions of a higher level (`bus.standard.Kind.level`) are paused. So on a first day, eight
million enrollments need not be held in memory until the classes have been read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Consumer, TopicPartition

from bus.delivery import Position
from bus.kafka.offsets import Offsets
from bus.standard import KINDS

BEHIND_SECONDS = 1.0
"""A partition is behind when it is read for this many seconds without reaching its end."""


class Assignment:
    """Tracks the partitions of this instance, and pauses and resumes them.

    next:   for each partition, the offset after the last record that was read.
    joined: whether the group has assigned this instance its partitions, even if there are none.
    kinds:  for each topic, the kind of its records.
    """

    def __init__(
        self,
        consumer: Consumer,
        offsets_client: Offsets,
        kinds: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.next: dict[Position, int] = {}
        self.joined = False
        self._clock = clock
        self._consumer = consumer
        self._offsets_client = offsets_client
        self._kinds = kinds
        self._unannounced: dict[Position, int] = {}
        # Not at their end: when they were assigned, or for `BEHIND_SECONDS` since then.
        self._behind: set[Position] = set()
        # Since when each partition is read without reaching its end.
        self._unended: dict[Position, float] = {}
        self._paused: set[Position] = set()

    @property
    def behind(self) -> int:
        """The number of partitions that are behind."""
        return len(self._behind)

    # ---- which partitions --------------------------------------------------------------------

    def locate(self, places: Iterable[Position], own: Mapping[Position, int]) -> None:
        """Find the offset at which to go on in each of these partitions.

        own: offsets that the delivery keeps itself. Without one, the group's committed offset
             counts.
        """
        committed = self._offsets_client.committed(places)
        marks = self._offsets_client.marks(committed)
        for place, offset in committed.items():
            low, high = marks[place]
            at = own.get(place, offset)
            if at < low or at > high:  # no committed offset, or the topic was created again
                at = low
            self.next[place] = at
            if at < high:
                self._behind.add(place)

    def assign(self, places: Iterable[Position]) -> None:
        """Start to read these partitions, which were passed to `locate` before."""
        self.joined = True
        found = {place: self.next[place] for place in places}
        self._consumer.incremental_assign([TopicPartition(*at, o) for at, o in found.items()])
        # librdkafka keeps the pause of a partition while another instance has the partition.
        self._consumer.resume([TopicPartition(*at) for at in found])
        self._unannounced |= found

    def seek(self) -> None:
        """Read all partitions again from the offsets in `next`."""
        for place, offset in self.next.items():
            self._consumer.seek(TopicPartition(*place, offset))

    def revoke(self, places: Iterable[Position]) -> None:
        """Forget these partitions: another instance has them."""
        for place in places:
            self.next.pop(place, None)
            self._unended.pop(place, None)
            self._behind.discard(place)
            self._paused.discard(place)

    def untouched(self) -> dict[Position, int]:
        """Return the start offsets of the partitions from which nothing was read yet.

        After `announced`, only partitions that were assigned since are returned.
        """
        self._unannounced = {p: o for p, o in self._unannounced.items() if self.next.get(p) == o}
        return self._unannounced

    def announced(self) -> None:
        """Remember that the group has committed the start offset of each partition."""
        self._unannounced = {}

    # ---- how far -----------------------------------------------------------------------------

    def took(self, ends: Mapping[Position, int]) -> None:
        """Remember that records were read.

        ends: for each partition, the offset after its last record.
        """
        self.next |= ends
        now = self._clock()
        for place in ends:
            since = self._unended.setdefault(place, now)
            if now - since > BEHIND_SECONDS and place not in self._paused:
                self._behind.add(place)

    def ended(self, place: Position, offset: int) -> bool:
        """Remember that a partition was read to its end.

        Returns whether the group must commit the offset, because it is new or the partition was
        behind.
        """
        if place not in self.next:
            return False
        # After the last record there are only transaction markers: nothing to deliver.
        end = max(self.next[place], offset)
        news = place in self._behind or end > self.next[place]
        self.next[place] = end
        self._behind.discard(place)
        self._unended.pop(place, None)
        return news

    # ---- read or paused ----------------------------------------------------------------------

    def gate(self, *, shut: bool, waiting: Iterable[str]) -> None:
        """Pause and resume partitions, so that referenced records are read first.

        shut:    pause all partitions.
        waiting: kinds of which too many records wait. Partitions of their level or above are
                 paused.
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
