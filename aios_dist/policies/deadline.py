"""The job whose deadline is nearest goes first; jobs without one come last.

Best where all deadlines can be met. Once they cannot, many are missed by a little; and a job that misses its
deadline fails. Jobs without a deadline come in the order of becoming ready.
"""

from __future__ import annotations

from aios_dist.policies.rank import SECOND_US, Policy, Rank, Waiting

NO_DEADLINE_US = 1e15
"""Thirty years: after every deadline, which are ten years from the submission at most."""


def rank(step: Waiting) -> Rank:
    """The job's deadline on Redis' clock, anew from a retry."""
    if step.deadline is None:
        return Rank(base=NO_DEADLINE_US)
    return Rank(base=step.deadline * SECOND_US, since="submitted")


POLICY = Policy(
    "deadline",
    rank,
    starves=True,  # jobs without a deadline
    looks_back=False,
    source="earliest deadline first; Liu and Layland, J. ACM 1973",
)
