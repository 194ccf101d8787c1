"""Least attained service: the job that has had the least time in calls goes first.

PLAS of Autellix (Luo et al., "Autellix: An Efficient Serving Engine for LLM Agents as General Programs",
2025): service is counted by program, not by call, and in levels of a multi-level feedback queue whose
widths double, FIFO within a level. Good where job sizes vary widely, bad where they are alike.
"""

from __future__ import annotations

import math

from aios_dist.policies.rank import Rank, Waiting

FIRST_LEVEL_S = 4.0
"""Seconds in calls until a job leaves the first level; each next level takes twice as many."""

LEVELS = 12

LEVEL_US = 1e14
"""More than any step waits (three years): levels never mix."""


def level(served: float) -> int:
    """The level of a job that has been served for so many seconds, from 0."""
    if served < FIRST_LEVEL_S:
        return 0
    return min(LEVELS - 1, 1 + int(math.log2(served / FIRST_LEVEL_S)))


def las(step: Waiting) -> Rank:
    """The job's level, then the time of becoming ready. Long jobs can starve: use ``oldest_every``."""
    return Rank(base=level(step.served) * LEVEL_US)
