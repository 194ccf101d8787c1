"""What a conversation costs: one that grows, and one of constant size, from its first calls to its last.

Each request sends all that was said before. Redis is asked what the job holds (``MEMORY USAGE`` of its keys)
and what it has computed; a step's time is from its claim to the next one's, as the journal says.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from aios_dist import Fleet, Job, agent, llm, signal
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.journal import Journal
from aios_dist.journal.keys import Keys
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.testing import FakeLLM

GROWS, CONTENT = 100, 900_000
LONG, WINDOW, SAID, MARK = 1_000, 20, 1_000, 100
WORDS = [f"{word}{n}" for word in ("plan", "seat", "fare", "gate", "note") for n in range(400)]


def words(seed: int, size: int) -> str:
    """Text of so many characters, another one for each seed."""
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(size // 6))[:size]


@agent(name="bench-conversation")
async def conversation(calls: int, size: int, window: int, mark: int) -> int:
    """So many calls, each with what was said before, of ``window`` messages at the most. After the first
    ``mark`` calls, and before the last, it waits to be measured."""
    messages: list[dict[str, Any]] = []
    for call in range(calls):
        if mark and call in (mark, calls - mark):
            await signal(f"go-{call}")
        messages.append({"role": "user", "content": words(call, size)})
        messages = messages[-window:]
        messages.append((await llm(messages=messages)).message)
    return calls


def conversations() -> list[dict[str, Any]]:
    """What a conversation holds in Redis and takes to load; what its last calls cost beside its first."""
    half = CONTENT // GROWS // 2
    with FakeLLM(latency=0.0) as fake:
        config = Config(
            fleet=FleetConfig(name="bench", check_replays=False, modules=["benchmarks.conversation"]),
            models={"small": ModelConfig(base_url=fake.url)},
            pools={"both": PoolConfig(lanes=["llm", "turns"])},
        )
        specs = [WorkerSpec("machine", "both", 4)]
        with (
            LocalFleet(config, specs, cwd=Path(__file__).parents[1]) as local,
            Fleet(local.config) as fleet,
            redis.Redis.from_url(local.config.fleet.redis_url) as client,
        ):
            answers = itertools.count(10**6)
            fake.script(reply=lambda _: words(next(answers), half))
            fleet.submit(conversation, calls=2, size=half, window=9, mark=0).result(timeout=60)
            return [_grows(fleet, local.config, client, half), *_slides(fleet, client, fake)]


def _grows(fleet: Fleet, config: Config, client: redis.Redis, half: int) -> dict[str, Any]:
    start = time.perf_counter()
    job = fleet.submit(conversation, calls=GROWS, size=half, window=10**6, mark=0)
    assert job.result(timeout=300) == GROWS
    took = time.perf_counter() - start
    return {
        "load": f"a conversation that grows to {CONTENT / 1e6:g} MB in {GROWS} calls",
        "redis_mb": _held(client, config.fleet.name, job.id) / 1e6,
        "load_ms": asyncio.run(_load(config, job.id)),
        "s": took,
    }


def _slides(fleet: Fleet, client: redis.Redis, fake: FakeLLM) -> list[dict[str, Any]]:
    answers = itertools.count(2 * 10**6)
    fake.script(reply=lambda _: words(next(answers), SAID))
    job = fleet.submit(conversation, calls=LONG, size=SAID, window=WINDOW, mark=MARK)
    name = fleet.config.fleet.name
    at = [(_cpu(client), 0)]
    for call in (MARK, LONG - MARK):
        _wait(lambda upto=call: _calls(job) >= upto)  # type: ignore[misc]
        at += [(_cpu(client), _held(client, name, job.id))]
        job.signal(f"go-{call}")
    assert job.result(timeout=600) == LONG
    at.append((_cpu(client), _held(client, name, job.id)))
    starts = [step.started_at for step in job.steps() if step.kind.value == "llm"]
    took = [1e3 * (b - a) for a, b in itertools.pairwise(starts)]
    rows: list[dict[str, Any]] = []
    for place, (first, last) in enumerate([(2, MARK), (LONG - MARK, LONG - 1)]):
        before, after = at[2 * place], at[2 * place + 1]
        rows.append(
            {
                "load": f"{LONG:,} calls of {WINDOW} messages of {SAID:,} bytes: steps {first} to {last}",
                "step_ms": statistics.median(took[first : last - 1]),
                "redis_kb_per_step": (after[1] - before[1]) / MARK / 1e3,
                "redis_cpu_ms_per_step": (after[0] - before[0]) * 1e3 / MARK,
            }
        )
    first, last = rows
    last["step_ms_ratio"] = last["step_ms"] / first["step_ms"]
    last["redis_kb_ratio"] = last["redis_kb_per_step"] / first["redis_kb_per_step"]
    last["redis_cpu_ms_ratio"] = last["redis_cpu_ms_per_step"] / first["redis_cpu_ms_per_step"]
    return rows


def _calls(job: Job) -> int:
    """That have been answered."""
    return job.usage.calls


def _held(client: redis.Redis, fleet: str, job: str) -> int:
    keys = Keys(fleet)
    names = (keys.job(job), keys.events(job))
    return sum(client.memory_usage(name, samples=0) or 0 for name in names)


def _cpu(client: redis.Redis) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _wait(ready: Callable[[], bool]) -> None:
    while not ready():
        time.sleep(0.1)


async def _load(config: Config, job: str) -> float:
    journal = Journal(config.fleet)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        await journal.load(job)
        took.append(1e3 * (time.perf_counter() - start))
    await journal.close()
    return statistics.median(took)
