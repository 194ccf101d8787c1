"""The job that has had the least time in calls goes first (least attained service).

In levels that end at 4, 8, 16 … 4,096 seconds, FIFO within a level. Best on heavy tails, where few jobs are
far longer than most, and it needs to know nothing. Bad where jobs are alike: all sink together and end late.
"""

from __future__ import annotations

from bisect import bisect_right

from aios_dist.policies.rank import Policy, Rank, Waiting

LEVEL_ENDS_S = tuple(4.0 * 2**n for n in range(11))
"""Seconds in calls at which a job goes down a level: 4, 8, 16 … 4096; there it stays."""

LEVEL_US = 1e14
"""More than any step waits (three years): levels never mix."""


def level(served: float) -> int:
    """The level of a job that has been served for so many seconds: 0 to 11."""
    return bisect_right(LEVEL_ENDS_S, served)


def rank(step: Waiting) -> Rank:
    """The job's level, then the time of becoming ready.

    PLAS counts service by program, not by call, in the levels of a multi-level feedback queue. The widths of
    our levels double.
    """
    return Rank(base=level(step.served) * LEVEL_US)


POLICY = Policy(
    "las",
    rank,
    starves=True,  # long jobs
    looks_back=False,
    source="PLAS of Autellix, an engine for LLM agents as general programs; Luo et al. 2025",
)
