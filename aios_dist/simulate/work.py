"""What goes into the simulator and what comes out of it. Times are seconds on the virtual clock."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import NamedTuple

import msgspec

from aios_dist.errors import InvalidInput
from aios_dist.model.specs import JobSpec


class SimulatedJob(msgspec.Struct, frozen=True):
    """A job whose calls are known beforehand.

    Attributes:
        name: its id, unique in a run.
        steps: seconds of each call.
        gaps: the agent's own time before each call (its tools, its user); none where left out.
        after: of each call, how many outcomes of the job the agent must have to ask for it, never falling;
            ``(0, 1, 2, …)``, one after another, where left out. Two calls gathered behind a first one are
            ``(0, 1, 1)``.
        arrival: when it is submitted.
        agent: whose job it is: ``round-robin`` goes by it; the job's name where left out.
        program: by whose past runs ``remaining`` judges it; the agent where left out.
        tenant, priority, deadline, expected_steps: as in the fleet; the deadline counts from the arrival.
        costs: what each call takes of its tenant's share (weighted tokens); its seconds where left out.
        estimates: what the tenant is charged at the dispatch, until the cost is known; the cost itself where
            left out.
        fails: it ends as failed after its last call: plans look at that.

    Raises:
        InvalidInput: no calls, lengths that differ, a time below 0 or no number at all.
    """

    name: str
    steps: tuple[float, ...]
    gaps: tuple[float, ...] = ()
    after: tuple[int, ...] = ()
    arrival: float = 0.0
    agent: str = ""
    program: str = ""
    tenant: str = "default"
    priority: int = 0
    deadline: float | None = None
    expected_steps: int | None = None
    costs: tuple[float, ...] = ()
    estimates: tuple[float, ...] = ()
    fails: bool = False

    def __post_init__(self) -> None:
        count = len(self.steps)
        if not count:
            raise InvalidInput(f"Job {self.name!r} has no steps; a job to simulate needs at least one.")
        for name in ("gaps", "after", "costs", "estimates"):
            if len(getattr(self, name)) not in (0, count):
                raise InvalidInput(f"Job {self.name!r} has {count} steps, but other than that many {name}.")
        times = (*self.steps, *self.gaps, *self.costs, *self.estimates, self.arrival)
        if not all(0 <= time < math.inf for time in times):
            raise InvalidInput(f"Job {self.name!r} has a time or a cost below 0, or one that is no number.")
        if any(need > k for k, need in enumerate(self.after)) or list(self.after) != sorted(self.after):
            raise InvalidInput(
                f"Job {self.name!r}: after says how many outcomes each step needs: its number at the most, "
                "and never fewer than the step before it."
            )

    @property
    def owner(self) -> str:
        """The agent, or the job itself where none is named."""
        return self.agent or self.name

    @property
    def judged_by(self) -> str:
        """Whose past tells what to expect of it."""
        return self.program or self.owner

    @property
    def service(self) -> float:
        """Seconds in calls, all together."""
        return sum(self.steps)

    @property
    def alone(self) -> float:
        """Seconds from arrival to end on a fleet that has a free slot at any time."""
        if not self.after:
            return sum(self.steps) + sum(self.gaps)
        ends: list[float] = []
        now, asked = 0.0, 0
        for done in range(len(self.steps)):
            while asked < len(self.steps) and self.after[asked] <= done:
                heappush(ends, now + (self.gaps[asked] if self.gaps else 0.0) + self.steps[asked])
                asked += 1
            now = heappop(ends)
        return now

    def spec(self) -> JobSpec:
        """The job as plans take it."""
        return JobSpec(agent=self.owner, input={}, id=self.name, tenant=self.tenant)


class Dispatch(NamedTuple):
    """A call that ran.

    Attributes:
        job: the job's name.
        step: its number in the job, from 0.
        slot: where it ran, from 0; of the free ones the lowest.
        start, end: seconds.
        ready: when it began to wait; a plan that keeps its job back lets it wait too.
    """

    job: str
    step: int
    slot: int
    start: float
    end: float
    ready: float

    @property
    def label(self) -> str:
        """``A1``: the job and which of its calls, counted from 1, as the seed writes it."""
        return f"{self.job}{self.step + 1}"


class Run(msgspec.Struct, frozen=True):
    """What became of the jobs.

    Attributes:
        jobs: as they were given.
        slots: how many calls may run at a time.
        ends: of each job, when it ended; None where a plan cancelled it.
        wait_max: the longest time that a step waited for a slot.
        busy: slot-seconds in calls.
        idle_while_ready: slot-seconds in which a slot was idle while a step was held by its tenant's cap, or
            a job kept back by its plan (which counts as one step).
        log: every call, in the order of dispatch; empty if none was asked for.
    """

    jobs: tuple[SimulatedJob, ...]
    slots: int
    ends: tuple[float | None, ...]
    wait_max: float
    busy: float
    idle_while_ready: float
    log: tuple[Dispatch, ...] = ()
