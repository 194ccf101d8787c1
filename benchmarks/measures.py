"""What a benchmark run measures, from the journal's own times and from /proc."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from aios_dist import Fleet, Step, prompts
from aios_dist.config import Config, FleetConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec

CLOCK_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """So many agents with so many steps each, replies of so many seconds, on so many slots of workers."""

    agents: int
    steps: int
    latency_s: float
    slots: int
    workers: int = 1

    @property
    def bound_s(self) -> float:
        """Work divided by slots, or one agent's chain, whatever is longer."""
        return max(self.agents * self.steps / self.slots, self.steps) * self.latency_s

    @property
    def rounds_s(self) -> float:
        """The same in whole rounds: with equal replies, no schedule is faster than this."""
        return max(math.ceil(self.agents * self.steps / self.slots), self.steps) * self.latency_s


@contextmanager
def machine(load: Load) -> Iterator[tuple[LocalFleet, Fleet]]:
    """Redis, the fake LLM and the workers, as processes of their own; and a producer's fleet."""
    config = Config(
        fleet=FleetConfig(name="bench", check_replays=False),
        pools={"llm": PoolConfig(lanes=["llm"], slots=load.slots)},
    )
    each = load.slots // load.workers
    specs = [WorkerSpec(f"machine-{n + 1}", "llm", each) for n in range(load.workers)]
    with LocalFleet(config, specs, fake_llm=str(load.latency_s)) as local, Fleet(local.config) as fleet:
        yield local, fleet


def run(local: LocalFleet, fleet: Fleet, load: Load, timeout: float = 300.0) -> dict[str, Any]:
    """Submit the load at once, wait for all of it, and say what it took."""
    chat = prompts("bench", [f"{{input}}: question {n}" for n in range(load.steps)])
    specs = [chat.job(f"agent {n}") for n in range(load.agents)]
    before = cpu_s(local)
    start = time.perf_counter()
    jobs = fleet.submit_many(specs)
    for _ in fleet.as_completed(jobs, timeout=timeout):
        pass
    wall = time.perf_counter() - start
    cpu = cpu_s(local) - before
    steps = [step for job in jobs for step in job.steps()]
    makespan = max(s.ended_at for s in steps) - min(s.ready_at for s in steps)
    busy = sum(s.ended_at - s.started_at for s in steps)
    waited = sum(_in_reply(s) for s in steps)
    return {
        "makespan_s": makespan,
        "seen_by_producer_s": wall,
        "ratio": makespan / load.bound_s,
        "ratio_to_rounds": makespan / load.rounds_s,
        "slots_held": busy / (load.slots * makespan),
        "slots_in_a_reply": waited / (load.slots * makespan),
        "steps_per_s": len(steps) / makespan,
        "cpu_ms_per_step": 1000.0 * cpu / len(steps),
        "worker_rss_mb": max(rss_mb(m.pid) for m in local.workers),
    }


def next_call_ms(local: LocalFleet, fleet: Fleet, steps: int = 40) -> dict[str, float]:
    """From the commit of a step to the start of the job's next call, slots being free, as the LLM sees it."""
    assert local.llm_url is not None
    root = local.llm_url.removesuffix("/v1")
    key = {"Authorization": f"Bearer {local.llm_key}"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{root}/reset", data=b"", headers=key, method="POST")
    ):
        pass
    chat = prompts("chain", [f"question {n}" for n in range(steps)])
    job = fleet.submit(chat.job())
    job.result(timeout=120)
    with urllib.request.urlopen(urllib.request.Request(f"{root}/calls?fields=start", headers=key)) as answer:
        calls = json.load(answer)
    starts = sorted(c["start"] for c in (calls["calls"] if isinstance(calls, dict) else calls))
    done = sorted(s.ended_at for s in job.steps())
    gaps = sorted(1000.0 * (begin - end) for begin, end in zip(starts[1:], done, strict=False))
    return {"median": statistics.median(gaps), "p95": gaps[int(0.95 * len(gaps))], "max": gaps[-1]}


def cpu_s(local: LocalFleet) -> float:
    """CPU time of all workers so far."""
    total = 0.0
    for member in local.workers:
        with open(f"/proc/{member.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) * CLOCK_TICK_S
    return total


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def best_and_median(rows: Sequence[dict[str, Any]], key: str) -> tuple[float, float]:
    """Shared machines are noisy: the best says what the code can do, the median what was seen."""
    values = [row[key] for row in rows]
    return min(values), statistics.median(values)


def _in_reply(step: Step) -> float:
    outcome = step.outcome
    return outcome.response.timings.call_s if outcome is not None and outcome.response is not None else 0.0


class MainThread:
    """The thread of a Redis on this machine that runs all commands.

    Args:
        client: connected to it.
    """

    def __init__(self, client: redis.Redis) -> None:
        pid = client.info("server")["process_id"]
        self._path = f"/proc/{pid}/task/{pid}/schedstat"

    def ms(self) -> float:
        """Milliseconds of processor time that it has taken so far."""
        with open(self._path, encoding="ascii") as stat:
            return int(stat.read().split()[0]) / 1e6
