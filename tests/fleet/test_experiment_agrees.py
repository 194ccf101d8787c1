"""Fleet and simulator agree on the same plan. ``make experiment`` is the long form.

There the simulator gets the replies as they were ordered. Here it gets the calls as long as they took, so
that a busy machine, which makes them longer, fails no test: what is compared is the order and the waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from aios_dist import AsyncFleet, JobSpec, fifo, prompts
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.simulate import SimulatedJob
from aios_dist.testing import FakeLLM
from aios_dist.testing.replies import Reply
from benchmarks.experiment.observed import figures, from_simulation
from benchmarks.experiment.results import COMPARED, TOLERANCE
from benchmarks.experiment.running import observe
from benchmarks.experiment.scenarios import PLANS, Scenario

REPLIES_S = {"a": (0.7, 0.35), "b": (0.35, 0.5), "c": (0.6, 0.3), "d": (0.45, 0.3), "e": (0.4, 0.3)}
"""Every plan has another order on four slots, and no two calls end within 50 ms."""
BUSY = 3.0
"""What lies between two calls takes longer on a busy machine; another plan is another order."""
TRIES = 10
"""A stall of the machine makes a run longer, never shorter: one of so many has to agree. Other fleets run
beside this one (`make test`), and two calls that end 50 ms apart may then be seen in the other order."""


@pytest.fixture
def four_slots(machine: LocalFleet) -> Iterator[str]:
    """The lane of a worker with four slots, and of no other: test_faults leaves one there."""
    there = [worker for worker in machine.workers if worker.spec is not None and worker.spec.pool == "frail"]
    machine.stop_workers(there, grace_s=20)
    workers = machine.start_workers([WorkerSpec("four-slots", "frail")])
    yield "frail"
    machine.stop_workers(workers)


def scenario(slots: int, seconds: dict[str, tuple[float, ...]]) -> Scenario:
    a, b, c, d, e = (SimulatedJob(name, seconds[name]) for name in "abcde")
    return Scenario("small", "Five agents of two calls", ((a, b, c), (d, e)), slots)


def ask(name: str, model: str) -> JobSpec:
    return prompts("small", [f"{name} 1", f"{name} 2"], model=model).job()


async def differs(fleet: AsyncFleet, plan: str, lane: str, slots: int) -> str:
    """What the simulator has otherwise than a run on the fleet; nothing, if they agree."""
    groups = [[ask(name, lane) for name in group] for group in ("abc", "de")]
    seen = await observe(fleet, "abcde", PLANS[plan](groups))
    took = {name: tuple(c.end - c.start for c in seen.calls if c.agent == name) for name in "abcde"}
    load = scenario(slots, took)
    expected = from_simulation(load.simulated(plan))
    if seen.order != expected.order:
        return f"{plan}: {seen.order}, simulated {expected.order}"
    ours, theirs = figures(load, seen), figures(load, expected)
    apart = {name: ours[name] / theirs[name] - 1 for name in COMPARED}
    return f"{plan}: {apart}" if max(map(abs, apart.values())) > BUSY * TOLERANCE else ""


@pytest.mark.timeout(180)
async def test_the_fleet_takes_as_long_for_each_plan_as_the_simulator_says(
    machine: LocalFleet, llm: FakeLLM, four_slots: str
) -> None:
    llm.script(
        latency=0.05,
        reply={
            f"{name} {number}": Reply("done", latency=seconds)
            for name, both in REPLIES_S.items()
            for number, seconds in enumerate(both, start=1)
        },
    )
    async with AsyncFleet(machine.config) as fleet:
        found: dict[str, str] = {}

        async def run(lane: str, slots: int, *plans: str) -> None:
            one_each = fifo(prompts("first", ["first"], model=lane).job() for _ in range(slots))
            await observe(fleet, [str(slot) for slot in range(slots)], one_each)  # connections
            for plan in plans:
                for _ in range(TRIES):
                    found[plan] = await differs(fleet, plan, lane, slots)
                    if not found[plan]:
                        break

        # Fixed order needs no more than one slot: it runs beside the others.
        await asyncio.gather(run("one", 1, "fixed"), run(four_slots, 4, "fifo", "hybrid", "agent-first"))
    assert found == dict.fromkeys(PLANS, "")
