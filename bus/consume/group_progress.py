"""What all instances of a consumer have delivered, this one included.

A record that names one which has not been delivered waits; how long is for all instances to say,
as what it names may lie in a partition of another.
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
    """Asks Kafka what the group has delivered, and tells the index of it.

    kinds: for each topic of the product the kind of its records.
    """

    def __init__(
        self,
        inquiry: Offsets,
        partitions: Assignment,
        delivered: DeliveredIndex,
        kinds: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._inquiry = inquiry
        self._partitions = partitions
        self._delivered = delivered
        self._kinds = kinds
        self._asked = 0.0
        self._goal: dict[Position, int] = {}  # where the topics ended at the moment `_goal_set`
        self._goal_set = 0.0
        self._up_to: dict[int, float] = {}

    def reached(self, goal: Mapping[Position, int]) -> bool:
        """Whether the others have committed these offsets, each for the partitions it has.

        Those of an instance that was killed come to us when its time in the group is over.
        """
        others = [place for place in goal if place not in self._partitions.next]
        return all(at >= goal[place] for place, at in self._inquiry.committed(others).items())

    def ask_again(self, seconds: float, *, waiting: bool) -> None:
        """Ask, unless that was done within so many seconds."""
        if self._clock() - self._asked > seconds:
            self.ask(waiting=waiting)

    def ask(self, own: Mapping[Position, int] | None = None, *, waiting: bool) -> None:
        """Learn what has been delivered.

        own:     offsets that the delivery itself stands for; they may be ahead of the committed.
        waiting: whether there are records that wait, so that `delivered_up_to` will be asked.
        """
        self._asked = self._clock()
        referred = [topic for topic, kind in self._kinds.items() if kind in self._delivered.kinds]
        committed = self._inquiry.committed(self._inquiry.partitions(referred))
        done = {place: at for place, at in committed.items() if at > 0}
        for place, offset in (own or {}).items():
            done[place] = max(offset, done.get(place, 0))
        if not self._delivered.is_recalled:
            self._delivered.recall(self._inquiry.cluster(), done)
        self._delivered.refresh(done)
        self.ask_what_is_carried()
        if waiting:
            self._look_round(done)

    def ask_what_is_carried(self) -> None:
        """Learn which kinds are not carried: nothing lies in their topics."""
        unheard = self._delivered.unheard
        asked = [topic for topic, kind in self._kinds.items() if kind in unheard]
        ends = self._inquiry.ends(asked) if asked else {}
        self._delivered.note_carried({self._kinds[place.topic] for place in ends})

    def _look_round(self, done: Mapping[Position, int]) -> None:
        """Learn up to when all that was in the topics has been delivered, level by level.

        done: up to where others have committed; of our own partitions what was read counts.
        """
        if not self._goal:
            self._goal_set, self._goal = self._clock(), self._inquiry.ends(self._kinds)
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
        """A moment of the monotonic clock: what of lower levels was in the topics then has been
        delivered since. Only what a record of this level has outwaited so long does it wait for in
        vain.
        """
        return self._up_to.get(level, -math.inf)
