"""Each hot verb with a million steps waiting (or so many): what it takes of Redis.

The lane is filled as in :mod:`benchmarks.waiting`. A verb is called so many times in a row; its time is the
processor's in Redis' main thread, not what a caller waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Awaitable
from typing import Any

import redis

from aios_dist.journal import Decision, Limits, NewJob, Stray, scripts
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState, Outcome, encode
from aios_dist.model.plans import Shape
from aios_dist.policies import Rank
from benchmarks.measures import MainThread
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


def verbs(size: int = SIZE) -> list[dict[str, Any]]:
    """Each hot verb behind so many waiting steps: its time in Redis."""
    return [row for rules, limit in CASES for row in asyncio.run(_case(rules, limit, size))]


async def _case(rules: Rules, limit: int, size: int) -> list[dict[str, Any]]:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        lane = Lane(rules, size, server.url, client)
        try:
            if limit:
                await lane.journal.set_limits("small", Limits(in_flight=limit))
            await lane.fill()
            client.function_load(scripts.load()["commit"].library.text, replace=True)
            timed = Timed(client)
            await _run(lane, timed)
            await _rerank_all(lane, timed)
        finally:
            await lane.journal.close()
    load = f"{rules}{f', {limit} in flight' if limit else ''}; {size:,} wait"
    return [
        {"load": load, "verb": verb, "calls": len(us), "median_us": statistics.median(us), "most_us": max(us)}
        for verb, us in timed.us.items()
    ]


class Timed:
    """Microseconds of its processor time that verbs took of Redis, with what it reads and answers.

    Attributes:
        us: of each verb, call by call.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._thread = MainThread(client)
        self.us: dict[str, list[float]] = {}

    async def __call__(self, verb: str, call: Awaitable[Any]) -> Any:
        before = self._thread.ms()
        answer = await call
        self.us.setdefault(verb, []).append(1000 * (self._thread.ms() - before))
        return answer


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
        job = job_of(lane, f"verbs-{n}")
        await timed("submit", journal.submit([job]))
        await timed("rerank", journal.rerank(job.id, 5))
        await timed("cancel", journal.cancel(job.id))
        await timed("counts", journal.waiting([LANE]))
        await timed("reap", journal.reap([LANE, "turns"]))
        await timed("tickets", journal.tickets([LANE], [lane.tickets], [100]))
        await _regain(lane, timed)
        if n == 0:
            await journal.submit(
                [job_of(lane, "in-plan", 0)], Shape("plan", [("fixed", -1, 1, "stop")], [(0, 0, "jin-plan")])
            )
        await timed("extend", journal.extend("plan", [job_of(lane, f"extends-{n}")]))


async def _regain(lane: Lane, timed: Timed) -> None:
    """A lease that has ended is taken up again by its worker."""
    claim = await lane.journal.claim(LANE, "bench")
    if claim is None:
        return
    lane.client.zadd(lane.journal.keys.leases, {claim.lease: 1})
    await lane.journal.reap([LANE, "turns"])
    assert await timed("regain", lane.journal.regain([claim])) == []


async def _rerank_all(lane: Lane, timed: Timed) -> None:
    """Another policy: some pages of what waits are ranked anew."""
    policy = "fifo" if lane.rules.policy != "fifo" else "las"
    _, oldest, fair, _ = lane.rules
    run, pages, name = lane.journal.connection.eval, 0, "lane set"

    async def paged(script: Any, *args: Any, **more: Any) -> Any:
        return await timed(name, run(script, *args, **more))

    async def ranked(strays: list[Stray]) -> list[tuple[Rank, str]]:
        nonlocal pages
        pages += 1
        if pages > TIMES:
            raise _Enough
        return [(Rank(), policy) for _ in strays]

    lane.journal.connection.eval = paged  # type: ignore[method-assign]
    await lane.journal.set_lane(LANE, policy=policy, oldest_every=oldest, fair=fair)  # slice by slice
    name = "strays"
    with contextlib.suppress(_Enough):
        await lane.journal.rank_strays(LANE, ranked)
    lane.journal.connection.eval = run  # type: ignore[method-assign]


class _Enough(Exception):
    """So many pages are timed."""


def job_of(lane: Lane, id: str, node: int | None = None) -> NewJob:
    """Another job of those that wait."""
    return NewJob(id, lane.records[0], lane.decision, node=node)
