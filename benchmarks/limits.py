"""Limits over the whole fleet: how near to them it stays, and what a held model costs the others."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aios_dist import Fleet, Job, Step, prompts
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.journal import Journal, Limits
from aios_dist.local.machine import LocalFleet, WorkerSpec

LIMIT = 16
PER_MINUTE = 300
REPLY_S = 0.1
SLOTS = 64
HELD = (0, 1_000, 10_000)
CLAIMS = 200


def limits() -> list[dict[str, Any]]:
    """Calls in flight and a minute against their limits; the others' makespan; time of a claim."""
    rows = [*_near_the_limit(), _per_minute(), _others(), *_claims()]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column) for column in columns} for row in rows]


@contextmanager
def _machine(workers: int = 2, **limited: Any) -> Iterator[tuple[LocalFleet, Fleet]]:
    """Two models on one lane, one of them limited."""
    config = Config(
        fleet=FleetConfig(name="bench", check_replays=False, default_model="free"),
        models={"free": ModelConfig(), "limited": ModelConfig(**limited)},
        pools={"llm": PoolConfig(lanes=["llm"], slots=SLOTS // 2)},
    )
    specs = [WorkerSpec(f"machine-{n + 1}", "llm") for n in range(workers)]
    with LocalFleet(config, specs, fake_llm=str(REPLY_S)) as local, Fleet(local.config) as fleet:
        yield local, fleet


def _submit(fleet: Fleet, model: str, jobs: int, steps: int = 1) -> list[Job]:
    chat = prompts(f"bench-{model}", [f"{{input}}: question {n}" for n in range(steps)], model=model)
    return fleet.submit_many([chat.job(f"agent {n}") for n in range(jobs)])


def _finish(fleet: Fleet, jobs: Sequence[Job]) -> list[Step]:
    for _ in fleet.as_completed(jobs, timeout=300):
        pass
    return [step for job in jobs for step in job.steps()]


def _near_the_limit() -> list[dict[str, Any]]:
    rows = []
    with _machine(max_in_flight=LIMIT) as (local, fleet):
        for jobs, steps in ((640, 1), (160, 4)):
            _ask(local, "reset", post=True)
            done = _finish(fleet, _submit(fleet, "limited", jobs, steps))
            calls = _ask(local, "calls?fields=start,end")
            rows.append(
                {
                    "load": f"{jobs} x {steps}, at most {LIMIT} in flight",
                    "limit": LIMIT,
                    "most": calls["max_in_flight"],
                    "held_by_journal": _mean_in_flight([(s.started_at, s.ended_at) for s in done]) / LIMIT,
                    "in_flight_at_provider": _mean_in_flight([(c["start"], c["end"]) for c in calls["calls"]])
                    / LIMIT,
                }
            )
    return rows


def _per_minute() -> dict[str, Any]:
    """One and a third of a minute's calls: the last third may begin 60 s after the first ones."""
    count = PER_MINUTE * 4 // 3
    with _machine(requests_per_minute=PER_MINUTE) as (local, fleet):
        done = _finish(fleet, _submit(fleet, "limited", count))
        starts = sorted(call["start"] for call in _ask(local, "calls?fields=start")["calls"])
    late = [starts[n] - starts[n - PER_MINUTE] - 60.0 for n in range(PER_MINUTE, count)]
    return {
        "load": f"{count} x 1, at most {PER_MINUTE} a minute",
        "limit": PER_MINUTE,
        "most": _most_in_a_minute(starts),
        "most_by_journal": _most_in_a_minute([step.started_at for step in done]),
        "late_ms": 1000.0 * statistics.median(late),
        "late_worst_ms": 1000.0 * max(late),
    }


def _most_in_a_minute(starts: Sequence[float]) -> int:
    return max(sum(start <= other < start + 60.0 for other in starts) for start in starts)


def _others() -> dict[str, Any]:
    """The free model's makespan beside two thousand held steps of another, and without them."""
    with _machine(max_in_flight=1) as (_, fleet):
        _finish(fleet, _submit(fleet, "free", 128, 2))  # connections
        alone = [_makespan(_finish(fleet, _submit(fleet, "free", 640, 2))) for _ in range(3)]
        held = _submit(fleet, "limited", 2_000)
        beside = [_makespan(_finish(fleet, _submit(fleet, "free", 640, 2))) for _ in range(3)]
        for job in held:
            job.cancel()
    without, with_held = statistics.median(alone), statistics.median(beside)
    return {
        "load": "640 x 2 of another model, 2,000 held",
        "without_s": without,
        "with_s": with_held,
        "ratio": with_held / without,
    }


def _claims() -> list[dict[str, Any]]:
    """A claim behind so many held steps: the one that sets them aside, and those after it."""
    rows = []
    for count in HELD:
        with _machine(workers=0, max_in_flight=1) as (local, fleet):
            if count:
                _submit(fleet, "limited", count + 1)
            _submit(fleet, "free", CLAIMS)
            rows.append(
                {"load": f"claim, {count:,} held", **asyncio.run(_claim_all(local.config.fleet, count))}
            )
    return rows


async def _claim_all(config: FleetConfig, held: int) -> dict[str, float]:
    journal = Journal(config)
    try:
        await journal.now()
        await journal.set_limits("limited", Limits(1, 0, 0))
        if held:
            await journal.claim("llm", "bench")  # the one that the limit lets in
        took, spare = [], 0.0
        while len(took) < CLAIMS:
            start = time.perf_counter()
            claim = await journal.claim("llm", "bench")
            ms = 1000.0 * (time.perf_counter() - start)
            if claim is None or (held and not took):
                spare = max(spare, ms)  # set up to a thousand aside
            if claim is not None:
                took.append(ms)
    finally:
        await journal.close()
    took.sort()
    return {
        "setting_aside_ms": spare,
        "claim_ms": statistics.median(took),
        "claim_p95_ms": took[int(0.95 * len(took))],
    }


def _mean_in_flight(spans: Sequence[tuple[float, float]]) -> float:
    """How many ran at a time on the mean, from the first start to the last: so long as some waited."""
    first, last = min(start for start, _ in spans), max(start for start, _ in spans)
    return sum(min(end, last) - start for start, end in spans) / (last - first)


def _makespan(steps: Sequence[Step]) -> float:
    return max(s.ended_at for s in steps) - min(s.ready_at for s in steps)


def _ask(local: LocalFleet, what: str, *, post: bool = False) -> Any:
    assert local.llm_url is not None
    url = f"{local.llm_url.removesuffix('/v1')}/{what}"
    key = {"Authorization": f"Bearer {local.llm_key}"}
    with urllib.request.urlopen(urllib.request.Request(url, b"" if post else None, key)) as answer:
        return json.load(answer)
