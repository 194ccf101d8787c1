"""Producers that wait, and what they cost those who work: each hears of its own jobs, or of everybody's."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from aios_dist import AsyncFleet, Fleet, agent, signal
from aios_dist.config import Config, FleetConfig

WAITING = 100
EACH = 3
"""Producers that wait, and the jobs that each waits for."""
JOBS = 900
REPEATS = 3
NAME = "bench"


@agent
async def patient() -> None:
    """Ends when it is told to."""
    await signal("end")


@agent
async def brief(number: int) -> int:
    """Ends in its first turn: no worker has a part in what is measured."""
    return number


def producers() -> list[dict[str, Any]]:
    """One producer whose jobs end, alone and beside a hundred that wait for others: CPU for each end."""
    from aios_dist.local.redis_server import EmbeddedRedis

    with EmbeddedRedis().start() as server:
        config = Config(fleet=FleetConfig(name=NAME, redis_url=server.url))
        client = redis.Redis.from_url(server.url)
        with Fleet(config) as fleet:
            _load(fleet, client, 200)
            alone, beside, theirs = [], [], []
            for _ in range(REPEATS):
                alone.append(_load(fleet, client, JOBS))
                with _waiting(server.url) as pid:
                    before = _cpu_s(pid)
                    beside.append(_load(fleet, client, JOBS))
                    time.sleep(0.5)  # what they have still to read
                    theirs.append((_cpu_s(pid) - before) / JOBS)
        client.close()
    base = statistics.median(alone)
    return [
        {
            "waiting_producers": count,
            "redis_cpu_us_per_job": 1e6 * statistics.median(seen),
            "ratio_to_alone": statistics.median(seen) / base,
            "their_cpu_us_per_job": None if not cpu else 1e6 * statistics.median(cpu),
        }
        for count, seen, cpu in ((0, alone, []), (WAITING, beside, theirs))
    ]


def _load(fleet: Fleet, client: redis.Redis, jobs: int) -> float:
    """Redis' CPU seconds a job of one producer that submits and awaits so many, a few dozen at a time."""
    before = _redis_cpu_s(client)
    for first in range(0, jobs, 30):
        made = [fleet.submit(brief, number=n) for n in range(first, min(first + 30, jobs))]
        assert len(list(fleet.as_completed(made, timeout=60))) == len(made)
    return (_redis_cpu_s(client) - before) / jobs


def _redis_cpu_s(client: redis.Redis) -> float:
    told: Any = client.info("cpu")
    return float(told["used_cpu_user"] + told["used_cpu_sys"])


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _waiting(url: str) -> Iterator[int]:
    """The producers that wait, as many fleets in a process of their own; its id."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


async def _wait(url: str) -> None:
    config = Config(fleet=FleetConfig(name=NAME, redis_url=url))
    fleets = [AsyncFleet(config) for _ in range(WAITING)]
    jobs = await asyncio.gather(*(fleet.submit(patient) for fleet in fleets for _ in range(EACH)))
    waits = [asyncio.create_task(job.result(timeout=600)) for job in jobs]
    await asyncio.sleep(2.0)
    print("they wait", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for job in jobs:
        await job.signal("end")
        await job.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    for fleet in fleets:
        await fleet.close()


if __name__ == "__main__":
    asyncio.run(_wait(sys.argv[1]))
