"""The topics that an agreement has, and those that it may have had."""

from __future__ import annotations

from pathlib import Path

from bus.settings import Settings
from bus.standard.kinds import KINDS
from bus.vendors.scope import compile_scope
from bus.vendors.vendor_topics import possible_topics, topics_by_kind
from tests.agreements import an_agreement


def test_topics_of_kinds_that_were_shared_earlier_are_known(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    narrow = compile_scope(an_agreement(share={"categories": ["Enrollment"]}))
    now = set(topics_by_kind(settings, narrow, "math").values())
    ever = possible_topics(settings, "math")
    assert now < set(ever)
    assert set(ever) == {f"schoolbus.vendor.math.{kind}" for kind in KINDS if kind != "optOut"}
