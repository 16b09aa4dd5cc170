"""Names of topics, and where a record goes."""

from __future__ import annotations

import pytest

from bus import topics
from bus.failures import Stop
from bus.settings import Settings


def test_names() -> None:
    settings = Settings(topic_prefix="west")
    assert topics.topic(settings, "academicSession") == "west.academicSession"
    assert topics.kind_of(settings, "west.academicSession") == "academicSession"
    assert topics.kind_of(settings, "west.deadletters.canvas") is None
    assert topics.kind_of(settings, "schoolbus.student") is None


def test_one_owner_has_one_partition_and_owners_spread() -> None:
    placed = [topics.partition_for(f"student-{n}", 4) for n in range(10_000)]
    assert placed[0] == topics.partition_for("student-0", 4)
    assert all(2_200 < placed.count(partition) < 2_800 for partition in range(4))


def test_placement_is_librdkafkas_consistent_partitioner() -> None:
    """CRC-32 is the same everywhere, so a producer in any language can place alike."""
    import zlib

    assert topics.partition_for("4711", 12) == zlib.crc32(b"4711") % 12


def test_topics_of_different_width_stop_the_program() -> None:
    with pytest.raises(Stop, match=r"schoolbus\.class 6, schoolbus\.student 4"):
        topics.count(Settings(), {"schoolbus.student": 4, "schoolbus.class": 6, "other": 9})
