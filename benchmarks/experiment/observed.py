"""What became of a load, seen on the fleet or in the simulator, and the figures of both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from aios_dist import Step
from aios_dist.demo.gantt import Bar, slots
from aios_dist.model.jobs import Kind
from aios_dist.simulate import Run
from aios_dist.simulate.figures import jain, percentile, slowdown
from benchmarks.experiment.scenarios import SLOW, Scenario

OWN_WORK = "own work"


class Call(NamedTuple):
    """A call to the model, or an agent's own work. Seconds since the plan was submitted.

    Attributes:
        number: which of the agent's calls, from 1.
        since: when it began to wait; the first call of an agent waits from the submission on.
        worker: the worker process that ran it.
    """

    agent: str
    number: int
    since: float
    start: float
    end: float
    worker: str = ""

    def bar(self, place: str, text: str = "") -> Bar:
        """As the chart of the terminal takes it."""
        return Bar(self.agent, self.number, place, self.start, self.end, text)


@dataclass(frozen=True)
class Observed:
    """A run.

    Attributes:
        calls: all calls, in the order in which they started.
        own: the agents' own work.
    """

    calls: tuple[Call, ...]
    own: tuple[Call, ...]

    @property
    def makespan_s(self) -> float:
        """From the submission to the last end."""
        return max(call.end for call in self.calls)

    @property
    def order(self) -> str:
        """``A1 B1 C1 A2``: the calls as they started."""
        return " ".join(f"{call.agent}{call.number}" for call in self.calls)

    def turnarounds(self) -> dict[str, float]:
        """Of each agent: from the submission to its end."""
        ends: dict[str, float] = {}
        for call in self.calls:
            ends[call.agent] = max(call.end, ends.get(call.agent, 0.0))
        return ends

    @property
    def workers(self) -> list[str]:
        """Who ran the calls."""
        return sorted({call.worker for call in self.calls})

    def rows(self) -> list[list[Bar]]:
        """The calls on the slots that they took, worker by worker."""
        bars = {worker: [c.bar(worker) for c in self.calls if c.worker == worker] for worker in self.workers}
        return [row for own in bars.values() for row in slots(own)]


def from_journal(steps: Mapping[str, Sequence[Step]]) -> Observed:
    """A run on the fleet, from the steps of each agent."""
    began = min(step.ready_at for found in steps.values() for step in found)
    calls: list[Call] = []
    own: list[Call] = []
    for name, found in steps.items():
        number = 0
        for step in sorted(found, key=lambda step: step.number):
            since = step.ready_at if step.number else began
            number += step.kind is Kind.LLM
            times = (since - began, step.started_at - began, step.ended_at - began)
            (calls if step.kind is Kind.LLM else own).append(Call(name, number, *times, step.worker))
    return Observed(_by_start(calls), _by_start(own))


def from_simulation(run: Run) -> Observed:
    """A run of the simulator."""
    jobs = {job.name: job for job in run.jobs}
    calls: list[Call] = []
    own: list[Call] = []
    for one in run.log:
        gaps = jobs[one.job].gaps
        if gaps and gaps[one.step]:
            began = one.ready - gaps[one.step]
            own.append(Call(one.job, one.step, began, began, one.ready))
        calls.append(Call(one.job, one.step + 1, one.ready, one.start, one.end))
    return Observed(_by_start(calls), _by_start(own))


def figures(scenario: Scenario, seen: Observed) -> dict[str, float]:
    """The figures of a run. Seconds, or shares of 1.

    *Turnaround*: from the submission of the plan to the agent's end. *Delay*: what of it the agent would not
    have taken alone; ``delay_others_s`` is its mean over all but the slow agent. *Wait*: of a call for its
    slot; the first call of an agent waits from the submission on. ``shared_replies``: of the time in which
    agents wait for replies, the share in which another agent's call runs too. ``shared_own``: the same of
    their own work. ``jain``: Jain's index of the speed that each agent got (1 / slowdown). ``under_way``:
    agents that have begun and not ended, at a time on the mean: so many contexts are held.
    """
    turnarounds = seen.turnarounds()
    delays = {job.name: turnarounds[job.name] - job.alone for job in scenario.jobs}
    ordered, waits = sorted(turnarounds.values()), sorted(call.start - call.since for call in seen.calls)
    makespan = seen.makespan_s
    held = sum(end - min(c.start for c in seen.calls if c.agent == name) for name, end in turnarounds.items())
    return {
        "makespan_s": makespan,
        "to_bound": makespan / scenario.bound_s,
        "slot_use": sum(call.end - call.start for call in seen.calls) / (scenario.slots * makespan),
        "shared_replies": _shared(seen.calls, seen.calls),
        "shared_own": _shared(seen.own, seen.calls),
        "turnaround_mean_s": fmean(ordered),
        "turnaround_p50_s": percentile(ordered, 50),
        "turnaround_p95_s": percentile(ordered, 95),
        "delay_others_s": fmean(delay for name, delay in delays.items() if name != SLOW),
        "wait_mean_s": fmean(waits),
        "wait_p95_s": percentile(waits, 95),
        "wait_max_s": waits[-1],
        "jain": jain(1 / slowdown(turnarounds[job.name], job.alone) for job in scenario.jobs),
        "under_way": held / makespan,
    }


def _by_start(calls: Iterable[Call]) -> tuple[Call, ...]:
    return tuple(sorted(calls, key=lambda call: call.start))


def _shared(what: Sequence[Call], calls: Sequence[Call]) -> float:
    """Of the seconds of ``what``, the share in which a call of another agent runs."""
    total = sum(one.end - one.start for one in what)
    by_agent: defaultdict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_agent[call.agent].append(call)
    shared = 0.0
    for one in what:
        reached = one.start
        others = (call for name, own in by_agent.items() if name != one.agent for call in own)
        for call in sorted(others, key=lambda call: call.start):
            start, end = max(reached, call.start), min(one.end, call.end)
            if end > start:
                shared += end - start
                reached = end
    return shared / total if total else 0.0
