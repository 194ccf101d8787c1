"""``make bench``, or ``python -m benchmarks [PART …] [--json]``.

Real processes: an embedded Redis, the fake LLM, workers. All on loopback, bounded, under five minutes; the
part ``waiting`` takes three more, and 3 GiB of memory, ``verbs`` as much, ``plans`` seven, and 1 GiB,
``wide`` two. ``memory`` (50,000 jobs, ten minutes or so) only where it is named. ``verbs=N``, ``plans=N``,
``wide=N``: so many steps.
"""

from __future__ import annotations

import inspect
import json
import shutil
import sys
import time
from typing import Any

import redis

from aios_dist import Fleet, prompts
from aios_dist.config import Config, FleetConfig
from aios_dist.local.machine import LocalFleet
from benchmarks.conversation import conversations
from benchmarks.growth import growth
from benchmarks.limits import limits
from benchmarks.measures import Load, best_and_median, machine, next_call_ms, run
from benchmarks.memory import memory
from benchmarks.plans import plans
from benchmarks.policies import by_policy
from benchmarks.producers import producers
from benchmarks.tables import broken, lines
from benchmarks.verbs import verbs
from benchmarks.waiting import waiting
from benchmarks.walk import walk
from benchmarks.wide import wide

REPEATS = 3


def makespan() -> list[dict[str, Any]]:
    """Agents interleaved on few slots, against the bound; and the gap between two steps of one agent."""
    rows = []
    for load, repeats in (
        (Load(agents=20, steps=5, latency_s=0.1, slots=8), REPEATS),
        (Load(agents=20, steps=5, latency_s=0.1, slots=8, workers=2), REPEATS),
        (Load(agents=200, steps=5, latency_s=0.1, slots=32), REPEATS),
        (Load(agents=200, steps=5, latency_s=0.1, slots=32, workers=2), REPEATS),
        (Load(agents=20, steps=5, latency_s=1.0, slots=8), 1),
        (Load(agents=200, steps=5, latency_s=1.0, slots=32), 1),
    ):
        with machine(load) as (local, fleet):
            run(local, fleet, Load(load.agents, 1, load.latency_s, load.slots, load.workers))  # connections
            seen = [run(local, fleet, load) for _ in range(repeats)]
            gap = next_call_ms(local, fleet) if load.latency_s < 1 else None
        best, median = best_and_median(seen, "ratio")
        rows.append(
            {
                "load": f"{load.agents} x {load.steps}, {load.latency_s:g} s, "
                f"{load.workers} x {load.slots // load.workers} slots",
                "bound_s": load.bound_s,
                "rounds_s": load.rounds_s,
                "makespan_s": best_and_median(seen, "makespan_s")[1],
                "ratio": median,
                "ratio_best": best,
                "ratio_to_rounds": best_and_median(seen, "ratio_to_rounds")[1],
                "cpu_ms_per_step": best_and_median(seen, "cpu_ms_per_step")[1],
                "next_call_ms": gap["median"] if gap else None,
                "next_call_p95_ms": gap["p95"] if gap else None,
            }
        )
    return rows


def slots() -> list[dict[str, Any]]:
    """A thousand slots in one process: what it holds, what it costs."""
    rows = []
    for load in (
        Load(agents=3000, steps=2, latency_s=1.0, slots=1000),
        Load(agents=2000, steps=2, latency_s=10.0, slots=1000),
    ):
        with machine(load) as (local, fleet):
            row = run(local, fleet, load)
        rows.append(
            {"load": f"{load.agents} x {load.steps}, {load.latency_s:g} s, {load.slots} slots", **row}
        )
    return rows


def enqueue() -> list[dict[str, Any]]:
    """Ten thousand jobs from one producer, then all of them awaited at once over one connection."""
    count = 10_000
    chat = prompts("bench", ["{input}"])
    config = Config(fleet=FleetConfig(name="bench", check_replays=False))
    with LocalFleet(config, [], fake_llm="0.1") as local, Fleet(local.config) as fleet:
        fleet.submit(chat.job("first"))
        specs = [chat.job(f"job {n}") for n in range(count)]
        start = time.perf_counter()
        jobs = fleet.submit_many(specs)
        took = time.perf_counter() - start
        client = redis.Redis.from_url(local.config.fleet.redis_url)
        before = len(client.client_list())
        start = time.perf_counter()
        waiting = fleet.as_completed(jobs, timeout=120)
        for job in jobs:
            job.cancel()  # ends them without a worker: what is measured is the waiting
        ended = sum(1 for _ in waiting)
        waited = time.perf_counter() - start
        after = len(client.client_list())
        client.close()
    return [
        {
            "jobs": count,
            "enqueued_per_s": count / took,
            "awaited": ended,
            "cancelled_and_awaited_s": waited,
            "connections_for_waiting": after - before,
        }
    ]


PARTS = {
    "makespan": makespan,
    "slots": slots,
    "enqueue": enqueue,
    "limits": limits,
    "policies": by_policy,
    "producers": producers,
    "plans": plans,
    "wide": wide,
    "waiting": waiting,
    "verbs": verbs,
    "walk": walk,
    "growth": growth,
    "conversation": conversations,
    "memory": memory,
}
SIZED = {"plans": plans, "verbs": verbs, "wide": wide}
"""Parts of which the number of steps can be told."""


def main(argv: list[str]) -> int:
    """Run the parts that are named, or all."""
    options = [a for a in argv if a.startswith("-") and a != "--json"]
    if options and set(options) <= {"-h", "--help"}:
        print(f"{__doc__}\nParts: {', '.join(PARTS)}.")
        return 0
    if options:
        print(f"benchmarks: there is no option {options[0]}; --json and --help are.", file=sys.stderr)
        return 2
    names = [a for a in argv if not a.startswith("-")] or [name for name in PARTS if name != "memory"]
    sizes = {name: number for name, _, number in (n.partition("=") for n in names)}
    names = list(sizes)
    unknown = [n for n in names if n not in PARTS]
    if unknown:
        print(f"benchmarks: there is no part {unknown[0]!r}; known are {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    if wrong := [n for n, number in sizes.items() if number and not (n in SIZED and number.isdecimal())]:
        print(f"benchmarks: {wrong[0]}={sizes[wrong[0]]} is no number of steps for a part.", file=sys.stderr)
        return 2
    results = {name: SIZED[name](int(number)) if number else PARTS[name]() for name, number in sizes.items()}
    if "--json" in argv:
        print(json.dumps(results, indent=2))
        return 0
    width = shutil.get_terminal_size().columns
    for name, rows in results.items():
        about = inspect.getdoc(PARTS[name]) or ""
        print("\n".join(lines(name, about, rows, width)), end="\n\n")
    count = sum(broken(name, rows) for name, rows in results.items())
    print(f"{count} of the bounds {'is' if count == 1 else 'are'} BROKEN." if count else "All bounds hold.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
