"""Jobs of many steps: what a slice takes of Redis, whatever is done to all of them.

One job asks for so many steps, as a gather of them does; then everything that concerns all its steps is
done to it, slice by slice (``_sweep.lua``, ``_mend.lua``). Three times on fresh servers, see
:mod:`benchmarks.parts`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import redis

from aios_dist.config import FleetConfig
from aios_dist.errors import ProviderBusy
from aios_dist.journal import Decision, Journal, Limits, NewJob, scripts
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.model.jobs import JobRecord, JobState, Outcome, encode
from aios_dist.program.turns import MOST_STEPS
from benchmarks.measures import MainThread
from benchmarks.parts import SAME, Part, measured, row_of
from benchmarks.shapes import step

STEPS = 10_000
RUNS = 3
FAILURES = 1_000
"""How many of them have failed before a job is retried."""

LIMITS = (0, 8)
"""The model's limit of calls in flight (0: none): with one, what waits is held."""

FAILED = encode(Outcome.failed(ProviderBusy("no")))


def wide(steps: int = STEPS) -> list[dict[str, Any]]:
    """One job of so many steps: the processor time of each slice of what is done to all of them."""
    rows = []
    for limit in LIMITS:
        load = f"{steps:,} steps{f', {limit} in flight' if limit else ''}"
        runs = [_run(steps, limit) for _ in range(RUNS)]
        rows += [
            row_of({"load": load, "verb": parts[0].name}, [part.ours for part in parts])
            for parts in zip(*runs, strict=True)
        ]
        same = [[ms for part in run for ms in part.same] for run in runs]
        rows.append(row_of({"load": load, "verb": "(the same)"}, same))
    return rows


def _run(steps: int, limit: int) -> list[Part]:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.function_load(scripts.load()["commit"].library.text)
        return asyncio.run(_of(steps, limit, server.url, client))


async def _asked(journal: Journal, job: str, steps: int, client: redis.Redis) -> None:
    """A job that has asked for so many steps."""
    await journal.submit([NewJob(job, JobRecord("a", {}), Decision(0, 0, [step()]))])
    basis = client.hget(journal.keys.job(job), "dg").decode()
    for first in range(1, steps, MOST_STEPS):
        some = [step()] * min(MOST_STEPS, steps - first)
        got = await journal.advance(job, Decision(0, first, some, basis=basis))
        assert got.status == "advanced", got
        basis = got.basis


async def _failed(journal: Journal, job: str, steps: int, client: redis.Redis) -> str:
    """A job all of whose steps have failed, and it with them; what its program has seen."""
    await _asked(journal, job, steps, client)
    for n in range(1, steps + 1):
        claim = await journal.claim("llm", "w")
        assert claim is not None
        end = Decision(n, steps, [], JobState.FAILED, FAILED, claim.basis) if n == steps else None
        await journal.commit(claim, FAILED, ok=False, decision=end)
    return client.hget(journal.keys.job(job), "dg").decode()


async def _of(steps: int, limit: int, url: str, client: redis.Redis) -> list[Part]:
    journal = Journal(FleetConfig(name="bench", redis_url=url))
    thread, parts = MainThread(client), list[Part]()
    await journal.connection.command("EVAL", SAME, 0)
    if limit:
        await journal.set_limits("small", Limits(limit, 10_000, 10_000_000))

    def part(name: str) -> Any:
        parts.append(Part(name))
        return measured(parts[-1], journal, url, thread)

    async def walk() -> None:
        cursor = ""
        while cursor != "0":
            cursor = (await journal.walk(cursor or "0")).cursor

    async def follow(job: str) -> None:
        while (await journal.sweep(job))[2]:
            pass

    few = min(steps, FAILURES)
    basis = await _failed(journal, "failed", few, client)
    with part("retry of failed"):
        status, _ = await journal.retry("failed", basis=basis, undone=range(few))
        assert status == "running", status
    await journal.cancel("failed")
    with part("gather"):
        await _asked(journal, "job", steps, client)
    with part("rerank"):
        await journal.rerank("job", 5)
    with part("pause"):
        await journal.pause("job")
    with part("resume"):
        await journal.resume("job")
    with part("signal"):
        await journal.signal("job", "go", Outcome(value=1))
    with part("walk"):
        await walk()
    with part("mend"):
        client.zadd(journal.keys.dirty, {"job": 1})
        await walk()
        await follow("job")
    with part("cancel"):
        await journal.cancel("job")
    with part("retry"):
        await journal.retry("job")
    with part("fork"):
        await journal.fork("job", "another", steps)
    with part("deadline"):
        client.zadd(journal.keys.deadlines, {"another": 1})
        await journal.reap(["llm", "turns"])
        await follow("another")
    with part("set aside"):
        client.hset(journal.keys.job("job"), f"h{steps - 1}", b"unreadable")
        client.zadd(journal.keys.dirty, {"job": 1})
        for _ in range(2):  # that it cannot be read is seen at the end of the first
            await walk()
            await follow("job")
    states = [client.hget(journal.keys.job(job), "st") for job in ("job", "another")]
    assert states == [b"failed", b"failed"], states
    await journal.close()
    return parts
