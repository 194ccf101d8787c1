"""The simulation itself: discrete events, one heap, a virtual clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush

from aios_dist import policies
from aios_dist.errors import InvalidInput
from aios_dist.model.plans import Plan
from aios_dist.policies import Past, Rank, Waiting
from aios_dist.policies.rank import SECOND_US
from aios_dist.simulate.admission import Admission
from aios_dist.simulate.pasts import NOTHING, Pasts
from aios_dist.simulate.ready import ReadySet
from aios_dist.simulate.work import Dispatch, Run, SimulatedJob

ORACLE = "oracle"
"""The policy that knows: the job with the least true service left goes first (SRPT, at the ends of calls).
For reference only: no fleet can have it."""

OWN_TIME = -1
"""In an event, in the place of a slot: the agent's own time before a call is over."""


def simulate(
    jobs: Iterable[SimulatedJob],
    slots: int,
    policy: str = "fifo",
    *,
    plan: Plan | None = None,
    oldest_every: int | None = None,
    fair: bool = False,
    weights: Mapping[str, float] | None = None,
    caps: Mapping[str, int] | None = None,
    pasts: Mapping[str, Past] | None = None,
    log: bool = True,
) -> Run:
    """Run the jobs on ``slots`` equal slots.

    Args:
        jobs: what is to be run.
        slots: calls at a time.
        policy: a policy's name, or :data:`ORACLE`.
        plan: the order between the jobs, as the fleet takes it. Its jobs are found by id among the names of
            ``jobs`` (``job.spec()`` makes such a member); where none has an id, the first is the first of
            ``jobs``, and so on. A job that is admitted before its arrival begins at its arrival.
        oldest_every: every Nth dispatch goes to the step that has waited longest; 0 for never, None
            for the policy's own.
        fair: share the slots between tenants (VTC).
        weights, caps: of tenants; see :class:`aios_dist.simulate.ready.ReadySet`.
        pasts: earlier runs by program, which stay as they are; of other programs they are learnt from the
            jobs of this run as they end.
        log: keep every dispatch (a million of them take some 200 MB).

    Returns:
        What became of the jobs; :func:`aios_dist.simulate.figures` makes figures of it.

    Raises:
        InvalidInput: no jobs, a name twice, no slots, or a plan of other jobs.
        ConfigError: there is no such policy.
    """
    given = tuple(jobs)
    if not given:
        raise InvalidInput("There are no jobs to simulate.")
    if slots < 1:
        raise InvalidInput(f"A simulation needs at least one slot, not {slots}.")
    if len({job.name for job in given}) < len(given):
        raise InvalidInput("Two of the jobs to simulate have the same name; names are unique.")
    every = policies.oldest_every(policy, oldest_every)
    ready = ReadySet[int](oldest_every=every, fair=fair, weights=weights, caps=caps)
    admission = None if plan is None else Admission(plan, [job.name for job in given])
    simulation = _Simulation(given, slots, policy, ready, admission, Pasts(pasts))
    simulation.settles = fair or bool(caps)
    simulation.log = [] if log else None
    return simulation.run()


class _Simulation:
    """One run. Jobs are numbered as given, steps in the order of becoming ready.

    Attributes:
        settles: the ready set wants to hear of calls that end.
        log: takes every dispatch, or None.
    """

    settles = False
    log: list[Dispatch] | None = None

    def __init__(
        self,
        jobs: tuple[SimulatedJob, ...],
        slots: int,
        policy: str,
        ready: ReadySet[int],
        plan: Admission | None,
        pasts: Pasts,
    ) -> None:
        self._jobs = jobs
        self._slots = slots
        self._policy = None if policy == ORACLE else policies.find(policy)
        self._ready = ready
        self._plan = plan
        self._pasts = pasts
        self._events: list[tuple[float, int, int, int, int]] = []  # when, nth event, job, step, slot
        self._nth = 0
        self._waiting: dict[int, tuple[int, int, float]] = {}  # job, step, since when
        self._added = 0
        self._served = [0.0] * len(jobs)
        self._left = [job.service for job in jobs] if policy == ORACLE else []
        self._asked = [0] * len(jobs)
        self._done = [0] * len(jobs)
        self._ends: list[float | None] = [None] * len(jobs)

    def run(self) -> Run:
        """From the first arrival to the last end."""
        jobs, events, waiting, ready = self._jobs, self._events, self._waiting, self._ready
        kept_back = self._plan.kept_back if self._plan is not None else ()
        # The next to arrive is the last of the list.
        arrivals = sorted(range(len(jobs)), key=lambda job: (-jobs[job].arrival, -job))
        free = list(range(self._slots))
        busy = idle = wait_max = 0.0
        now = jobs[arrivals[-1]].arrival
        while arrivals or events:
            arrival = jobs[arrivals[-1]].arrival if arrivals else math.inf
            at = min(arrival, events[0][0] if events else math.inf)
            if free:
                idle += (at - now) * min(len(free), len(waiting) + len(kept_back))
            now = at
            while arrivals and jobs[arrivals[-1]].arrival <= now:
                job = arrivals.pop()
                if self._plan is None or self._plan.arrive(job):
                    self._ask(job, now)
            while events and events[0][0] <= now:
                _, _, job, number, slot = heappop(events)
                if slot == OWN_TIME:
                    self._wait(job, number, now, now)
                else:
                    heappush(free, slot)
                    self._end(job, number, now)
            while free and (step := ready.pop()) is not None:
                job, number, since = waiting.pop(step)
                seconds = jobs[job].steps[number]
                slot = heappop(free)
                self._nth += 1
                heappush(events, (now + seconds, self._nth, job, number, slot))
                busy += seconds
                if now - since > wait_max:
                    wait_max = now - since
                if self.log is not None:
                    self.log.append(Dispatch(jobs[job].name, number, slot, now, now + seconds, since))
        return Run(jobs, self._slots, tuple(self._ends), wait_max, busy, idle, tuple(self.log or ()))

    def _ask(self, job: int, now: float) -> None:
        """The agent asks for whatever its outcomes let it ask for."""
        facts, done, number = self._jobs[job], self._done[job], self._asked[job]
        after, gaps = facts.after, facts.gaps
        while number < len(facts.steps) and (after[number] if after else number) <= done:
            if gaps and gaps[number]:
                self._nth += 1
                heappush(self._events, (now + gaps[number], self._nth, job, number, OWN_TIME))
            else:
                self._wait(job, number, now, now if done else facts.arrival)
            number += 1
        self._asked[job] = number

    def _wait(self, job: int, number: int, now: float, since: float) -> None:
        """A step becomes ready; it waits since then, or since its job has been kept back."""
        facts = self._jobs[job]
        step = self._added = self._added + 1
        self._waiting[step] = (job, number, since)
        at = now * SECOND_US
        rank: Rank | float = self._rank(job, number)
        by_rounds = isinstance(rank, Rank) and rank.since == "round"  # no times: a place says nothing there
        placed = None if self._plan is None or by_rounds else self._plan.rank(job, at)
        self._ready.add(
            step,
            rank if placed is None else placed,
            ready=at,
            submitted=facts.arrival * SECOND_US,
            priority=facts.priority,
            tenant=facts.tenant,
            cost=(facts.estimates or facts.costs or facts.steps)[number],
        )

    def _rank(self, job: int, number: int) -> Rank | float:
        facts = self._jobs[job]
        policy = self._policy
        if policy is None:
            return self._left[job] - self._served[job]
        return policy.rank(
            Waiting(
                facts.owner,
                facts.tenant,
                number,
                self._served[job],
                facts.expected_steps,
                facts.deadline,
                self._pasts.of(facts.judged_by) if policy.looks_back else NOTHING,
                facts.estimates[number] if facts.estimates else 0.0,  # true costs are for no policy to know
            )
        )

    def _end(self, job: int, number: int, now: float) -> None:
        """A call has ended, and perhaps its job."""
        facts = self._jobs[job]
        self._served[job] += facts.steps[number]
        self._done[job] += 1
        if self.settles:
            cost = (facts.costs or facts.steps)[number]
            self._ready.settle(facts.tenant, cost - (facts.estimates[number] if facts.estimates else cost))
        if self._done[job] < len(facts.steps):
            self._ask(job, now)
            return
        self._ends[job] = now
        if not facts.fails:
            self._pasts.add(facts.judged_by, self._served[job], len(facts.steps))
        if self._plan is not None:
            for admitted in self._plan.ended(job, failed=facts.fails):
                self._ask(admitted, now)
