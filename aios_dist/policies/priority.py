"""Priority with ageing: the higher first, and waiting counts too.

``rank = ready − priority / a``: two waiting steps age alike, so their order never changes and nothing is
ever sorted again (linear ageing; Kleinrock, Queueing Systems vol. 2, 1976, "delay-dependent priorities"
with equal slopes). ``a`` is one level in :data:`LEVEL_S` seconds.
"""

from __future__ import annotations

from aios_dist.policies.rank import SECOND_US, Rank, Waiting

LEVEL_S = 60.0
"""Seconds of waiting that are worth one level of priority."""


def priority(step: Waiting) -> Rank:
    """Becoming ready a minute earlier is worth one level. Nobody starves: a step of priority 0 is passed only
    by steps that became ready less than nine minutes after it."""
    return Rank(per_priority=LEVEL_S * SECOND_US)
