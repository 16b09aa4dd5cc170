"""How many examples the property tests draw: few in the unit run, many in the full one.

Both draw the same ones each time, so that a run says something about the change and not about
luck; `HYPOTHESIS_PROFILE=explore` looks for new ones.

And the options of the fault tests (`tests/faults`), declared here as pytest wants them at the top.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("quick", max_examples=8, derandomize=True)
settings.register_profile("full", max_examples=60, derandomize=True)
settings.register_profile("explore", max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--long", action="store_true", help="the fault tests in their long form")
    group.addoption("--seed", type=int, default=1, help="what the faults are drawn from (1)")
