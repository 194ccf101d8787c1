"""Round-robin over agents: one step of each agent's jobs in turn, however many jobs an agent has.

Start-time fair queueing with equal costs (Goyal, Vin and Cheng, SIGCOMM 1996): a step gets the round after
its agent's last one, but no round that the lane has passed already, so an agent that comes back after a
pause neither waits for the others nor has saved anything up.
"""

from __future__ import annotations

from aios_dist.policies.rank import Rank, Waiting


def round_robin(step: Waiting) -> Rank:
    """The next round of the step's agent.

    Nobody starves: before an agent's next step goes at most one of each other agent in the round that runs,
    and one in the next round where the agent has had its turn in this one already.
    """
    return Rank(since="round", group=step.agent)
