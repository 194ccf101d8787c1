"""What grows with a job: a long conversation, and a wide gather, on one worker and on three.

A conversation sends all of itself with each turn, and three workers serve it in turns; a gather's branches
are answered by all of them at once. Both are compared within one run: three workers with one, and a gather
with as many jobs of one call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from aios_dist import Fleet, agent, gather, llm
from aios_dist.config import Config, FleetConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from benchmarks.measures import rss_mb

TURNS, BRANCHES = 1_000, 1_000
SLOTS = 48
WORKERS = (1, 3)
CONFIG = Config(
    fleet=FleetConfig(name="bench", check_replays=False, modules=["benchmarks.growth"]),
    pools={"both": PoolConfig(lanes=["llm", "turns"])},
)


@agent(name="bench-chat")
async def chat(turns: int) -> int:
    """Each request is the one before and two messages."""
    messages: list[dict[str, Any]] = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"question {turn} " + "lorem ipsum " * 10})
        messages.append({"role": "assistant", "content": (await llm(messages=messages)).text})
    return len(messages)


@agent(name="bench-wide")
async def wide(branches: int) -> int:
    """All at once."""
    return len(await gather(*(llm(f"branch {n}") for n in range(branches))))


def growth() -> list[dict[str, Any]]:
    """A long chat beside one worker, a wide gather beside as many jobs."""
    rows: list[dict[str, Any]] = []
    for latency, load in (("0", _chat), ("0.2", _gather)):
        first = 0.0
        for workers in WORKERS:
            with _fleet(workers, latency) as (local, fleet):
                before = sum(rss_mb(worker.pid) for worker in local.workers)
                sent = _sent(local)
                name, seconds, against = load(fleet)
                first = first or seconds
                rows.append(
                    {
                        "load": f"{name}, {workers} worker{'s' if workers > 1 else ''}",
                        "seconds": seconds,
                        "ratio": seconds / (against or first),
                        "workers_more_mb": sum(rss_mb(worker.pid) for worker in local.workers) - before,
                        "redis_sent_mb": _sent(local) - sent,
                    }
                )
    return rows


@contextmanager
def _fleet(workers: int, latency: str) -> Iterator[tuple[LocalFleet, Fleet]]:
    specs = [WorkerSpec(f"machine-{n}", "both", SLOTS // workers) for n in range(workers)]
    with (
        LocalFleet(CONFIG, specs, fake_llm=latency, cwd=Path(__file__).parents[1]) as local,
        Fleet(local.config) as fleet,
    ):
        fleet.submit(wide, branches=2 * SLOTS).result(timeout=60)  # code that is loaded, connections
        yield local, fleet


def _chat(fleet: Fleet) -> tuple[str, float, float]:
    start = time.perf_counter()
    assert fleet.submit(chat, turns=TURNS).result(timeout=300) == 2 * TURNS
    return f"a chat of {TURNS} turns", time.perf_counter() - start, 0.0


def _gather(fleet: Fleet) -> tuple[str, float, float]:
    start = time.perf_counter()
    jobs = fleet.submit_many([wide.job(branches=1) for _ in range(BRANCHES)])
    assert sum(1 for _ in fleet.as_completed(jobs, timeout=300)) == BRANCHES
    alone = time.perf_counter() - start
    start = time.perf_counter()
    assert fleet.submit(wide, branches=BRANCHES).result(timeout=300) == BRANCHES
    return f"a gather of {BRANCHES:,} beside as many jobs", time.perf_counter() - start, alone


def _sent(local: LocalFleet) -> float:
    with redis.Redis.from_url(local.config.fleet.redis_url) as client:
        return float(client.info("stats")["total_net_output_bytes"]) / 1e6
