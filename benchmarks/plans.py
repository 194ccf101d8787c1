"""Plans of a hundred thousand, and of each shape: what they take of Redis at a time, and how others wait.

A plan is submitted and its first members admitted, the first to run fails, and what is left to do is done. On
a machine that is shared the longest of many says more of it than of us. So each plan runs three times, on
fresh servers, through the very same verbs: what is long in all runs is ours. And between ours, one in EVERY,
goes a script that always does the same: what is long there is the machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import redis

from aios_dist.config import FleetConfig
from aios_dist.errors import ProviderBusy
from aios_dist.journal import Decision, Journal, Limits, NewJob
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.model.jobs import JobRecord, JobState, Outcome, encode
from benchmarks.measures import MainThread
from benchmarks.shapes import CASES, TENANTS, Case, jobs_of, step

MEMBERS = 100_000
RUNS = 3
EVERY = 8
ASK_S = 0.005

SAME = "for _ = 1, 4000 do redis.call('GET', 'nothing') end"
FAILED = encode(Outcome.failed(ProviderBusy("no")))


@dataclass
class Part:
    """One run of one part: ms of Redis' main thread for each of our verbs and of the script between, ms that
    others waited, and its seconds."""

    name: str
    ours: list[float] = field(default_factory=list)
    same: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    seconds: float = 0.0


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
    rows = [_row(load, [part.ours for part in parts])]
    waits = sorted(wait for part in parts for wait in part.waits) or [0.0]
    rows[0] |= {"others_wait_ms": waits[-1], "others_wait_99_ms": waits[int(0.99 * len(waits))]}
    rows[0]["seconds"] = sum(part.seconds for part in parts) / len(parts)
    if parts[0].same:
        rows.append(_row("  (the same)", [part.same for part in parts]))
        rows[1] |= dict.fromkeys(rows[0].keys() - rows[1].keys())
    return [{name: row[name] for name in rows[0]} for row in rows]


def _row(load: str, runs: list[list[float]]) -> dict[str, Any]:
    each = sorted(ms for run in runs for ms in run)
    ours = [min(same) for same in zip(*runs, strict=False)]
    return {
        "load": load,
        "verbs": len(runs[0]),
        "cpu_ms": sum(each) / len(each),
        "cpu_99_ms": each[int(0.99 * len(each))],
        "longest_ms": each[-1],
        "longest_in_all_ms": max(ours),
    }


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
    with _measured(begun, journal, url, thread):
        done = await journal.submit(jobs, shape)
    if not case.taken:
        claim = await journal.claim("llm", "w")
        assert done.status == "new"
        assert claim is not None
        end = Decision(1, case.steps, [], JobState.FAILED, FAILED, claim.basis)
        with _measured(rest, journal, url, thread):
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


@contextlib.contextmanager
def _measured(part: Part, journal: Journal, url: str, thread: MainThread) -> Iterator[None]:
    """What its verbs take (with another client's GETs), and how long somebody waits who asks all the time."""
    over = threading.Event()

    def ask() -> None:
        with redis.Redis.from_url(url) as other:
            other.ping()
            while not over.is_set():
                start = time.perf_counter()
                other.get("nothing")
                part.waits.append(1000 * (time.perf_counter() - start))
                time.sleep(ASK_S)

    run = journal.connection.eval

    async def measured(*args: Any, **named: Any) -> Any:
        before = thread.ms()
        answer = await run(*args, **named)
        part.ours.append(thread.ms() - before)
        if len(part.ours) % EVERY == 0:
            before = thread.ms()
            await journal.connection.command("EVAL", SAME, 0)
            part.same.append(thread.ms() - before)
        return answer

    asking = threading.Thread(target=ask)
    asking.start()
    start = time.perf_counter()
    journal.connection.eval = measured  # type: ignore[method-assign]
    try:
        yield
    finally:
        journal.connection.eval = run  # type: ignore[method-assign]
        part.seconds = time.perf_counter() - start
        over.set()
        asking.join()
