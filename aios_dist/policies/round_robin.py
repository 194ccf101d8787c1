"""Round-robin over agents: one step of each agent's jobs in turn, however many jobs an agent has.

Start-time fair queueing with equal costs (Goyal, Vin, Cheng, SIGCOMM 1996): a step gets the round after
its agent's last one, but no round that the lane has passed already, so an agent that comes back after a
pause neither waits for the others nor has saved anything up.
"""

from __future__ import annotations

from aios_dist.policies.rank import Rank, Waiting


def round_robin(step: Waiting) -> Rank:
    """The next round of the step's agent. Nobody starves: at most one step of each other agent goes before
    an agent's next."""
    return Rank(since="round", group=step.agent)
