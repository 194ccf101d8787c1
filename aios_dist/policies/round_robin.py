"""One step of each agent in turn goes first, however many jobs an agent has.

Best where one agent's many jobs crowd out the others of the same tenant. Waits are longer than under
``fifo``, and the mean is worse where agents differ in how many calls a job needs. At most two steps of each
other agent go before an agent's next: one in the round that runs, one more where its turn has been already.
"""

from __future__ import annotations

from aios_dist.policies.rank import Policy, Rank, Waiting


def rank(step: Waiting) -> Rank:
    """The round after the last one of the step's agent, but none that the lane has passed already: so an
    agent that comes back after a pause neither waits for the others nor has saved anything up."""
    return Rank(since="round", group=step.agent)


POLICY = Policy(
    "round-robin",
    rank,
    starves=False,
    looks_back=False,
    source="start-time fair queueing with equal costs; Goyal, Vin and Cheng, SIGCOMM 1996",
)
