"""Plans of a hundred thousand, and of each shape: what they take of Redis at a time, and how others wait.

A plan is submitted and its first members admitted, the first to run fails, and what is left to do is done. On
a machine that is shared the longest of many says more of it than of us. So each plan runs three times, on
fresh servers, see :mod:`benchmarks.parts`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import redis

from aios_dist.config import FleetConfig
from aios_dist.errors import ProviderBusy
from aios_dist.journal import Decision, Journal, Limits, NewJob
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.model.jobs import JobRecord, JobState, Outcome, encode
from benchmarks.measures import MainThread
from benchmarks.parts import SAME, Part, measured, row_of
from benchmarks.shapes import CASES, TENANTS, Case, jobs_of, step

MEMBERS = 100_000
RUNS = 3
FAILED = encode(Outcome.failed(ProviderBusy("no")))


def plans(members: int = MEMBERS) -> list[dict[str, Any]]:
    """Processor time of a verb, the longest of all runs too, beside a script that always does the same."""
    rows = []
    for case in CASES:
        count = max(2, int(case.part * members))
        runs = [_run(case, count) for _ in range(RUNS)]
        for parts in zip(*runs, strict=True):
            if parts[0].ours:
                rows += _rows(f"{case.name}: {parts[0].name}", parts)
    return rows


def _rows(load: str, parts: tuple[Part, ...]) -> list[dict[str, Any]]:
    rows = [row_of({"load": load}, [part.ours for part in parts])]
    waits = sorted(wait for part in parts for wait in part.waits) or [0.0]
    rows[0] |= {"others_wait_ms": waits[-1], "others_wait_99_ms": waits[int(0.99 * len(waits))]}
    rows[0]["seconds"] = sum(part.seconds for part in parts) / len(parts)
    if parts[0].same:
        rows.append(row_of({"load": "  (the same)"}, [part.same for part in parts]))
        rows[1] |= dict.fromkeys(rows[0].keys() - rows[1].keys())
    return [{name: row[name] for name in rows[0]} for row in rows]


def _run(case: Case, count: int) -> list[Part]:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        return asyncio.run(_of(case, count, server.url, MainThread(client)))


async def _of(case: Case, count: int, url: str, thread: MainThread) -> list[Part]:
    journal = Journal(FleetConfig(name="bench", redis_url=url))
    nodes, shape = case.lay(count)
    jobs = jobs_of(case, nodes)
    await _warm(journal)
    if case.limited:
        await journal.set_limits("small", Limits(8, 10_000, 10_000_000))
        await journal.set_lane("llm", policy="fifo", oldest_every=10, fair="tenant")
        for n in range(TENANTS):
            await journal.set_tenant(f"tenant-{n}", max_in_flight=2)
    if case.taken:
        await journal.submit([NewJob(jobs[-1].id, JobRecord("b", {}))])
    begun, rest = Part("submitted"), Part("one fails")
    with measured(begun, journal, url, thread):
        done = await journal.submit(jobs, shape)
    if not case.taken:
        claim = await journal.claim("llm", "w")
        assert done.status == "new"
        assert claim is not None
        end = Decision(1, case.steps, [], JobState.FAILED, FAILED, claim.basis)
        with measured(rest, journal, url, thread):
            await journal.commit(claim, FAILED, ok=False, decision=end)
            while (await journal.go_on())[2]:
                pass
    await journal.close()
    return [begun, rest]


async def _warm(journal: Journal) -> None:
    """All scripts that are measured are there."""
    await journal.submit([NewJob("first", JobRecord("a", {}), Decision(0, 0, [step()]))])
    claim = await journal.claim("llm", "w")
    assert claim is not None
    await journal.commit(claim, FAILED, ok=False)
    await journal.cancel("first")
    await journal.go_on()
    await journal.connection.command("EVAL", SAME, 0)
