"""What the demonstration runs, and the numbers that it draws from the journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aios_dist.demo import seed_agents
from aios_dist.demo.gantt import Bar
from aios_dist.model.jobs import Kind
from aios_dist.model.plans import Plan, fifo, fixed
from aios_dist.model.specs import JobSpec
from aios_dist.producer.sync import Fleet
from aios_dist.program.agents import prompts

BATCH_AGENTS = 20
BATCH_STEPS = 5
PAUSE_REPLIES = 2.5
"""C's own work between its calls, in reply times."""
OWN_WORK = "C's own work"
"""The row of the chart for it: it takes no slot of the calls."""

SCHEDULERS: dict[str, Callable[[Sequence[JobSpec]], Plan]] = {"fifo": fifo, "fixed": fixed}


@dataclass(frozen=True)
class Run:
    """One plan that has run.

    Attributes:
        calls: the calls to the model, in the order in which they started.
        own: agents' own work (tools).
        slots: how many slots there were for the calls.
        start, end: of the whole: the first step ready, the last one ended, on Redis' clock.
        bound_s: what no order can beat: max(total work / slots, longest chain), with the nominal reply time.
    """

    calls: list[Bar]
    own: list[Bar]
    slots: int
    start: float
    end: float
    bound_s: float

    @property
    def makespan_s(self) -> float:
        """From the first step ready to the last one ended."""
        return self.end - self.start

    @property
    def slot_use(self) -> float:
        """Busy slot-seconds / (slots × makespan)."""
        return sum(bar.end - bar.start for bar in self.calls) / (self.slots * self.makespan_s)

    def numbers(self) -> dict[str, Any]:
        """As ``--json`` gives them."""
        return {
            "order": [bar.label for bar in self.calls],
            "slots": self.slots,
            "makespan_s": round(self.makespan_s, 3),
            "bound_s": round(self.bound_s, 3),
            "ratio": round(self.makespan_s / self.bound_s, 3),
            "slot_use": round(self.slot_use, 3),
        }


def seed_jobs(scheduler: str, reply_s: float) -> tuple[dict[str, JobSpec], float]:
    """A, B and C for the model on one slot, and the bound of their run."""
    jobs = {
        "A": seed_agents.a.job(model="one", id=f"seed-{scheduler}-A"),
        "B": seed_agents.b.job(model="one", id=f"seed-{scheduler}-B"),
        "C": seed_agents.c.job(model="one", id=f"seed-{scheduler}-C", pause=PAUSE_REPLIES * reply_s),
    }
    work, longest = 7 * reply_s, (2 + PAUSE_REPLIES) * reply_s
    return jobs, max(work, longest)


def batch_jobs(scheduler: str, reply_s: float, slots: int) -> tuple[dict[str, JobSpec], float]:
    """Twenty agents that are data, for the model on all slots, and the bound of their run."""
    asks = ["Five things to see in {input}?", *["And what then, after this: {previous}"] * (BATCH_STEPS - 1)]
    letters = [chr(ord("a") + n) for n in range(BATCH_AGENTS)]
    agent = prompts("batch", asks, model="small")
    jobs = {x: agent.job(input=f"city {x}", id=f"batch-{scheduler}-{x}") for x in letters}
    return jobs, max(BATCH_AGENTS * BATCH_STEPS * reply_s / slots, BATCH_STEPS * reply_s)


def run(
    fleet: Fleet,
    scheduler: str,
    jobs: dict[str, JobSpec],
    bound_s: float,
    *,
    slots: int,
    workers: dict[str, str],
    advance: Callable[[], None] = lambda: None,
) -> Run:
    """Submit the jobs as one plan, wait for its end, and read what happened.

    Args:
        workers: the name of each worker by the id that steps have.
        advance: called when a job has ended.
    """
    plan = fleet.submit_plan(SCHEDULERS[scheduler](list(jobs.values())))
    for _ in fleet.as_completed(plan, timeout=120):
        advance()
    calls, own, ready = [], [], []
    for name, job in zip(jobs, plan, strict=True):
        job.result(timeout=1)  # raises what went wrong
        number = 0
        for step in job.steps():
            ready.append(step.ready_at)
            number += step.kind is Kind.LLM
            if step.kind is Kind.LLM:
                place = workers.get(step.worker, "?")
                calls.append(Bar(name, number, place, step.started_at, step.ended_at))
            else:
                own.append(Bar(name, number, OWN_WORK, step.started_at, step.ended_at, "work"))
    calls.sort(key=lambda bar: bar.start)
    return Run(calls, own, slots, min(ready), max(bar.end for bar in [*calls, *own]), bound_s)
