"""How many examples the property tests draw: few in the unit run, many in the full one."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("quick", max_examples=8)
settings.register_profile("full", max_examples=60)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
