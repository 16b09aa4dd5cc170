"""What all instances of a consumer have delivered, including this one.

A record waits when it refers to a record that has not been delivered. How long it waits depends on
all instances, because the other record may be in the partition of another instance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from bus.consume.assignment import Assignment
from bus.consume.delivered_index import DeliveredIndex
from bus.delivery import Position
from bus.kafka.offsets import Offsets
from bus.standard import KINDS


class GroupProgress:
    """Asks Kafka what the group has delivered, and updates the index of delivered records.

    kinds: for each topic of the product, the kind of its records.
    """

    def __init__(
        self,
        offsets_client: Offsets,
        partitions: Assignment,
        delivered: DeliveredIndex,
        kinds: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._offsets_client = offsets_client
        self._partitions = partitions
        self._delivered = delivered
        self._kinds = kinds
        self._asked = 0.0
        self._goal: dict[Position, int] = {}  # the ends of the topics at `_goal_set`
        self._goal_set = 0.0
        self._up_to: dict[int, float] = {}

    def reached(self, goal: Mapping[Position, int]) -> bool:
        """Return whether the other instances have committed these offsets for their partitions.

        The partitions of an instance that was killed are assigned to this or another instance when
        its session in the group times out.
        """
        others = [place for place in goal if place not in self._partitions.next]
        return all(
            at >= goal[place] for place, at in self._offsets_client.committed(others).items()
        )

    def ask_again(self, seconds: float, *, waiting: bool) -> None:
        """Ask, unless this was done within this many seconds."""
        if self._clock() - self._asked > seconds:
            self.ask(waiting=waiting)

    def ask(self, own: Mapping[Position, int] | None = None, *, waiting: bool) -> None:
        """Ask Kafka what has been delivered.

        own:     offsets that the delivery keeps itself. They may be ahead of the committed offsets.
        waiting: whether records wait, so that `delivered_up_to` is needed.
        """
        self._asked = self._clock()
        referred = [topic for topic, kind in self._kinds.items() if kind in self._delivered.kinds]
        committed = self._offsets_client.committed(self._offsets_client.partitions(referred))
        done = {place: at for place, at in committed.items() if at > 0}
        for place, offset in (own or {}).items():
            done[place] = max(offset, done.get(place, 0))
        if not self._delivered.is_recalled:
            self._delivered.recall(self._offsets_client.cluster(), done)
        self._delivered.refresh(done)
        self.ask_what_is_published()
        if waiting:
            self._update_delivered_up_to(done)

    def ask_what_is_published(self) -> None:
        """Ask Kafka which kinds are not published: their topics are empty."""
        unknown_kinds = self._delivered.unknown_kinds
        asked = [topic for topic, kind in self._kinds.items() if kind in unknown_kinds]
        ends = self._offsets_client.ends(asked) if asked else {}
        self._delivered.note_published({self._kinds[place.topic] for place in ends})

    def _update_delivered_up_to(self, done: Mapping[Position, int]) -> None:
        """Find the moment up to which everything in the topics has been delivered, by level.

        done: the committed offsets. For this instance's partitions, what was read counts instead.
        """
        if not self._goal:
            self._goal_set, self._goal = self._clock(), self._offsets_client.ends(self._kinds)
        short = [
            KINDS[self._kinds[place.topic]].level
            for place, end in self._goal.items()
            if self._kinds[place.topic] in self._delivered.kinds
            and self._partitions.next.get(place, done.get(place, 0)) < end
        ]
        lowest = min(short, default=max(kind.level for kind in KINDS.values()))
        self._up_to |= dict.fromkeys(range(lowest + 1), self._goal_set)
        if not short:
            self._goal = {}

    def delivered_up_to(self, level: int) -> float:
        """Return a moment of the monotonic clock up to which lower levels are delivered.

        All records of lower levels that were in the topics at that moment have been delivered
        since. So a record of this level that came before that moment waits in vain.
        """
        return self._up_to.get(level, -math.inf)
