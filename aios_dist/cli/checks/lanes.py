"""Lanes, workers and models: whatever waits has someone to take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from aios_dist.cli.checks import Finding, ok, problem, warning
from aios_dist.cli.output import steps_wait
from aios_dist.config import DEFAULT_POOLS, Config

if TYPE_CHECKING:
    from aios_dist.journal import JobView, LaneView, Need, Registry, WorkerInfo

TURNS = "turns"


def lanes(config: Config, views: Sequence[LaneView], live: Sequence[WorkerInfo]) -> Iterator[Finding]:
    """Every lane that is used has a worker that runs, and weights of tenants a lane that looks at them."""
    used = {model.lane: f"model {name!r} needs it" for name, model in config.models.items()}
    if config.fleet.modules:
        used.setdefault(TURNS, "tools and turns of agents in Python need it")
    for view in views:
        slots = [worker.slots for worker in live if view.name in worker.lanes]
        if slots:
            yield ok(
                "lanes",
                f"Lane {view.name!r}: workers {len(slots)}, slots {sum(slots)}, waiting {view.ready}.",
            )
        elif view.ready:
            yield problem(
                "lanes",
                f"Lane {view.name!r} has no worker, and {steps_wait(view.ready)} on it.",
                _start(config, view.name),
            )
        elif view.name in used:
            yield problem(
                "lanes", f"Lane {view.name!r} has no worker; {used[view.name]}.", _start(config, view.name)
            )
    weighted = next((name for name, tenant in config.tenants.items() if tenant.weight != 1.0), None)
    if weighted is not None and not any((view.to_come or view.rules).fair for view in views):
        yield warning(
            "lanes",
            f"Tenant {weighted!r} has a weight, and no lane is shared between tenants: it changes nothing.",
            'Share one: fair = "tenant" in [lanes.llm], or: aios-dist lane set llm --fair tenant',
        )


def _start(config: Config, lane: str) -> str:
    pools = {**DEFAULT_POOLS, **config.pools}
    pool = next((name for name, pool in pools.items() if lane in pool.lanes), None)
    if pool is not None:
        return f"Start one: aios-dist worker {pool}"
    return f'Add to aios.toml: [pools.{lane}] lanes = ["{lane}"], and start it: aios-dist worker {lane}'


def codes(registry: Registry) -> Iterator[Finding]:
    """Agents of which workers have different code: a rollout, or constants that each process has anew. And
    workers that cannot say which they have."""
    found: dict[str, Counter[str]] = {}
    for worker in registry.workers:
        for agent, code in worker.codes.items() if TURNS in worker.lanes else ():
            found.setdefault(agent, Counter())[code] += 1
    for agent, counts in found.items():
        if len(counts) > 1:
            each = ", ".join(f"{code} on {count}" for code, count in counts.most_common(5))
            yield ok(
                "codes",
                f"Workers have {len(counts)} codes of agent {agent!r} ({each}): open jobs go on with theirs.",
            )
    for worker in registry.workers:
        if TURNS in worker.lanes and (set(worker.agents) & found.keys()) - worker.codes.keys():
            yield warning(
                "codes",
                f"Worker {worker.id} is of a release that knows no codes: where an agent's code has changed, "
                "it fails the job that this release would park.",
                "Replace it before the code of any agent changes (docs/deploy.md).",
            )


def workers(config: Config, registry: Registry, now: float) -> Iterator[Finding]:
    """Workers renew, and together they have every model."""
    lease = config.fleet.lease
    nodes = {worker.node for worker in registry.live(lease)}
    for worker in registry.workers + registry.silent:
        silent = now - worker.seen_at
        if silent > lease and worker.node in nodes:
            continue  # another process has taken its place
        if silent > lease:
            yield warning(
                "workers",
                f"Worker {worker.id} has not renewed for {silent:.0f} s; its steps went to others.",
                f"If it should run: see its log on {worker.host}, and process {worker.pid}; where ps says T, "
                "it is stopped (kill -CONT).",
            )
            continue
        if worker.short:
            yield warning(
                "workers",
                f"Worker {worker.id} has only {worker.slots} slots for now: {worker.short}.",
                f"Give its machine more (ulimit -n, disk, network), or it fewer slots; it may open "
                f"{f'{worker.files:,}' if worker.files else 'any number of'} files.",
            )
        if worker.stuck:
            yield warning(
                "workers",
                f"On worker {worker.id} these hang and cannot be ended: {', '.join(worker.stuck[:4])}.",
                "Give such a tool a time-out of its own inside; the worker begins anew when they are many.",
            )
        if worker.cancelled:
            yield problem(
                "workers",
                f"Worker {worker.id} takes nothing from lane {', '.join(map(repr, worker.cancelled))}: "
                "its consumer was cancelled by remote control.",
                f"celery -A workers.{worker.pool} control -d {worker.node} "
                f"add_consumer {worker.cancelled[0]}, or start it again.",
            )
        if worker.dropped:
            yield warning(
                "workers",
                f"Worker {worker.id} has dropped {worker.dropped} that were no valid tickets or messages.",
                "No job has missed them. What writes to Redis besides aios_dist? The worker's log says more.",
            )
    for name, model in config.models.items():
        there = [w for w in registry.workers if model.lane in w.lanes]
        without = [w.id for w in there if name not in w.models]
        if without:
            yield warning(
                "workers",
                f"Worker {without[0]} serves lane {model.lane!r} without its model {name!r}.",
                "It leaves such steps to others; with the same [models.*] everywhere each can take any.",
            )
    if registry.workers:
        yield ok("workers", f"{len(registry.workers)} registered.")


def needs(found: Sequence[Need]) -> Iterator[Finding]:
    """Whatever waits has a worker that can serve it."""
    for need in found:
        if need.served:
            continue
        yield problem(
            "workers",
            f"{need}: none that runs has it.",
            "Start one with it: add it to the workers' aios.toml ([models.*]; [fleet] modules for agents).",
        )


def agents(config: Config, registry: Registry, open_jobs: Sequence[JobView]) -> Iterator[Finding]:
    """Every agent that has open jobs is one whose code a worker has."""
    there = registry.agents_now(config.fleet.lease)
    waiting = Counter(view.agent for view in open_jobs if view.in_code and view.agent not in there)
    for agent, jobs in sorted(waiting.items()):
        have = ", ".join(sorted(there)) or "none"
        yield problem(
            "agents",
            f"No worker that runs has the code of agent {agent!r}, and {jobs_of(jobs)} of it.",
            f"Start a worker with it: its module goes into [fleet] modules (workers have: {have}).",
        )


def jobs_of(count: int) -> str:
    """So many open jobs are there, in words."""
    return "there is 1 open job" if count == 1 else f"there are {count} open jobs"


def registry(found: Registry) -> Iterator[Finding]:
    """Every entry of the registry is one that this version understands."""
    if found.odd:
        named = ", ".join(map(repr, found.odd[:3])) + (" …" if len(found.odd) > 3 else "")
        yield warning(
            "registry",
            f"Entries that this version does not understand are passed over: {named}.",
            "If no newer version of aios_dist runs in this fleet: what else writes to its Redis?",
        )
