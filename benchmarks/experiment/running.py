"""The experiment on a real fleet: embedded Redis, the fake LLM, worker processes of up to four slots.

Scenarios run side by side, each on a lane and workers of its own; the runs of one scenario one after
another, round by round, so that a noisy minute of the machine hits all plans alike.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aios_dist import AsyncFleet, JobSpec, Plan, fifo
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from benchmarks.experiment.agents import member
from benchmarks.experiment.observed import Observed, from_journal
from benchmarks.experiment.scenarios import PLANS, REPEATS, REPLY_S, Scenario

ROOT = Path(__file__).parents[2]
SLOTS_A_WORKER = 4
TOOLS = 32
"""Agents that can do work of their own at a time: more than there are."""
PLAN_TIMEOUT_S = 120.0

Runs = dict[str, dict[str, list[Observed]]]
"""By scenario and plan."""


@contextmanager
def machine(scenarios: Sequence[Scenario]) -> Iterator[LocalFleet]:
    """Redis, the fake LLM with the seconds of every reply, and the workers."""
    config = Config(
        fleet=FleetConfig(
            name="experiment",
            check_replays=False,
            modules=["benchmarks.experiment.agents"],
            shutdown_grace=1.0,
        ),
        models={scenario.name: ModelConfig(lane=scenario.name) for scenario in scenarios},
        pools={
            "turns": PoolConfig(lanes=["turns"], slots=TOOLS),
            **{s.name: PoolConfig(lanes=[s.name], slots=min(s.slots, SLOTS_A_WORKER)) for s in scenarios},
        },
    )
    workers = [WorkerSpec("turns", "turns")]
    for scenario in scenarios:
        processes = -(-scenario.slots // SLOTS_A_WORKER)
        workers += [WorkerSpec(f"{scenario.name}-{n + 1}", scenario.name) for n in range(processes)]
    with LocalFleet(config, workers, fake_llm=str(REPLY_S), cwd=ROOT) as local:
        assert local.llm_url is not None
        _script(local.llm_url, local.llm_key, scenarios)
        yield local


def _script(url: str, key: str, scenarios: Sequence[Scenario]) -> None:
    """Tell the fake LLM how long each reply takes."""
    replies = {
        prompt: {"text": "done", "latency": seconds}
        for scenario in scenarios
        for job in scenario.jobs
        for prompt, seconds in zip(_prompts(scenario, job.name, len(job.steps)), job.steps, strict=True)
    }
    data = json.dumps({"reply": replies}).encode()
    headers = {"Authorization": f"Bearer {key}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url.removesuffix('/v1')}/script", data, headers)):
        pass


def _prompts(scenario: Scenario, agent: str, count: int) -> list[str]:
    return [f"{scenario.name}, {agent}, call {number + 1}" for number in range(count)]


def specs(scenario: Scenario) -> list[list[JobSpec]]:
    """The agents of a scenario as the fleet takes them, by group."""
    return [
        [
            member.job(
                prompts=_prompts(scenario, job.name, len(job.steps)),
                own=list(job.gaps or [0.0] * len(job.steps)),
                model=scenario.name,
            )
            for job in group
        ]
        for group in scenario.groups
    ]


def _warm_up(scenario: Scenario) -> tuple[list[str], Plan]:
    """One call on each slot, for the connections."""
    names = [f"slot {number}" for number in range(scenario.slots)]
    return names, fifo(member.job(prompts=[name], own=[0.0], model=scenario.name) for name in names)


async def observe(fleet: AsyncFleet, names: Sequence[str], plan: Plan) -> Observed:
    """Run a plan on the fleet and read from the journal what happened.

    Args:
        names: what to call its jobs, in the order of the plan.

    Raises:
        JobError: a job failed.
        TimeoutError: the plan did not end in time.
    """
    jobs = dict(zip(names, await fleet.submit_plan(plan), strict=True))
    async with asyncio.timeout(PLAN_TIMEOUT_S):
        for job in jobs.values():
            await job.result(timeout=PLAN_TIMEOUT_S)
    return from_journal({name: await job.steps() for name, job in jobs.items()})


async def run_all(
    local: LocalFleet, scenarios: Sequence[Scenario], advance: Callable[[], None] = lambda: None
) -> Runs:
    """All runs of all scenarios; ``advance`` is called after each.

    Raises:
        AiosError: a job failed, or Redis is gone.
        TimeoutError: a plan did not end in time.
    """
    runs: Runs = {scenario.name: defaultdict(list) for scenario in scenarios}
    async with AsyncFleet(local.config) as fleet:

        async def run(scenario: Scenario) -> None:
            names = [job.name for job in scenario.jobs]
            await observe(fleet, *_warm_up(scenario))
            for number in range(REPEATS):
                for plan, make in PLANS.items():
                    if number < scenario.repeats(plan):
                        runs[scenario.name][plan].append(await observe(fleet, names, make(specs(scenario))))
                        advance()

        try:
            async with asyncio.TaskGroup() as group:
                for scenario in scenarios:
                    group.create_task(run(scenario))
        except ExceptionGroup as failed:  # the first says it all: the others were cancelled for it
            raise failed.exceptions[0] from None
    return runs


def count(scenarios: Sequence[Scenario]) -> int:
    """How many runs that will be."""
    return sum(scenario.repeats(plan) for scenario in scenarios for plan in PLANS)
