"""The higher priority goes first, 0 to 9; a minute of waiting is worth a level.

``rank = ready − priority × 60 s``: ageing is built in and nothing is sorted again. Best where you know what
matters; the low ones pay. Where steps wait far less than a minute the order is practically strict. A step is
passed only by steps that became ready at most nine minutes after it.
"""

from __future__ import annotations

from aios_dist.policies.rank import SECOND_US, Policy, Rank, Waiting

LEVEL_S = 60.0
"""Seconds of waiting that are worth one level of priority."""


def rank(step: Waiting) -> Rank:
    """Becoming ready a minute earlier is worth one level.

    Two waiting steps age alike, so their order never changes: the one with the least time of arrival plus
    "urgency number" goes first.
    """
    return Rank(per_priority=LEVEL_S * SECOND_US)


POLICY = Policy(
    "priority",
    rank,
    starves=False,
    looks_back=False,
    source="J. R. Jackson, Naval Research Logistics Quarterly 7, 1960",
)
