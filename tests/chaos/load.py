"""What the chaos run submits: jobs of 3 to 8 steps of every kind, each with an id of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from aios_dist import Fleet, Plan, agent_first, fifo, fixed, prompts
from aios_dist.agents import JobSpec
from tests.chaos.agents import branching

MODELS = ("m0", "m1", "m2", "m3")
"""Four, so that a 429 that holds one model leaves work to do. Every second one streams."""
TENANTS = ("acme", "beta", "corp")
BATCH = 50
PLAN = 5


@dataclass(frozen=True)
class Batch:
    """Jobs that are submitted together, and the order between them, if there is one."""

    jobs: list[JobSpec]
    plan: Plan | None = None
    id: str = ""

    def submit(self, fleet: Fleet) -> None:
        """Safe to repeat: ids are given."""
        if self.plan is not None:
            fleet.submit_plan(self.plan, id=self.id)
        else:
            fleet.submit_many(self.jobs)


def batches(jobs: int, seed: int, trace: str) -> Iterator[Batch]:
    """Every kind of job under every order: half alone, the rest in plans, of three tenants."""
    dice = random.Random(seed)
    kinds = {n: {m: prompts(f"reciter-{n}-{m}", _verses(n), model=m) for m in MODELS} for n in range(3, 9)}

    def job(number: int) -> JobSpec:
        id, model = f"job-{number:05d}", dice.choice(MODELS)
        tenant = TENANTS[number % len(TENANTS)]
        if dice.random() < 0.5:
            return kinds[dice.randint(3, 8)][model].job(input=id, id=id, tenant=tenant)
        branches = dice.randint(1, 5)
        return branching.job(
            name=id, model=model, branches=branches, trace=trace, id=id, tenant=tenant
        ).within(priority=number % 10)

    number = 0
    while number < jobs:
        part = [job(n) for n in range(number, min(jobs, number + BATCH))]
        alone, ordered = part[: len(part) // 2], part[len(part) // 2 :]
        if alone:
            yield Batch(alone)
        for at in range(0, len(ordered), PLAN):
            members = ordered[at : at + PLAN]
            order = (fifo, fixed, agent_first)[at // PLAN % 3]
            yield Batch(members, order(members, on_failure="continue"), f"plan-{members[0].id}")
        number += len(part)


def _verses(count: int) -> list[str]:
    return [f"{{input}}: verse {n}" for n in range(count)]
