"""Plans of a hundred thousand: what they take of Redis at a time, and how long others wait meanwhile.

A fixed plan is submitted, its first member fails, and the rest is dropped; a fifo plan is submitted and all
its members are admitted. Meanwhile a thread asks Redis every few milliseconds, as workers do. On a machine
that is shared the longest of both says more of it than of us: the processor's time is Redis' own, and the
last row is a script that always does the same, as often and about as long as a verb.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import redis

from aios_dist.config import FleetConfig
from aios_dist.errors import ProviderBusy
from aios_dist.journal import Decision, Journal, NewJob, RankedStep
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.model.jobs import JobRecord, JobState, Kind, NewStep, Outcome, encode
from aios_dist.model.plans import Shape
from benchmarks.measures import redis_cpu_s

MEMBERS = 100_000
EVERY_S = 0.005
SLOW_US = 1_000
"""Verbs of at least so many µs are in Redis' own log, which says how long the longest took."""

SAME = "for _ = 1, 4000 do redis.call('GET', 'nothing') end"

STEP = RankedStep(NewStep(Kind.LLM, "llm", b'j{"model":"small"}', "d" * 24, "small", estimate=1))
FAILED = encode(Outcome.failed(ProviderBusy("no")))


def plans() -> list[dict[str, Any]]:
    """100,000 in a plan: processor time of a verb (bound: 5 ms), longest wait of others (bound: 20 ms)."""
    rows: list[dict[str, Any]] = []
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.config_set("slowlog-log-slower-than", SLOW_US)
        client.config_set("slowlog-max-len", 100_000)
        for mode in ("fixed", "fifo"):
            client.flushall()
            rows += asyncio.run(_of(mode, server.url, client))
        rows.append(_same(server.url, client, rows[-1]["verbs"]))
    return rows


def _same(url: str, client: redis.Redis, times: int) -> dict[str, Any]:
    """What the machine itself makes of so many scripts that are all alike."""
    rows: list[dict[str, Any]] = []
    took: list[float] = []
    with _part(rows, "always the same, for comparison", url, client, took):
        for _ in range(times):
            before = redis_cpu_s(client)
            client.eval(SAME, 0)
            took.append(redis_cpu_s(client) - before)
    return rows[0]


async def _of(mode: str, url: str, client: redis.Redis) -> list[dict[str, Any]]:
    journal = Journal(FleetConfig(name="bench", redis_url=url))
    verbs = _Verbs(journal, client)
    decision = Decision(0, 0, [STEP])
    jobs = [NewJob(f"p.{n}", JobRecord("a", {"n": n}), decision) for n in range(MEMBERS)]
    links = [(0, n, f"j{job.id}") for n, job in enumerate(jobs)]
    shape = Shape("p", [(mode, -1, MEMBERS, "stop")], links)
    rows: list[dict[str, Any]] = []
    await journal.submit([NewJob("first", JobRecord("a", {}), decision)])
    claim = await journal.claim("llm", "w")
    assert claim is not None
    await journal.commit(claim, FAILED, ok=False)  # all scripts that are measured are there
    await journal.go_on()
    name = f"{mode}, {MEMBERS:,}"
    submits = f"{name}: submit" + (" and admit all" if mode == "fifo" else "")
    with _part(rows, submits, url, client, verbs.took):
        await journal.submit(jobs, shape)
    if mode == "fixed":
        claim = await journal.claim("llm", "w")
        assert claim is not None
        end = Decision(1, 1, [], JobState.FAILED, FAILED, claim.basis)
        with _part(rows, f"{name}: the first failure", url, client, verbs.took):
            done = await journal.commit(claim, FAILED, ok=False, decision=end)
        assert done.status == "advanced"
        with _part(rows, f"{name}: the rest is dropped", url, client, verbs.took):
            while (await journal.go_on())[2]:
                pass
        view = await journal.plan("p")
        assert (view.state, view.dropped) == ("failed", MEMBERS - 1)
    await journal.close()
    return rows


@contextlib.contextmanager
def _part(
    rows: list[dict[str, Any]], load: str, url: str, client: redis.Redis, took: list[float]
) -> Iterator[None]:
    """One part of it, beside somebody who asks all the time."""
    waits: list[float] = []
    over = threading.Event()

    def ask() -> None:
        with redis.Redis.from_url(url) as other:
            while not over.is_set():
                start = time.perf_counter()
                other.get("nothing")
                waits.append(1000 * (time.perf_counter() - start))
                time.sleep(EVERY_S)

    client.slowlog_reset()
    took.clear()
    asking = threading.Thread(target=ask)
    asking.start()
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        over.set()
        asking.join()
    slow = [entry["duration"] / 1000 for entry in client.slowlog_get(100_000) if b"EVAL" in entry["command"]]
    rows.append(
        {
            "load": load,
            "seconds": seconds,
            "verbs": len(took),
            "cpu_ms": 1000 * sum(took) / len(took),
            "cpu_ms_99": 1000 * sorted(took)[int(0.99 * len(took))],
            "longest_cpu_ms": 1000 * max(took),
            "longest_verb_ms": max(slow, default=SLOW_US / 1000),
            "others_wait_ms": max(waits),
            "others_wait_99_ms": sorted(waits)[int(0.99 * len(waits))],
        }
    )


class _Verbs:
    """Seconds of Redis' main thread that each verb of a journal takes (with the other client's GETs)."""

    def __init__(self, journal: Journal, client: redis.Redis) -> None:
        self.took: list[float] = []
        run = journal.connection.eval

        async def measured(*args: Any, **named: Any) -> Any:
            before = redis_cpu_s(client)
            try:
                return await run(*args, **named)
            finally:
                self.took.append(redis_cpu_s(client) - before)

        journal.connection.eval = measured  # type: ignore[method-assign, assignment]
