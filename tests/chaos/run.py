"""A chaos run: submit, kill, restart, wait for the end, weigh the evidence."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from aios_dist import AiosError, Fleet
from aios_dist.broker import keyprefix
from aios_dist.journal.keys import Keys
from tests.chaos.evidence import Finding, Sampler, left_over, read_jobs, weigh
from tests.chaos.load import batches
from tests.chaos.machines import FLEET, MODEL, Machines

TICK_S = 0.05
SETTLE_S = 10.0
RECOVERY_S = FLEET.lease + 5.0
"""The issue asks for 15 s with a lease of 10 s."""


@dataclass(frozen=True)
class Options:
    """What a run is to be. ``seconds``: the most that it may take, from the first job submitted."""

    jobs: int = 1000
    seconds: float = 600.0
    kill_every: float = 3.0
    redis_restarts: int = 3
    seed: int = 0


RULES: list[dict[str, Any]] = [
    {"policy": "las", "fair": "tenant"},
    {"policy": "round-robin"},
    {"policy": "priority", "fair": ""},
    {"policy": "remaining", "fair": "tenant", "oldest_every": 3},
    {"policy": "deadline"},
    {"policy": "fifo", "fair": "", "oldest_every": 0},
]

Check = tuple[str, str, str, bool, list[str]]
"""Name, measured, bound, whether it holds, and what speaks against it."""


@dataclass
class Report:
    """What a run has shown."""

    options: Options
    found: Finding
    kills: int
    outages_s: list[float]
    ended: int
    rule_changes: int
    told: int
    changed: list[str]
    samples: int
    left: list[str]
    deserters: list[str]
    trouble: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)

    def checks(self) -> list[Check]:
        """Every bound, and how it fared."""
        f, jobs = self.found, self.options.jobs
        kills = " at a kill"
        worst = max(f.ready_again, default=0.0)
        twice = f.written_twice + self.changed

        def none(what: str, against: list[str], more: str = "") -> Check:
            return what, f"{len(against)}{more}", "0", not against, against

        return [
            none("jobs lost", f.lost),
            none("jobs failed for no cause", f.unexplained_failures, f" (+ {len(f.explained_failures)})"),
            ("callers told of the end", str(self.told), str(jobs), self.told == jobs, self.trouble),
            none("outcomes written twice or changed", twice, f" (in {self.samples} looks)"),
            none("calls begun after the outcome", f.calls_after_outcome),
            none("answered calls repeated", f.answered_again, f" (+ {len(f.answered_again_excused)}{kills})"),
            none("calls beside an attempt", f.more_calls_than_attempts),
            none("steps taken from a live worker", f.taken_from_the_living),
            none("tools run again", f.tools_run_again, f" (+ {f.tools_run_again_excused}{kills})"),
            ("calls repeated", str(f.repeated), f"<= {f.in_flight} in flight", f.repeated <= f.in_flight, []),
            ("until ready again, longest", f"{worst:.1f} s", f"<= {RECOVERY_S:g} s", worst <= RECOVERY_S, []),
            (
                *("longest pause of the whole", f"{f.longest_pause_s:.1f} s", f"<= {RECOVERY_S:g} s"),
                f.longest_pause_s <= RECOVERY_S,
                [f"after {f.longest_pause_at:.3f}"],
            ),
            none("workers that ended by themselves", self.deserters),
            none("keys left over", self.left),
        ]  # fmt: skip

    def numbers(self) -> dict[str, Any]:
        """As ``--json`` gives them."""
        f = self.found
        return {
            "jobs": self.options.jobs,
            "ended": self.ended,
            "steps": f.steps,
            "calls": f.calls,
            "faults": dict(sorted(f.faults.items())),
            "kills": self.kills,
            "rule_changes": self.rule_changes,
            "redis_restarts": len(self.outages_s),
            "redis_away_s": [round(s, 2) for s in self.outages_s],
            "attempts_lost": f.attempts_lost,
            "ready_again_p50_s": round(quantile(f.ready_again, 0.5), 2),
            "ready_again_p95_s": round(quantile(f.ready_again, 0.95), 2),
            "ready_again_max_s": round(max(f.ready_again, default=0.0), 2),
            "recovery_p50_s": round(quantile(f.recoveries, 0.5), 2),
            "recovery_p95_s": round(quantile(f.recoveries, 0.95), 2),
            "recovery_max_s": round(max(f.recoveries, default=0.0), 2),
            "longest_pause_s": round(f.longest_pause_s, 2),
            "seconds": round(f.seconds, 1),
            "steps_per_s": round(f.steps / f.seconds, 1) if f.seconds else 0.0,
            "checks": {
                name: {"is": got, "bound": bound, "ok": ok} for name, got, bound, ok, _ in self.checks()
            },
        }

    @property
    def holds(self) -> bool:
        """Every bound holds."""
        return all(ok for _, _, _, ok, _ in self.checks())

    def evidence(self, most: int = 10) -> str:
        """What speaks against us, for people."""
        lines = []
        for name, got, bound, ok, against in self.checks():
            if not ok:
                lines.append(f"{name}: {got}, bound {bound}")
                lines += [f"    {line}" for line in against[:most]]
        return "\n".join(lines)


def quantile(values: list[float], q: float) -> float:
    """Of the values, by rank; 0 where there are none."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else 0.0


def run(options: Options, say: Callable[[str], None] = lambda _: None) -> Report:
    """One run, bounded in time; everything that it started has ended when it returns."""
    logging.getLogger("aios_dist").setLevel(logging.ERROR)
    with Machines(seed=options.seed) as machines:
        trace = machines.dir / "trace"
        trace.touch()
        work = list(batches(options.jobs, options.seed, str(trace)))
        ids = [job.id or "" for batch in work for job in batch.jobs]
        keys = Keys(machines.config.fleet.name)
        sampler = Sampler(keys)
        with Fleet(machines.config) as fleet:
            producer, operator = Producer(fleet, work, options.seconds), Operator(fleet)
            producer.start()
            operator.start()
            say(f"{len(ids)} jobs; a worker killed every {options.kill_every:g} s")
            ended = _drive(options, machines, ids, keys, sampler, say)
            producer.join(SETTLE_S)
            producer.stop()
            operator.stop()
            operator.join(SETTLE_S)
            left = _settle(machines, keys, options)
        with machines.client() as client:
            jobs = read_jobs(client, keys, ids)
            sampler.look(client, ids, len(ids))
        runs = [line.split()[:2] for line in trace.read_text().splitlines()]
        found = weigh(
            jobs,
            machines.calls(),
            [(job, float(at)) for job, at in runs],
            machines.kills,
            machines.outages,
            MODEL.attempts,
        )
        return Report(
            options=options,
            found=found,
            kills=len(machines.kills),
            outages_s=[outage.end - outage.start for outage in machines.outages],
            ended=ended,
            rule_changes=operator.changes,
            told=len(producer.told),
            changed=sampler.changed,
            samples=sampler.looks,
            left=left,
            deserters=machines.deserters,
            trouble=producer.trouble,
            logs=machines.logs(),
        )


def _drive(
    options: Options,
    machines: Machines,
    ids: list[str],
    keys: Keys,
    sampler: Sampler,
    say: Callable[[str], None],
) -> int:
    """Kill and restart until all jobs have ended or the time is up; how many have ended."""
    end = time.monotonic() + options.seconds
    next_kill = time.monotonic() + options.kill_every
    restarts = [(n + 1) * len(ids) // (options.redis_restarts + 1) for n in range(options.redis_restarts)]
    next_word, ended = time.monotonic() + 10.0, 0
    with machines.client() as client:
        while ended < len(ids) and time.monotonic() < end:
            machines.look()
            if time.monotonic() >= next_kill and machines.kill_one():
                next_kill = max(next_kill + options.kill_every, time.monotonic())
            if restarts and ended >= restarts[0]:
                restarts.pop(0)
                # One of them a crash: the second, or the only one.
                machines.restart_redis(kill=len(machines.outages) == min(1, options.redis_restarts - 1))
                say(f"Redis was away for {machines.outages[-1].end - machines.outages[-1].start:.2f} s")
            try:
                sampler.look(client, ids)
                ended = client.zcard(keys.ended)
            except redis.ConnectionError:
                continue  # the connection that the restart has cut
            if time.monotonic() >= next_word:
                next_word += 10.0
                say(f"{ended} jobs ended, {len(machines.kills)} kills")
            time.sleep(TICK_S)
    return ended


def _settle(machines: Machines, keys: Keys, options: Options) -> list[str]:
    """What is left when there is nothing more to do: spare tickets are taken, holds end."""
    end = time.monotonic() + SETTLE_S
    with machines.client() as client:
        while True:
            machines.look()
            left = left_over(client, keys, keyprefix(machines.config.fleet.name))
            if not left or time.monotonic() > end:
                return left
            time.sleep(TICK_S)


class Operator(threading.Thread):
    """Changes the lane's rules all the time: policy, shares, every how-manieth goes to the oldest."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(name="operator", daemon=True)
        self.changes = 0
        self._fleet = fleet
        self._stopped = threading.Event()

    def run(self) -> None:
        """One change a second, until told to stop."""
        for rules in itertools.cycle(RULES):
            if self._stopped.wait(1.0):
                return
            with contextlib.suppress(AiosError):  # Redis is away: the next time, then
                self._fleet.set_lane("llm", **rules)
                self.changes += 1

    def stop(self) -> None:
        """Leave the rules as they are."""
        self._stopped.set()


class Producer(threading.Thread):
    """Submits while machines die, again with the same ids where it was not told, and waits for every end."""

    def __init__(self, fleet: Fleet, work: list[Any], seconds: float) -> None:
        super().__init__(name="producer", daemon=True)
        self.told: set[str] = set()
        self.trouble: list[str] = []
        self._fleet = fleet
        self._work = work
        self._deadline = time.monotonic() + seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        """Submit a part every tenth of a second, then wait for all."""
        for batch in self._work:
            while not self._stopped.is_set():
                try:
                    batch.submit(self._fleet)
                    break
                except AiosError as error:
                    self.trouble.append(f"submit: {error}")
            self._stopped.wait(0.1)
        jobs = [self._fleet.job(job.id) for batch in self._work for job in batch.jobs]
        try:
            for job in self._fleet.as_completed(jobs, timeout=max(1.0, self._deadline - time.monotonic())):
                self.told.add(job.id)
        except AiosError as error:
            self.trouble.append(f"as_completed: {error}")

    def stop(self) -> None:
        """Submit no more."""
        self._stopped.set()


def keep(report: Report, folder: Path) -> None:
    """Write the logs of all processes, for whoever looks into a broken bound."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in report.logs.items():
        (folder / name).write_text(text)
