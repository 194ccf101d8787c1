"""Least attained service: the job that has had the least time in calls goes first.

PLAS of Autellix (Luo et al., "Autellix: An Efficient Serving Engine for LLM Agents as General Programs",
2025): service is counted by program, not by call, and in the levels of a multi-level feedback queue, FIFO
within a level. The widths of our levels double. Good where job sizes vary widely, bad where they are alike.
"""

from __future__ import annotations

from bisect import bisect_right

from aios_dist.policies.rank import Rank, Waiting

LEVEL_ENDS_S = tuple(4.0 * 2**n for n in range(11))
"""Seconds in calls at which a job goes down a level: 4, 8, 16 … 4096; there it stays."""

LEVEL_US = 1e14
"""More than any step waits (three years): levels never mix."""


def level(served: float) -> int:
    """The level of a job that has been served for so many seconds: 0 to 11."""
    return bisect_right(LEVEL_ENDS_S, served)


def las(step: Waiting) -> Rank:
    """The job's level, then the time of becoming ready. Long jobs can starve: use ``oldest_every``."""
    return Rank(base=level(step.served) * LEVEL_US)
