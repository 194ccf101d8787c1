"""Workers that renew, and serve nothing all the same: deaf to Celery, or idle beside steps that wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from aios_dist.broker.app import make_app
from aios_dist.cli.checks import Finding, problem, warning
from aios_dist.cli.output import steps_wait
from aios_dist.config import Config

if TYPE_CHECKING:
    from aios_dist.journal import Journal, LaneView, Registry, WorkerInfo

ANSWER_S = 1.0
"""A worker answers remote control within this, or is asked once more."""

TRIES = 2
LONG_S = 10.0
"""A step that waits so long beside a free slot waits for something else. Workers say every few seconds how
many slots are taken."""


async def deaf(config: Config, registry: Registry) -> AsyncIterator[Finding]:
    """Whoever renews hears Celery, by which its tickets come too."""
    silent = {worker.node: worker for worker in registry.live(config.fleet.lease)}
    for _ in range(TRIES):
        if silent:
            heard = await asyncio.to_thread(_answer, config, list(silent))
            if heard is None:
                return  # this account may not ask; the check of rights says so
            silent = {node: worker for node, worker in silent.items() if node not in heard}
    for node, worker in sorted(silent.items()):
        yield warning(
            "remote control",
            f"Worker {node} renews, but does not answer Celery's remote control ({TRIES * ANSWER_S:g} s).",
            f"Where it takes no steps: see its log on {worker.host} (process {worker.pid}), start it again.",
        )


def _answer(config: Config, nodes: list[str]) -> set[str] | None:
    """Which of them answer."""
    app = make_app(config)
    try:
        replies = app.control.ping(destination=nodes, timeout=ANSWER_S, limit=len(nodes))
        return {node for reply in replies or () for node in reply}
    except (OperationalError, RedisError):
        return None
    finally:
        app.close()


async def idle(
    journal: Journal, lanes: Sequence[LaneView], live: Sequence[WorkerInfo]
) -> AsyncIterator[Finding]:
    """No slot of a worker that runs is free for long where a step waits that may run (invariant 8)."""
    for lane in lanes:
        free = sum(worker.slots for worker in live if lane.name in worker.lanes) - lane.in_flight
        if not lane.ready or free <= 0:
            continue
        waited = await journal.longest_wait(lane.name)
        if waited > LONG_S:
            yield problem(
                "lanes",
                f"Lane {lane.name!r}: {steps_wait(lane.ready)}, the first for {waited:.0f} s, and free are "
                f"{free} slots.",
                "See the workers' logs; where a consumer was cancelled, add it, or start the worker again.",
            )
