"""FIFO: the order in which steps became ready, across all agents (AIOS' FIFO scheduler)."""

from __future__ import annotations

from aios_dist.policies.rank import Rank, Waiting


def fifo(step: Waiting) -> Rank:
    """The time of becoming ready and nothing else. Nobody starves: who came before goes before."""
    return Rank()
