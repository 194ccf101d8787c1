"""How ``aios-dist up`` ends: warm, and with a last line that says what became of what was in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rich.console import Console

from aios_dist.cli.up_redis import kept_up
from aios_dist.errors import AiosError
from aios_dist.journal import Journal
from aios_dist.local.machine import BEYOND_S, LocalFleet

T = TypeVar("T")

OPEN_JOBS = 10_000
"""The most open jobs that are looked at for the last line."""
ANSWER_S = 15.0
"""Seconds in which Redis must say what is in flight, or what is left; workers end whether it does or not."""


def end(out: Console, machine: LocalFleet, *, lost: bool) -> str:
    """Warm shutdown of the workers; gives the last line: what they finished and what was handed back.

    Ctrl-C ends them at once. The embedded Redis is looked after to the last, as they need it.

    Args:
        out: where it is said meanwhile.
        machine: the fleet; its Redis runs on.
        lost: open jobs go with the embedded Redis.
    """

    async def before(journal: Journal) -> tuple[float, int]:
        return await journal.now(), (await journal.counts([]))["leased"]

    known, in_flight, since = None, 0, 0.0
    try:
        known = _asked(machine, before)
        since, in_flight = known or (since, in_flight)
        grace = machine.config.fleet.shutdown_grace
        if in_flight or known is None:
            what = count_of(in_flight, "step") + " in flight" if known else "what is in flight"
            out.print(f"Finishing {what}, at most {grace:g} s; Ctrl-C ends it at once …")
        asyncio.run(_finish(out, machine, grace + BEYOND_S))
    except KeyboardInterrupt:
        for member in machine.workers:
            member.kill()

    async def after(journal: Journal) -> tuple[int, int, int]:
        jobs = await journal.list_jobs(OPEN_JOBS, ended=False)
        happened = await asyncio.gather(*(journal.events(job.id) for job in jobs))
        handed_back = sum(e.what == "released" and e.at >= since for events in happened for e in events)
        counts = await journal.counts(lanes := machine.config.lane_names())
        return handed_back, sum(counts[f"ready:{lane}"] for lane in lanes), len(jobs)

    left = _asked(machine, after) if known else None
    if left is None:
        return "Stopped; Redis does not say what is open: it cannot be reached."
    handed_back, waiting, jobs = left
    line = "Stopped: nothing was in flight"
    if in_flight:
        finished = count_of(max(0, in_flight - handed_back), "step")
        line = f"Stopped: {finished} finished, {handed_back} handed back"
    if not jobs:
        return f"{line}; no job is open."
    line += f"; {count_of(waiting, 'step')} of {count_of(jobs, 'open job')} wait for the next worker"
    return f"{line}, and go with the embedded Redis (--data DIR keeps them)." if lost else f"{line}."


async def _finish(out: Console, machine: LocalFleet, grace_s: float) -> None:
    watch = asyncio.create_task(kept_up(out, machine))
    try:
        await asyncio.to_thread(machine.stop_workers, machine.workers, grace_s)
    except asyncio.CancelledError:  # Ctrl-C; the thread is waited for
        for member in machine.workers:
            member.kill()
        raise
    finally:
        watch.cancel()


def _asked(machine: LocalFleet, question: Callable[[Journal], Awaitable[T]]) -> T | None:
    """The answer, or None where Redis gives none."""

    async def in_time(journal: Journal) -> T:
        async with asyncio.timeout(ANSWER_S):
            return await question(journal)

    try:
        return machine.ask(in_time)
    except (AiosError, TimeoutError):
        return None


def count_of(number: int, what: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
