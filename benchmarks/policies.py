"""What a policy costs the fleet: the main job under each, beside ``fifo`` in the same run."""

from __future__ import annotations

import statistics
import time
from typing import Any

from aios_dist import policies
from benchmarks.measures import Load, machine, run

ROUNDS = 5
RULES: list[dict[str, Any]] = [
    {"policy": "fifo", "fair": ""},
    *({"policy": name, "fair": ""} for name in policies.names() if name != "fifo"),
    {"policy": "fifo", "fair": "tenant"},
    {"policy": "las", "fair": "tenant"},
]


def by_policy() -> list[dict[str, Any]]:
    """The main job (20 agents, 5 steps, 0.1 s, 8 slots) under every policy, in turn."""
    load = Load(agents=20, steps=5, latency_s=0.1, slots=8)
    seen: list[list[dict[str, Any]]] = [[] for _ in RULES]
    with machine(load) as (local, fleet):
        run(local, fleet, load)  # connections
        for _ in range(ROUNDS):
            for place, rules in enumerate(RULES):
                fleet.set_lane("llm", **rules)
                time.sleep(0.5)  # the workers have heard of it: the policy is measured, not the change
                seen[place].append(run(local, fleet, load))
    first = statistics.median(row["makespan_s"] for row in seen[0])
    return [
        {
            "load": " ".join(str(value) for value in rules.values()),
            "ratio_to_bound": (median := statistics.median(r["makespan_s"] for r in rows)) / load.bound_s,
            "ratio_to_fifo": median / first,
            "cpu_ms_per_step": statistics.median(r["cpu_ms_per_step"] for r in rows),
        }
        for rules, rows in zip(RULES, seen, strict=True)
    ]
