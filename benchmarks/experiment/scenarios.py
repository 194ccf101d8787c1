"""What the experiment runs: six loads, four plans. The fleet and the simulator get the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from string import ascii_lowercase

from aios_dist import JobSpec, Plan, agent_first, fifo, fixed, hybrid
from aios_dist.simulate import Run, SimulatedJob, bound, simulate

REPLY_S = 0.3
REPLIES_S = (0.25, 0.5)
"""Where many agents run, replies and own work are drawn from between these two: equal replies would all end
at the same moment, round for round, which no provider does."""
SEED = 1
"""Of those draws, unless ``--seed`` names another."""
SLOW_REPLY_S = 2.5
QUICK_REPLY_S = SLOW_REPLY_S / 10
SLOW = "S"
"""The agent whose replies take ten times as long as the others'."""
REPEATS = 3
ONCE_FROM_S = 10.0
"""Runs that take so long are made once; the rest :data:`REPEATS` times."""

Groups = Sequence[Sequence[JobSpec]]


def _flat(groups: Groups) -> list[JobSpec]:
    return list(chain.from_iterable(groups))


PLANS: dict[str, Callable[[Groups], Plan]] = {
    "fifo": lambda groups: fifo(_flat(groups)),
    "fixed": lambda groups: fixed(_flat(groups)),
    "hybrid": hybrid,
    "agent-first": lambda groups: agent_first(_flat(groups)),
}
"""From the groups of a load to the plan; only ``hybrid`` looks at where a group ends."""


@dataclass(frozen=True)
class Scenario:
    """A load and the slots it runs on.

    Attributes:
        name: also the name of its model, lane and pool: scenarios run side by side and share no slot.
        title: what it is, for people.
        groups: the agents with the seconds of each reply and of their own work, in the order of the plan.
        slots: calls at a time.
    """

    name: str
    title: str
    groups: tuple[tuple[SimulatedJob, ...], ...]
    slots: int

    @property
    def jobs(self) -> tuple[SimulatedJob, ...]:
        """All agents, in the order of the plan."""
        return tuple(chain.from_iterable(self.groups))

    @property
    def bound_s(self) -> float:
        """No order has a shorter makespan: work / slots, or the longest agent alone."""
        return bound(self.jobs, self.slots)

    @property
    def question(self) -> str:
        """Which of the :data:`QUESTIONS` it is for."""
        return self.name.partition("-")[0]

    def simulated(self, plan: str) -> Run:
        """The simulator's run of it."""
        specs = [[job.spec() for job in group] for group in self.groups]
        return simulate(self.jobs, self.slots, plan=PLANS[plan](specs))

    def repeats(self, plan: str) -> int:
        """How often the fleet runs it, by how long the simulator says that it takes."""
        return REPEATS if max(end or 0.0 for end in self.simulated(plan).ends) < ONCE_FROM_S else 1


def _drawn(names: Sequence[str], steps: int, seed: int, *, own: bool = False) -> tuple[SimulatedJob, ...]:
    """Agents that make so many calls each; with or without own work between them."""
    draw = random.Random(seed)

    def seconds(count: int) -> tuple[float, ...]:
        return tuple(round(draw.uniform(*REPLIES_S), 2) for _ in range(count))

    return tuple(
        SimulatedJob(name, seconds(steps), (0.0, *seconds(steps - 1)) if own else ()) for name in names
    )


def _seed() -> tuple[tuple[SimulatedJob, ...], ...]:
    """A makes three calls, B two, C two with 2.5 reply times of its own work between them."""
    a, b = SimulatedJob("A", (REPLY_S,) * 3), SimulatedJob("B", (REPLY_S,) * 2)
    c = SimulatedJob("C", (REPLY_S,) * 2, (0.0, 2.5 * REPLY_S))
    return (a,), (b, c)


def _slow() -> tuple[tuple[SimulatedJob, ...], ...]:
    a, b, c, d, e = (SimulatedJob(name, (QUICK_REPLY_S,) * 2) for name in "abcde")
    return (SimulatedJob(SLOW, (SLOW_REPLY_S,) * 2), a, b), (c, d, e)


def _groups(agents: tuple[SimulatedJob, ...], size: int) -> tuple[tuple[SimulatedJob, ...], ...]:
    return tuple(agents[first : first + size] for first in range(0, len(agents), size))


def scenarios(seed: int = SEED) -> dict[str, Scenario]:
    """All of them by name, with the replies that this seed draws."""
    abc, slow = _seed(), _slow()
    working = _groups(_drawn(ascii_lowercase[:16], 3, seed, own=True), 8)
    many = _groups(_drawn(ascii_lowercase[:20], 5, seed), 5)
    found = (
        Scenario("io-one", "The seed's A, B and C on one slot; C works between its calls", abc, 1),
        Scenario("io-eight", "16 agents of 3 calls on 8 slots, own work between them", working, 8),
        Scenario("slow-four", "A slow agent first, 5 quick ones behind it, on 4 slots", slow, 4),
        Scenario("slow-one", "A slow agent first, 5 quick ones behind it, on one slot", slow, 1),
        Scenario("many-eight", "20 agents of 5 calls on 8 slots", many, 8),
        Scenario("many-two", "20 agents of 5 calls on 2 slots", many, 2),
    )
    return {scenario.name: scenario for scenario in found}


SCENARIOS = scenarios()

QUESTIONS = {
    "io": "1. Use of the time in which agents wait",
    "slow": "2. Delay behind a slow agent",
    "many": "3. Contention: many agents, few slots",
}
