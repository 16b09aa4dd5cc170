"""Decide whether a run would withdraw so many records of a kind that a person must approve it.

An extract that was cut short looks like one from which records were deleted. The limits include
counts, because a share alone says little about a small kind. If one of five schools closes, the
share is 20 %, and the withdrawal is correct.
"""

from __future__ import annotations

from bus.settings import MassWithdrawalSettings


def objection(limits: MassWithdrawalSettings, withdrawn: int, active_before: int) -> str | None:
    """Return which limit a withdrawal exceeds, or None if it exceeds none.

    withdrawn:     how many records of a kind the run would withdraw.
    active_before: how many records of the kind were active before.
    """
    if withdrawn >= active_before > limits.all_of:
        return f"all of a kind that had more than {limits.all_of:,}"
    if 2 * withdrawn >= active_before > limits.half_of:
        return f"half or more of a kind that had more than {limits.half_of:,}"
    if withdrawn > limits.records and withdrawn > limits.share * active_before:
        return f"more than {limits.records:,} records and more than {limits.share:.0%} of a kind"
    return None
