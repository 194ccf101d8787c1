"""What nobody finishes or closes: iterators, fleets. Nothing hangs, and nothing stays."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aios_dist import AsyncFleet, AsyncJob, Fleet
from aios_dist.config import Config, FleetConfig
from aios_dist.errors import ConfigError, FleetUnavailable
from tests.producers.agents import echo
from tests.producers.conftest import Scripts

FLEETS = 10
WAIT_S = 10.0


def held() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def comes_back_to(before: tuple[int, int]) -> bool:
    """A loop that was told to end needs a moment."""
    end = time.monotonic() + WAIT_S
    while any(now > then for now, then in zip(held(), before, strict=True)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def use_and_leave(config: Config, n: int) -> None:
    Fleet(config).submit(echo, value=n)
    gc.collect()


pytestmark = pytest.mark.timeout(120)
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")


@needs_proc
def test_fleets_that_nobody_closes_leave_neither_descriptors_nor_threads_but_a_warning(
    config: Config,
) -> None:
    before = held()
    for n in range(FLEETS):
        with pytest.warns(ResourceWarning, match="A Fleet was not closed"):
            use_and_leave(config, n)
    assert comes_back_to(before)


@needs_proc
@pytest.mark.filterwarnings("error::ResourceWarning")
def test_fleets_that_are_closed_or_cannot_be_made_leave_nothing(config: Config) -> None:
    before = held()
    for n in range(FLEETS):
        with Fleet(config) as fleet:
            assert fleet.submit(echo, value=n).result(WAIT_S) == n
        with pytest.raises(ConfigError, match="cannot be used"):
            Fleet(Config(fleet=FleetConfig(redis_url="redis://127.0.0.1:port/0"), models={}))
    assert comes_back_to(before)


@needs_proc
@pytest.mark.filterwarnings("ignore:An AsyncFleet was not closed:ResourceWarning")
async def test_async_fleets_that_nobody_closes_leave_no_descriptors(config: Config) -> None:
    before = held()
    for n in range(FLEETS):
        job = await AsyncFleet(config).submit(echo, value=n)
        assert await job.result(WAIT_S) == n
        assert [ended.id async for ended in AsyncFleet(config).as_completed([job])] == [job.id]
        del job
    end = time.monotonic() + WAIT_S
    while held()[0] > before[0]:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def test_an_async_fleet_that_outlives_its_loop_warns_too(config: Config) -> None:
    async def use() -> None:
        await AsyncFleet(config).jobs()

    def run() -> None:
        asyncio.run(use())
        gc.collect()

    with pytest.warns(ResourceWarning, match="An AsyncFleet was not closed"):
        run()


ASKS: list[Callable[[AsyncFleet, AsyncJob], Awaitable[Any]]] = [
    lambda fleet, _: fleet.jobs(),
    lambda fleet, _: fleet.lanes(),
    lambda fleet, _: fleet.submit(echo, value=2),
    lambda fleet, job: anext(fleet.as_completed([job])),
    lambda _, job: job.view(),
    lambda _, job: job.status(),
    lambda _, job: job.steps(),
    lambda _, job: job.result(),
    lambda _, job: job.cancel(),
    lambda _, job: anext(job.events()),
]


@needs_proc
async def test_an_async_fleet_that_is_closed_is_refused_and_opens_no_line_again(config: Config) -> None:
    fleet = AsyncFleet(config)
    before = held()
    job = await fleet.submit(echo, value=1)
    await fleet.close()
    for ask in ASKS:
        with pytest.raises(FleetUnavailable, match="This fleet has been closed"):
            await ask(fleet, job)
    await asyncio.sleep(0)
    assert held()[0] <= before[0]


async def test_a_fleet_is_closed_at_once_also_while_it_connects(config: Config) -> None:
    for n in range(2 * FLEETS):
        fleet = AsyncFleet(config)
        job = await fleet.submit(echo, value=n)
        assert [ended.id async for ended in fleet.as_completed([job])] == [job.id]
        for _ in range(n):  # so far is it on its way
            await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_S):  # its connection would be silent for 15 s
            await fleet.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_unfinished_iterator_that_is_collected_on_the_fleets_own_thread_stops_nobody(fleet: Fleet) -> None:
    class Request:
        pass

    async def collect() -> None:
        gc.collect()

    jobs = fleet.submit_many([echo.job(value=n) for n in range(3)])
    gc.disable()
    try:
        for going in (fleet.as_completed(jobs), jobs[0].events()):
            request = Request()
            request.me, request.stream = request, going  # type: ignore[attr-defined]
            next(going)
        del request, going
        fleet._run(lambda _: collect())
    finally:
        gc.enable()
    assert len(fleet.jobs()) == 3


def test_a_program_that_ends_with_iterators_unfinished_ends(scripts: Scripts) -> None:
    begin = "fleet = Fleet(config)\njobs = fleet.submit_many([echo.job(value=n) for n in range(3)])\n"
    kept = """
import types
class X: pass
x = X(); x.me = x; x.it = fleet.as_completed(jobs); next(x.it); del x
m = types.ModuleType("m"); sys.modules["m"] = m; m.it = fleet.as_completed(jobs); next(m.it)
def f(d={"it": fleet.as_completed(jobs)}): return d
next(f()["it"])
it = jobs[0].events(); next(it)
print("at its end")
"""
    within = """
def main():
    for job in fleet.as_completed(jobs):
        raise ValueError(job.id)
main()
"""
    at_exit = """
import atexit
@atexit.register
def last():
    print(fleet.submit(echo, value="at exit").result(10))
"""
    ends = scripts(*(begin + body for body in (kept, within, at_exit)))
    assert [code for code, _ in ends] == [0, 1, 0], ends
    assert [text.splitlines()[-1].split(":")[0] for _, text in ends] == [
        "at its end",
        "ValueError",
        "at exit",
    ]
