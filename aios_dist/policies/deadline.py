"""Earliest deadline first (Liu and Layland, J. ACM 1973): the job whose deadline is nearest goes first.

Best where all deadlines can be met; once they cannot, many are missed by a little. Jobs without a deadline
come after all that have one, in the order of becoming ready.
"""

from __future__ import annotations

from aios_dist.policies.rank import SECOND_US, Rank, Waiting

NO_DEADLINE_US = 1e15
"""Thirty years: after every deadline, which are ten years from the submission at most."""


def deadline(step: Waiting) -> Rank:
    """The job's deadline on Redis' clock, anew from a retry. Those without one can starve."""
    if step.deadline is None:
        return Rank(base=NO_DEADLINE_US)
    return Rank(base=step.deadline * SECOND_US, since="submitted")
