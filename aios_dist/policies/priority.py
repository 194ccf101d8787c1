"""Priority with ageing: the higher first, and waiting counts too.

``rank = ready − priority × 60 s``: two waiting steps age alike, so their order never changes and nothing is
ever sorted again (J. R. Jackson, "Some problems in queueing with dynamic priorities", Naval Research
Logistics Quarterly 7, 1960: the job with the least time of arrival plus "urgency number" goes first).
"""

from __future__ import annotations

from aios_dist.policies.rank import SECOND_US, Rank, Waiting

LEVEL_S = 60.0
"""Seconds of waiting that are worth one level of priority."""


def priority(step: Waiting) -> Rank:
    """Becoming ready a minute earlier is worth one level. Nobody starves: a step of priority 0 is passed only
    by steps that became ready at most nine minutes after it."""
    return Rank(per_priority=LEVEL_S * SECOND_US)
