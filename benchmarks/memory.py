"""What a worker keeps of the jobs that it has served: nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from aios_dist import Fleet, agent, llm, prompts
from aios_dist.config import Config, FleetConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.model.specs import JobSpec
from benchmarks.measures import rss_mb

JOBS, CHUNK = 50_000, 1_000
WARM = 2_000
"""Jobs before the first look: code that is loaded, connections, caches that have a size."""
LOOKS = 5
SLOTS = 16
BOUND_MB = 30.0
CONFIG = Config(
    fleet=FleetConfig(name="bench", check_replays=False, modules=["benchmarks.memory"], retention=60.0),
    pools={"both": PoolConfig(lanes=["llm", "turns"], slots=SLOTS)},
)


@agent(name="bench-memory")
async def asking(name: str) -> str:
    """A small job of code."""
    return (await llm(f"{name}: what now?")).text


told = prompts("bench-memory-told", ["{input}: what now?"])
"""A small job of data."""


def memory(jobs: int = JOBS) -> list[dict[str, Any]]:
    """A worker's resident memory over 50,000 small jobs, half of them code; at most 30 MB more."""
    with (
        LocalFleet(
            CONFIG, [WorkerSpec("machine-1", "both", SLOTS)], fake_llm="0", cwd=Path(__file__).parents[1]
        ) as local,
        Fleet(local.config) as fleet,
    ):
        (worker,) = local.workers
        serve(fleet, "warm", WARM)
        first = rss_mb(worker.pid)
        rows = [_row(0, first, first, 0.0)]
        start = time.perf_counter()
        for look in range(LOOKS):
            serve(fleet, f"part-{look}", jobs // LOOKS)
            took = time.perf_counter() - start
            rows.append(_row((look + 1) * (jobs // LOOKS), rss_mb(worker.pid), first, took))
    return rows


def serve(fleet: Fleet, name: str, count: int) -> None:
    """So many jobs, a thousand at a time."""
    for at in range(0, count, CHUNK):
        jobs = fleet.submit_many([_job(f"{name}-{n}", n % 2 == 0) for n in range(at, min(count, at + CHUNK))])
        for _ in fleet.as_completed(jobs, timeout=300.0):
            pass


def _job(name: str, code: bool) -> JobSpec:
    return asking.job(name=name) if code else told.job(name)


def _row(jobs: int, rss: float, first: float, seconds: float) -> dict[str, Any]:
    more = rss - first
    return {
        "jobs": jobs,
        "worker_rss_mb": rss,
        "more_mb": more,
        "bound_mb": BOUND_MB,
        "ok": "yes" if more <= BOUND_MB else "NO",
        "seconds": seconds,
    }
