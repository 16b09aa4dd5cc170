"""Notices when many opt-outs end at once, for example because a file of them was incomplete.

Students whose opt-out ends enter agreements again, and data that was sent cannot be taken back. So
the projection holds back everybody who would enter, until a person allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bus.vendors.record_rules import Change
from bus.vendors.scope import OPT_OUT

FEWEST = 5
"""This many opt-outs may end at once, whatever their share."""
SHARE = 0.5


def opt_outs_vanish(changes: Iterable[Change], active: Callable[[], int]) -> bool:
    """Return whether more than five opt-outs end at once, and more than half of all.

    active: counts the opt-outs that are active after the changes. It reads all of them, so it is
            called only when more than five end.
    """
    ended = sum(
        change.kind == OPT_OUT
        and change.before is not None
        and change.before["status"] == "active"
        and (change.after is None or change.after["status"] != "active")
        for change in changes
    )
    return bool(ended > FEWEST and ended > SHARE * (active() + ended))
