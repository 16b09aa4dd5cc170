"""Several instances of `bus vendors run` share the partitions of the district's topics."""

from __future__ import annotations

import pytest

from tests.integration.commands import Commands
from tests.integration.test_vendors import (
    SAMPLE,
    assert_equal,
    received,
    run,
    vendors,
)

__all__ = ["vendors"]


@pytest.fixture
def sharded(vendors: Commands) -> Commands:
    """The same district, whose students are divided into two shards."""
    vendors.variables["BUS_VENDORS__SHARDS"] = "2"
    return vendors


def test_each_vendor_has_what_its_agreement_and_the_district_say(sharded: Commands) -> None:
    settings = sharded.settings
    run(sharded, "apply")
    assert run(sharded, "run", "--until-caught-up")["agreements"] == ["school", "whole"]
    assert_equal(settings, "school", "whole")
    assert 0 < len(received(settings, "school")) < len(received(settings, "whole"))
    sharded.run("produce", "oneroster-csv", str(SAMPLE.write(sharded.cwd / "day-2.zip", day=2)))
    run(sharded, "run", "--until-caught-up")
    assert_equal(settings, "school", "whole")
    assert run(sharded, "run", "--until-caught-up")["sent"] == 0
