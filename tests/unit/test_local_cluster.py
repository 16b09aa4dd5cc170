"""How far a group is behind, from what it has committed and what the topics hold."""

from __future__ import annotations

from bus.kafka.overview import _spans

FIRST = {("t", 0): 10, ("t", 1): 0, ("u", 0): 0}
END = {("t", 0): 30, ("t", 1): 5, ("u", 0): 7}


def test_it_is_behind_from_where_it_stands_to_the_end() -> None:
    assert _spans({("t", 0): 25, ("t", 1): 5}, FIRST, END) == {("t", 0): (25, 30), ("t", 1): (5, 5)}


def test_a_partition_without_a_commit_counts_from_its_start() -> None:
    assert _spans({("t", 1): 5}, FIRST, END)[("t", 0)] == (10, 30)


def test_what_compaction_or_time_took_away_is_not_waited_for() -> None:
    assert _spans({("t", 0): 3}, FIRST, END)[("t", 0)] == (10, 30)


def test_a_topic_that_was_made_anew_counts_from_its_start() -> None:
    assert _spans({("u", 0): 900}, FIRST, END) == {("u", 0): (0, 7)}


def test_topics_of_others_do_not_count() -> None:
    assert _spans({("other", 0): 1}, FIRST, END) == {}
