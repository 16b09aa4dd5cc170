"""The guard against a mass withdrawal: when so much of a kind would go that a person must say yes.

An extract that was cut short looks like one from which records are gone. The rule is one of counts,
as a share alone says little of a small kind: that one of five schools closes is 20 %, and right.
"""

from __future__ import annotations

from bus.settings import MassWithdrawalSettings


def objection(limits: MassWithdrawalSettings, withdrawn: int, stood: int) -> str | None:
    """Say what is too much when so many of the records that stood of a kind would be withdrawn.

    None: it is not too much.
    """
    if withdrawn >= stood > limits.all_of:
        return f"all of a kind that had more than {limits.all_of:,}"
    if 2 * withdrawn >= stood > limits.half_of:
        return f"half or more of a kind that had more than {limits.half_of:,}"
    if withdrawn > limits.records and withdrawn > limits.share * stood:
        return f"more than {limits.records:,} records and more than {limits.share:.0%} of a kind"
    return None
