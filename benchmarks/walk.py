"""The reconciler's slow walk: what it takes of Redis to come by every open job once.

A job of some steps is submitted; all but the last have their outcomes, the last waits. The others are copies
of it in every place where it stands, as in :mod:`benchmarks.waiting`.
"""

from __future__ import annotations

import asyncio
import statistics
from typing import Any

import redis

from aios_dist.config import FleetConfig
from aios_dist.journal import Decision, Journal, NewJob, RankedStep
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.model.jobs import JobRecord, Kind, NewStep, Outcome, encode
from aios_dist.worker.reconciler import WALK_S
from benchmarks.measures import MainThread

JOBS = 20_000
ROUNDS = 5
STEPS = (1, 2, 8)
ANSWER = encode(Outcome(value="Lima"))

COPY = """
-- KEYS: the job's hash, `open`, the lane's set. ARGV: number of the first copy, of the last
local score = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
local prefix, step = string.match(KEYS[1], '^(.*:)'), string.match(score[1], '/.*$')
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local job = 'copy-' .. n
  redis.call('COPY', KEYS[1], prefix .. job)
  redis.call('ZADD', KEYS[2], string.format('%.17g', tonumber(score[2]) + n), job)
  redis.call('ZADD', KEYS[3], string.format('%.17g', tonumber(score[2]) + n), job .. step)
end
"""


def walk() -> list[dict[str, Any]]:
    """Coming by all open jobs: µs of Redis' main thread a job, and of a core with 1,000,000."""
    return [asyncio.run(_with(steps)) for steps in STEPS]


async def _with(steps: int) -> dict[str, Any]:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        journal = Journal(FleetConfig(name="bench", redis_url=server.url))
        try:
            await _submit(journal, steps)
            keys = journal.keys
            copy = client.register_script(COPY)
            for first in range(1, JOBS, 1_000):
                copy([keys.job("first"), keys.open, keys.ready("llm")], [first, min(first + 999, JOBS - 1)])
            assert client.zcard(keys.ready("llm")) == JOBS
            seen = [await _round(journal, client) for _ in range(ROUNDS)]
        finally:
            await journal.close()
    job_us = statistics.median(us for us, _ in seen)
    return {
        "load": f"jobs of {steps} step{'s' if steps > 1 else ''}, the last of them waits; {JOBS:,} are open",
        "a_job_us": job_us,
        "of_a_core_%": 100 * job_us / WALK_S,
        "a_call_ms": job_us * JOBS / 1000 / seen[0][1],
    }


async def _submit(journal: Journal, steps: int) -> None:
    step = RankedStep(NewStep(Kind.LLM, "llm", b'j{"model":"small"}', "d" * 24, "small", estimate=1))
    await journal.submit([NewJob("first", JobRecord("a", {}), Decision(0, 0, [step]))])
    for count in range(1, steps):
        claim = await journal.claim("llm", "bench")
        assert claim is not None
        await journal.commit(
            claim, ANSWER, ok=True, decision=Decision(count, count, [step], basis=claim.basis)
        )


async def _round(journal: Journal, client: redis.Redis) -> tuple[float, int]:
    """µs of Redis a job, and calls, of one round over all."""
    thread, cursor, calls = MainThread(client), "0", 0
    before = thread.ms()
    while calls == 0 or cursor != "0":
        walked = await journal.walk(cursor)
        assert not walked.found, walked.found
        cursor = walked.cursor
        calls += 1
    return 1000 * (thread.ms() - before) / JOBS, calls
