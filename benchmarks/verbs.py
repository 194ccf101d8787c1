"""Each hot verb with a million steps waiting: what it takes of Redis.

The lane is filled as in :mod:`benchmarks.waiting`. A verb is called so many times in a row; its time is what
Redis says that it took, not what a caller waits.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable
from typing import Any

import redis

from aios_dist.journal import Decision, Limits, NewJob
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState, Outcome, encode
from benchmarks.waiting import LANE, Lane, Rules

SIZE = 1_000_000
TIMES = 20
ANSWER = encode(Outcome(value="Lima"))

CASES = (
    (Rules("fifo"), 0),
    (Rules("las", oldest_every=10, fair="tenant", tenants=100), 0),
    (Rules("las", oldest_every=10, fair="tenant", tenants=100), 8),
)
"""Rules, and the model's limit of calls in flight (0: none): with one, what waits is held."""


def verbs() -> list[dict[str, Any]]:
    """Each hot verb behind a million waiting steps, µs in Redis (bound: 1,000 for the median; of
    ``reap``, which looks at a page of jobs, 5,000)."""
    return [row for rules, limit in CASES for row in asyncio.run(_case(rules, limit))]


async def _case(rules: Rules, limit: int) -> list[dict[str, Any]]:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        lane = Lane(rules, SIZE, server.url, client)
        try:
            if limit:
                await lane.journal.set_limits("small", Limits(in_flight=limit))
            await lane.fill()
            timed = Timed(client)
            await _run(lane, timed)
        finally:
            await lane.journal.close()
    load = f"{rules}{f', {limit} in flight' if limit else ''}; {SIZE:,} wait"
    return [
        {"load": load, "verb": verb, "median_us": statistics.median(us), "most_us": max(us)}
        for verb, us in timed.us.items()
    ]


class Timed:
    """What verbs took of Redis.

    Attributes:
        us: of each verb, call by call.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.us: dict[str, list[float]] = {}

    async def __call__(self, verb: str, call: Awaitable[Any]) -> Any:
        before = self._total()
        answer = await call
        self.us.setdefault(verb, []).append(self._total() - before)
        return answer

    def _total(self) -> float:
        stats = self._client.info("commandstats")
        return float(
            sum(stats[name]["usec"] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats)
        )


async def _run(lane: Lane, timed: Timed) -> None:
    journal = lane.journal
    for n in range(TIMES):
        claim = await timed("claim", journal.claim(LANE, "bench"))
        if claim is not None:
            await timed("renew", journal.renew([claim.lease]))
            await timed("release", journal.release(claim, "bench"))
        claim = await journal.claim(LANE, "bench")
        if claim is not None:
            ends = Decision(claim.version + 1, 1, [], JobState.DONE, ANSWER, claim.basis)
            await timed("commit", journal.commit(claim, ANSWER, ok=True, usage=Usage(9, 9, 1), decision=ends))
        job = NewJob(f"verbs-{n}", lane.records[0], lane.decision)
        await timed("submit", journal.submit([job]))
        await timed("rerank", journal.rerank(job.id, 5))
        await timed("cancel", journal.cancel(job.id))
        await timed("counts", journal.waiting([LANE]))
        await timed("reap", journal.reap([LANE, "turns"]))
