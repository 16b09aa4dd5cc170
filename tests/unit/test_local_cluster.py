"""The lag of a group, from what it has committed and what the topics hold."""

from __future__ import annotations

from bus.delivery import Position
from bus.kafka.overview import _spans

T0, T1, U0 = Position("t", 0), Position("t", 1), Position("u", 0)

FIRST = {T0: 10, T1: 0, U0: 0}
END = {T0: 30, T1: 5, U0: 7}


def test_it_is_behind_from_its_position_to_the_end() -> None:
    assert _spans({T0: 25, T1: 5}, FIRST, END) == {T0: (25, 30), T1: (5, 5)}


def test_a_partition_without_a_commit_counts_from_its_start() -> None:
    assert _spans({T1: 5}, FIRST, END)[T0] == (10, 30)


def test_what_compaction_or_time_took_away_is_not_waited_for() -> None:
    assert _spans({T0: 3}, FIRST, END)[T0] == (10, 30)


def test_a_topic_that_was_recreated_counts_from_its_start() -> None:
    assert _spans({U0: 900}, FIRST, END) == {U0: (0, 7)}


def test_topics_of_others_do_not_count() -> None:
    assert _spans({Position("other", 0): 1}, FIRST, END) == {}
