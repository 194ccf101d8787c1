"""A worker keeps nothing of the jobs that it has served. ``python -m benchmarks memory``: 50,000 of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aios_dist import Fleet, prompts
from aios_dist.testing import FakeLLM
from benchmarks.measures import rss_mb
from tests.fleet.agents import repeats

if TYPE_CHECKING:
    from aios_dist.local.machine import LocalFleet
    from aios_dist.model.specs import JobSpec

TEXT_BYTES = 50_000
WARM, JOBS, CHUNK = 200, 400, 100
MOST_MB = 10.0
"""Half of what it would be if of each job its prompt or its answer were kept once. Seen: 1 to 2."""

told = prompts("memory-told", ["{input}"], model="small")


def test_a_worker_keeps_nothing_of_the_jobs_that_it_has_served(
    fleet: Fleet, llm: FakeLLM, machine: LocalFleet
) -> None:
    llm.script(latency=0.0, reply=lambda call: call.messages[-1]["content"][:TEXT_BYTES])
    pids = [machine.worker(name).pid for name in ("machine-1", "machine-2")]
    serve(fleet, "warm", WARM)
    before = [rss_mb(pid) for pid in pids]
    serve(fleet, "part", JOBS)
    more = sum(map(rss_mb, pids)) - sum(before)
    assert more < MOST_MB


def serve(fleet: Fleet, name: str, count: int) -> None:
    """So many jobs, half of them code, each with a text of its own and an answer of the same length."""
    for at in range(0, count, CHUNK):
        jobs = fleet.submit_many([_job(f"{name}-{n} ", n % 2 == 0) for n in range(at, at + CHUNK)])
        assert len(list(fleet.as_completed(jobs, timeout=60.0))) == CHUNK


def _job(name: str, code: bool) -> JobSpec:
    text = (name * (TEXT_BYTES // len(name) + 1))[:TEXT_BYTES]
    return repeats.job(text=text) if code else told.job(text)
