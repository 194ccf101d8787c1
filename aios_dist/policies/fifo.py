"""The step that became ready first goes first, across all agents.

Best where nothing is known, where slots are mostly free, and for the longest wait of a step. A short job
waits behind each step of the long ones. No step that became ready later goes before.
"""

from __future__ import annotations

from aios_dist.policies.rank import Policy, Rank, Waiting


def rank(step: Waiting) -> Rank:
    """The time of becoming ready and nothing else."""
    return Rank()


POLICY = Policy("fifo", rank, starves=False, looks_back=False, source="AIOS' FIFO scheduler")
