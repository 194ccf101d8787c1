"""What every program of these tests does: it submits jobs, waits for results, and looks at each answer."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.producers.agents import ask

if TYPE_CHECKING:
    from aios_dist import AsyncFleet, Fleet

WAIT_S = 60.0


def part(fleet: Fleet, tag: str, count: int) -> dict[str, int]:
    """Of ``count`` jobs: how many brought their own answer ("ok"), and what else came, how often."""
    tally: Counter[str] = Counter()
    jobs = {}
    for text in (f"{tag}.{n}" for n in range(count)):
        try:
            jobs[text] = fleet.submit(ask, text=text, id=text)
        except BaseException as error:
            tally[_said("submit", error)] += 1
    for text, job in jobs.items():
        try:
            tally[_compared(text, job.result(WAIT_S))] += 1
        except BaseException as error:
            tally[_said("result", error)] += 1
    return dict(tally)


async def part_async(fleet: AsyncFleet, tag: str, count: int) -> dict[str, int]:
    """The same on a loop, all at once."""

    async def one(text: str) -> str:
        try:
            job = await fleet.submit(ask, text=text, id=text)
            return _compared(text, await job.result(WAIT_S))
        except BaseException as error:
            return _said("job", error)

    return dict(Counter(await asyncio.gather(*(one(f"{tag}.{n}") for n in range(count)))))


def answer_to(text: str) -> str:
    """What the fake LLM says."""
    return f"heard {text}"


def _compared(text: str, answer: Any) -> str:
    return "ok" if answer == answer_to(text) else f"wrong: {answer!r}"


def _said(what: str, error: BaseException) -> str:
    return f"{what}: {type(error).__name__}: {error}"[:200]


@functools.cache
def fleet_of(which: str) -> Fleet:
    """``before`` is made, and used, when a module is imported; ``after`` when a process first wants it.

    That may be while Redis is away, and a fleet that has never reached it says so at once: wait here.
    """
    from aios_dist import Fleet
    from aios_dist.errors import FleetUnavailable

    made, end = Fleet.from_env(), time.monotonic() + WAIT_S
    while True:
        try:
            made.registry()
            return made
        except FleetUnavailable:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
