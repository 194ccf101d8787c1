"""Rows of figures: every choice under every load, over several seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

import msgspec

from aios_dist.config import TenantConfig, as_written, fault, settings_of
from aios_dist.errors import InvalidInput
from aios_dist.policies import Past
from aios_dist.simulate.choices import Choice, of_policy
from aios_dist.simulate.events import ORACLE
from aios_dist.simulate.figures import figures
from aios_dist.simulate.work import SimulatedJob
from aios_dist.simulate.workloads import Workload

MOST_SLOTS, MOST_SEEDS, MOST_JOBS = 10**6, 10_000, 10**6

BEST: dict[str, Literal["least", "most"]] = {
    "makespan_s": "least",
    "turnaround_mean_s": "least",
    "turnaround_p50_s": "least",
    "turnaround_p95_s": "least",
    "turnaround_p99_s": "least",
    "slowdown_mean": "least",
    "slowdown_p95": "least",
    "wait_max_s": "least",
    "slot_use": "most",
    "idle_while_ready_s": "least",
    "jain_agents": "most",
    "jain_tenants": "most",
}
"""Figures that can be better or worse, and which way."""


class Setup(msgspec.Struct, frozen=True):
    """What all rows have in common.

    Attributes:
        seeds: how many samples; the figures are means over them.
        count: jobs of a sample; None for the workload's own number.
        tenants: see :meth:`aios_dist.simulate.workloads.Workload.sample`.
        weights, caps: of tenants.
        known: the policies know another sample of the workload from the start, instead of learning from the
            jobs that end.
        told: every caller says how many steps its job has, and is right.

    Raises:
        InvalidInput: no slots, no seeds, a weight of 0 or less.
    """

    slots: int = 8
    seeds: int = 5
    count: int | None = None
    tenants: str = ""
    weights: Mapping[str, float] = {}
    caps: Mapping[str, int] = {}
    known: bool = False
    told: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= MOST_SLOTS:
            raise InvalidInput(
                f"A simulation needs at least one slot and takes {MOST_SLOTS:,} at most, not {self.slots}."
            )
        if self.seeds < 1 or (self.count is not None and self.count < 1):
            raise InvalidInput("A simulation needs at least one seed and one job.")
        if self.seeds > MOST_SEEDS or (self.count or 0) > MOST_JOBS:
            raise InvalidInput(f"A simulation takes at most {MOST_SEEDS:,} seeds and {MOST_JOBS:,} jobs.")
        for tenant, weight in self.weights.items():
            share = settings_of(TenantConfig)["weight"]
            if found := fault(share, weight, as_written, f"The weight of tenant {tenant!r}"):
                raise InvalidInput(found)
        for tenant, cap in self.caps.items():
            if cap < 1:
                raise InvalidInput(f"The cap of tenant {tenant!r} is a whole number from 1, not {cap}.")


def compare(
    workload: Workload,
    choices: Sequence[Choice],
    loads: Sequence[float | None],
    setup: Setup,
) -> Iterator[dict[str, Any]]:
    """One row a load and choice, the reference row of the oracle last of each load.

    All choices of a load have the same jobs and arrivals, seed by seed. A row has the means of
    :func:`aios_dist.simulate.figures.figures` over the seeds, and in ``spread`` the least and the most.
    ``turnaround_vs_first`` is the mean turnaround over that of the first choice on the same jobs.

    Raises:
        InvalidInput: the workload has no such load or tenants.
    """
    if not any(choice.policy == ORACLE for choice in choices):
        choices = [*choices, of_policy(ORACLE)]
    for load in loads:
        samples = [_sample(workload, seed, load, setup) for seed in range(setup.seeds)]
        first: list[float] = []
        for choice in choices:
            runs = [
                figures(choice.run(jobs, setup.slots, setup.weights, setup.caps, pasts))
                for jobs, pasts in samples
            ]
            means = [run["turnaround_mean_s"] for run in runs]
            first = first or means
            for run, mean, other in zip(runs, means, first, strict=True):
                run["turnaround_vs_first"] = mean / other if other else 1.0
            yield {
                "policy": choice.name,
                "load": workload.load if load is None else load,
                "reference": choice.policy == ORACLE,
                "slots": setup.slots,
                "seeds": setup.seeds,
                "jobs": len(samples[0][0]),
                "steps": round(fmean(sum(len(job.steps) for job in jobs) for jobs, _ in samples)),
                **{name: _mean([run[name] for run in runs]) for name in runs[0]},
                "spread": {
                    name: [_short(f([run[name] for run in runs])) for f in (min, max)]
                    for name in (*BEST, "turnaround_vs_first")
                },
            }


def _sample(
    workload: Workload, seed: int, load: float | None, setup: Setup
) -> tuple[list[SimulatedJob], Mapping[str, Past] | None]:
    """The jobs of a seed, and what is known of their agents beforehand."""
    jobs = workload.sample(seed, setup.slots, load, setup.count, setup.tenants)
    if setup.told:
        jobs = [msgspec.structs.replace(job, expected_steps=len(job.steps)) for job in jobs]
    return jobs, workload.pasts(seed) if setup.known else None


def _mean(values: Sequence[Any]) -> Any:
    """Over the seeds; of figures by name, name by name. None where no seed has it."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    if isinstance(present[0], dict):
        names = sorted({name for value in present for name in value})
        return {name: _mean([value.get(name) for value in present]) for name in names}
    return _short(fmean(present))


def _short(value: float) -> float:
    return round(value, 6)
