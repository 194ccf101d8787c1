"""Where the jobs of a simulation come from: samples of a workload, drawn with a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

import msgspec

from aios_dist.errors import InvalidInput
from aios_dist.policies import Past
from aios_dist.simulate.pasts import MOST, Pasts
from aios_dist.simulate.work import SimulatedJob

JOBS = 1000
"""Of a sample, where nobody says how many."""

FLOOD = {"flood": 0.9, "small": 0.1}
"""``tenants="flood"``: who sends which share of the jobs."""

SLACK = (2.0, 10.0)
"""Deadlines of jobs that bring none: so many times what the job takes alone, all equally likely."""


class Workload(msgspec.Struct, frozen=True):
    """Jobs that can be drawn.

    Attributes:
        draw: the nth job of a sample, without its arrival.
        whole: the jobs of a file, as they are.
        recorded: those have arrivals, tenants, priorities and deadlines of their own.
        variation: of the times between arrivals: standard deviation over mean. 1 is Poisson, more comes in
            bursts.
        load: what is offered where nobody says; None: all at once, or as recorded.
    """

    draw: Callable[[Random, int], SimulatedJob]
    whole: tuple[SimulatedJob, ...] = ()
    recorded: bool = False
    variation: float = 1.0
    load: float | None = None

    def sample(
        self, seed: int, slots: int, load: float | None = None, count: int | None = None, tenants: str = ""
    ) -> list[SimulatedJob]:
        """Jobs with their arrivals, the same for the same seed.

        Args:
            seed: of the random numbers.
            slots: of the fleet that the load is offered to.
            load: seconds of work that arrive in a second, over the slots. None is the workload's own: all at
                once, in an order that the seed draws, or as recorded.
            count: how many jobs; None for all of a file, and :data:`JOBS` where a load is offered.
            tenants: ``flood`` (see :data:`FLOOD`), a number of equal tenants, or empty for the jobs' own.

        Raises:
            InvalidInput: the load or the tenants cannot be.
        """
        load = self.load if load is None else load
        sizes, others = Random(f"{seed}/sizes"), Random(f"{seed}/others")
        if load is None and count is None and self.whole:
            jobs = list(self.whole) if self.recorded else sizes.sample(self.whole, len(self.whole))
        else:
            jobs = [self.draw(sizes, number) for number in range(count or JOBS)]
        if not self.recorded:
            jobs = [_with_wishes(job, others) for job in jobs]
        if tenants:
            jobs = _with_tenants(jobs, tenants, others)
        return jobs if load is None else self._arriving(jobs, load * slots, Random(f"{seed}/arrivals"))

    def pasts(self, seed: int) -> dict[str, Past]:
        """What a fleet knows that has seen another sample of the workload before."""
        history, pasts = Random(f"{seed}/history"), Pasts()
        for number in range(20 * MOST):
            job = self.draw(history, number)
            pasts.add(job.judged_by, job.service, len(job.steps))
        return pasts.known()

    def _arriving(self, jobs: Sequence[SimulatedJob], work: float, times: Random) -> list[SimulatedJob]:
        """Arrivals so that ``work`` seconds of this very sample arrive in a second, on the average."""
        if not 0 < work < math.inf:
            raise InvalidInput("A load is more than 0: 0.9 offers nine tenths of what the slots can do.")
        mean = sum(job.service for job in jobs) / len(jobs) / work
        shape = self.variation**-2
        now, found = 0.0, []
        for job in jobs:
            found.append(msgspec.structs.replace(job, arrival=now))
            now += times.gammavariate(shape, mean / shape)
        return found


def resampled(whole: Sequence[SimulatedJob]) -> Callable[[Random, int], SimulatedJob]:
    """Draws from the jobs of a file, each as likely as any other."""

    def draw(random: Random, number: int) -> SimulatedJob:
        job = random.choice(whole)
        return msgspec.structs.replace(job, name=f"{job.name}#{number}", agent=job.owner)

    return draw


def _with_wishes(job: SimulatedJob, random: Random) -> SimulatedJob:
    """A priority and a deadline, for the policies that look at them; no other figure depends on these."""
    return msgspec.structs.replace(
        job, priority=random.randrange(10), deadline=random.uniform(*SLACK) * job.alone
    )


def _with_tenants(jobs: Sequence[SimulatedJob], tenants: str, random: Random) -> list[SimulatedJob]:
    if tenants == "flood":
        shares = FLOOD
    elif tenants.isdecimal() and 0 < int(tenants) <= 10_000:
        shares = {f"tenant-{number}": 1.0 for number in range(int(tenants))}
    else:
        raise InvalidInput(f"Tenants are 'flood' or a number of equal ones (1 to 10000), not {tenants!r}.")
    names = random.choices(list(shares), list(shares.values()), k=len(jobs))
    return [msgspec.structs.replace(job, tenant=name) for job, name in zip(jobs, names, strict=True)]
