"""The figures of a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from statistics import fmean
from typing import Any

from aios_dist.simulate.work import Run, SimulatedJob


def figures(run: Run) -> dict[str, Any]:
    """What a row of ``aios-dist simulate`` says of one run.

    Times in seconds. *Turnaround*: from a job's arrival to its end. *Slowdown*: its turnaround over what it
    takes alone on an idle fleet. Jobs that a plan cancelled count nowhere.

    ``makespan_s`` goes from the first arrival to the last end, ``wait_max_s`` is the longest time that a
    step waited for its slot, ``slot_use`` the share of slot-time spent in calls, ``idle_while_ready_s`` the
    slot-seconds in which a slot was idle and a step was kept back. ``jain_agents`` and ``jain_tenants`` are
    Jain's index (Jain, Chiu, Hawe, DEC TR-301, 1984) of the speed that each agent, or tenant, got: the mean
    of 1 / slowdown over its jobs; 1 where all got the same. ``late`` is the share of jobs with a deadline
    that ended behind it. ``bound_s`` is :func:`bound`.
    """
    ended = [(job, end) for job, end in zip(run.jobs, run.ends, strict=True) if end is not None]
    first = min(job.arrival for job in run.jobs)
    makespan = max((end for _, end in ended), default=first) - first
    turnarounds = sorted(end - job.arrival for job, end in ended)
    slowed = [(job, slowdown(end - job.arrival, job.alone)) for job, end in ended]
    slowdowns = sorted(value for _, value in slowed)
    late = [end - job.arrival > job.deadline for job, end in ended if job.deadline is not None]
    return {
        "makespan_s": makespan,
        "bound_s": bound(run.jobs, run.slots),
        "turnaround_mean_s": fmean(turnarounds),
        "turnaround_p50_s": percentile(turnarounds, 50),
        "turnaround_p95_s": percentile(turnarounds, 95),
        "turnaround_p99_s": percentile(turnarounds, 99),
        "slowdown_mean": fmean(slowdowns),
        "slowdown_p95": percentile(slowdowns, 95),
        "wait_max_s": run.wait_max,
        "slot_use": run.busy / (run.slots * makespan) if makespan else 0.0,
        "idle_while_ready_s": run.idle_while_ready,
        "jain_agents": jain(_speeds((job.owner, value) for job, value in slowed)),
        "jain_tenants": jain(_speeds((job.tenant, value) for job, value in slowed)),
        "late": fmean(late) if late else None,
        "slowdown_by_tenant": _means((job.tenant, value) for job, value in slowed),
        "slowdown_by_priority": _means((str(job.priority), value) for job, value in slowed),
    }


def bound(jobs: Sequence[SimulatedJob], slots: int) -> float:
    """No order makes the makespan shorter: the work that arrives from any moment on has to go through the
    slots after it, and every job needs the time that it takes alone."""
    first = min(job.arrival for job in jobs)
    latest_first = sorted(jobs, key=lambda job: job.arrival, reverse=True)
    work = accumulate(job.service for job in latest_first)
    by_work = max(job.arrival + behind / slots for job, behind in zip(latest_first, work, strict=True))
    return max(by_work, max(job.arrival + job.alone for job in jobs)) - first


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent of the values do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def slowdown(turnaround: float, alone: float) -> float:
    """How many times longer than alone; 1 for a job that takes no time."""
    return turnaround / alone if alone else 1.0


def jain(values: Iterable[float]) -> float:
    """(Σx)² / (n Σx²): 1 where all are alike, 1/n where one has everything."""
    found = list(values)
    return sum(found) ** 2 / (len(found) * sum(value * value for value in found))


def _means(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    by: defaultdict[str, list[float]] = defaultdict(list)
    for name, value in pairs:
        by[name].append(value)
    return {name: fmean(by[name]) for name in sorted(by)}


def _speeds(slowed: Iterable[tuple[str, float]]) -> Iterable[float]:
    return _means((name, 1 / value) for name, value in slowed).values()
