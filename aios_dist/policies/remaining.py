"""The job that is expected to be done soonest goes first.

What a job is still expected to need: ``E[T − a | T > a]`` over the agent's last 200 runs that succeeded, or
the caller's ``expected_steps`` times the seconds of a step; a second of it is worth 100,000 of waiting. Best
where agents run again and again. A new agent has no past: it is let in at once and then measured. Long jobs
wait more.
"""

from __future__ import annotations

from bisect import bisect_right

from aios_dist.policies.rank import SECOND_US, Past, Policy, Rank, Waiting

WAIT_FOR_ONE = 1e5
"""Seconds of waiting that one second of expected service is worth: more than a day, so that practically the
expectation alone decides, and the time of becoming ready between equals."""

LONGEST_S = 3e4
"""Expectations end here: beyond, Redis' doubles no longer tell two ready times apart."""


def expected(served: float, past: Past) -> float:
    """``E[T − served | T > served]`` in seconds; ``served`` itself where no run was that long: then the job
    is expected to need as much again as it has had."""
    first = bisect_right(past.totals, served)
    longer = past.totals[first:]
    return sum(longer) / len(longer) - served if longer else served


def expected_of(step: Waiting) -> float:
    """Seconds that the job is still expected to need."""
    if step.expected_steps is None:
        return expected(step.served, step.past)
    # Until a step of the job has ended, nothing is known of its own: several can be asked for at once.
    step_s = step.served / step.number if step.served and step.number else step.past.step_s or 1.0
    return max(1, step.expected_steps - step.number) * step_s


def rank(step: Waiting) -> Rank:
    """What the job is expected to need, then the time of becoming ready."""
    base = min(LONGEST_S, expected_of(step)) * WAIT_FOR_ONE * SECOND_US
    return Rank(base=float(round(base)))  # whole µs, so that two ready times stay apart when it is added


POLICY = Policy(
    "remaining",
    rank,
    starves=True,  # long jobs
    looks_back=True,
    source="shortest expected remaining processing time; Schrage and Miller 1966 for known sizes",
)
