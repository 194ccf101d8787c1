"""The workloads that are built in. Their parameters are ours, chosen before any policy was tried on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from aios_dist.errors import InvalidInput
from aios_dist.simulate.latency import Latency, cost, estimate
from aios_dist.simulate.work import SimulatedJob
from aios_dist.simulate.workloads import Workload

AGENTS = 20
"""Agents of ``heavy-tail`` and ``light``: each job is one of theirs, all equally likely, and all alike."""

PARETO = (1.2, 2.0, 300.0)
"""Steps of a heavy-tailed job: bounded Pareto with this index, least and most (half of the jobs have
2 or 3, the mean is 7)."""

AZURE = {"coder": (1500.0, 13.0, 8.0), "chat": (1020.0, 129.0, 4.0)}
"""Agents of ``azure``: median prompt and output tokens of a call, mean calls of a job. The medians are those
of Azure's coding and conversation services (Splitwise, ISCA 2024; traces of November 2023). The traces have
no jobs: how many calls one has is ours."""

AZURE_SIGMA = (1.0, 0.8)
"""Of the logarithms of prompt and output tokens: ours, by the look of the trace."""

AZURE_VARIATION = 3.0
"""Of the times between arrivals, Gamma distributed: ours, between the two services. The first 450 requests of
the coding trace have about 7 with its longest silence left out; conversation is near Poisson's 1."""


def heavy_tail(random: Random, number: int) -> SimulatedJob:
    """Most jobs are short, a few are a hundred times longer: 2 to 300 calls, lognormal with median 1.5 s."""
    index, least, most = PARETO
    ratio = (least / most) ** index
    count = int(least * (1 - random.random() * (1 - ratio)) ** (-1 / index))
    steps = tuple(random.lognormvariate(math.log(1.5), 0.6) for _ in range(count))
    return _alone_between(random, number, steps)


def light(random: Random, number: int) -> SimulatedJob:
    """All jobs are nearly alike: 9 to 11 calls of 1.8 to 2.2 s."""
    steps = tuple(random.uniform(1.8, 2.2) for _ in range(random.randint(9, 11)))
    return _alone_between(random, number, steps)


def _alone_between(random: Random, number: int, steps: tuple[float, ...]) -> SimulatedJob:
    """The agent works half a second between two calls, on the average."""
    gaps = (0.0, *(random.expovariate(2.0) for _ in steps[1:]))
    return SimulatedJob(str(number), steps, gaps=gaps, agent=f"agent-{random.randrange(AGENTS)}")


def azure(latency: Latency) -> Callable[[Random, int], SimulatedJob]:
    """Coding and chat jobs in equal parts, with the tokens of Azure's services."""

    def draw(random: Random, number: int) -> SimulatedJob:
        agent = random.choice(sorted(AZURE))
        prompt, output, mean = AZURE[agent]
        count = 1 + int(math.log(1 - random.random()) / math.log(1 - 1 / mean))  # geometric
        tokens = [
            (
                prompt * random.lognormvariate(0, AZURE_SIGMA[0]),
                output * random.lognormvariate(0, AZURE_SIGMA[1]),
            )
            for _ in range(count)
        ]
        return SimulatedJob(
            str(number),
            tuple(latency.seconds(*pair) for pair in tokens),
            gaps=(0.0, *(latency.tool for _ in tokens[1:])),
            agent=agent,
            costs=tuple(cost(*pair) for pair in tokens),
            estimates=tuple(estimate(pair[0]) for pair in tokens),
        )

    return draw


def names() -> list[str]:
    """All built-in workloads, sorted."""
    return ["azure", "heavy-tail", "light"]


def find(name: str, latency: Latency) -> Workload:
    """The built-in workload of that name.

    Raises:
        InvalidInput: there is none.
    """
    if name == "heavy-tail":
        return Workload(heavy_tail)
    if name == "light":
        return Workload(light)
    if name == "azure":
        return Workload(azure(latency), variation=AZURE_VARIATION, load=0.7)
    raise InvalidInput(f"There is no workload {name!r}: give a file, or one of {', '.join(names())}.")
