"""What a fleet runs of its users' code stops nobody else, and may ask the fleet itself."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django
import pytest
from django.conf import settings
from django.db import connection

from aios_dist import AsyncFleet, Fleet, Job, JobFailed, JobSpec, agent, fixed
from aios_dist.config import Config
from aios_dist.errors import InvalidInput, UsageError
from tests.producers.agents import ask, echo

WAIT_S = 10.0
_gate = threading.Event()


@agent
async def blocks() -> str:
    """Blocks in its first turn."""
    if not _gate.wait(WAIT_S):
        raise RuntimeError("nobody opened the gate")
    return "through"


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    _gate.clear()
    yield _gate
    _gate.set()


def test_an_iterable_of_jobs_may_ask_the_fleet(fleet: Fleet) -> None:
    jobs = fleet.submit_many([echo.job(value=n) for n in range(3)])
    later = fleet.submit_many(echo.job(value=job.result(WAIT_S)) for job in fleet.as_completed(jobs))
    assert sorted(job.result(WAIT_S) for job in later) == [0, 1, 2]


def test_plans_and_more_of_them_may_come_from_an_iterable_that_asks_the_fleet(fleet: Fleet) -> None:
    jobs = fleet.submit_many([echo.job(value=n) for n in range(2)])

    def later() -> Iterator[JobSpec]:
        for job in fleet.as_completed(fleet.job(job.id) for job in jobs if job.result(WAIT_S) is not None):
            yield echo.job(value=job.result(WAIT_S))

    plan = fleet.submit_plan(fixed(later()))
    assert sorted(job.result(WAIT_S) for job in plan) == [0, 1]
    added = [*fleet.extend_plan(plan.id, later()), *plan.extend_with(later())]
    assert len(added) == 4


def test_lazy_rows_are_read_in_the_callers_thread(fleet: Fleet) -> None:
    if not settings.configured:
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        settings.configure(DATABASES={"default": database})
        django.setup()

    def djangos() -> Iterator[JobSpec]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 UNION SELECT 2")
            for row in cursor:
                yield echo.job(value=row[0])

    plain = sqlite3.connect(":memory:")
    rows = plain.execute("SELECT 3")
    try:
        for specs in (djangos(), (echo.job(value=row[0]) for row in rows)):
            assert all(job.result(WAIT_S) in (1, 2, 3) for job in fleet.submit_many(specs))
    finally:
        plain.close()
        connection.close()


def test_an_agent_may_submit_another_in_its_first_turn(fleet: Fleet) -> None:
    @agent
    async def parent_of_one(n: int) -> str:
        return fleet.submit(echo, value=n, id=f"child-{n}").id

    assert fleet.submit(parent_of_one, n=1).result(WAIT_S) == "child-1"
    assert fleet.job("child-1").result(WAIT_S) == 1


def test_a_retry_replays_the_agent_in_the_callers_thread_and_a_signals_value_is_read_there(
    fleet: Fleet,
) -> None:
    threads: list[int] = []

    @agent
    async def fails_on_purpose() -> None:
        threads.append(threading.get_ident())
        raise ValueError("on purpose")

    class Rows(list[int]):
        def __iter__(self) -> Iterator[int]:
            threads.append(threading.get_ident())
            return super().__iter__()

    job = fleet.submit(fails_on_purpose)
    with pytest.raises(JobFailed):
        job.result(WAIT_S)
    assert job.retry()
    job.signal("go", Rows([1]))
    assert len(threads) >= 3
    assert set(threads) == {threading.get_ident()}


async def test_a_retry_whose_replay_blocks_holds_up_no_other_task_nor_the_programs_end(
    config: Config, gate: threading.Event
) -> None:
    threads: list[threading.Thread] = []
    loop, replayed = asyncio.get_running_loop(), asyncio.Event()

    @agent
    async def fails_then_blocks() -> None:
        threads.append(threading.current_thread())
        if len(threads) > 1:
            loop.call_soon_threadsafe(replayed.set)
            gate.wait(WAIT_S)
        raise ValueError("on purpose")

    async with AsyncFleet(config) as fleet:
        job = await fleet.submit(fails_then_blocks)
        with pytest.raises(JobFailed):
            await job.result()
        blocked = asyncio.create_task(job.retry())
        async with asyncio.timeout(WAIT_S / 2):
            await replayed.wait()
            assert await (await fleet.submit(echo, value=1)).result() == 1
        assert threads[1].daemon  # a program does not wait for it, as for asyncio's own
        gate.set()
        assert await blocked


def test_a_first_turn_that_blocks_keeps_no_other_thread_waiting(fleet: Fleet, gate: threading.Event) -> None:
    with ThreadPoolExecutor() as threads:
        blocked = threads.submit(fleet.submit, blocks)
        for n in range(20):
            assert threads.submit(fleet.submit, echo, value=n).result(WAIT_S / 2).result(WAIT_S / 2) == n
        assert not blocked.done()
        gate.set()
        assert blocked.result(WAIT_S).result(WAIT_S) == "through"


async def test_a_first_turn_that_blocks_keeps_no_other_task_waiting(
    config: Config, gate: threading.Event
) -> None:
    async with AsyncFleet(config) as fleet:
        blocked = asyncio.create_task(fleet.submit(blocks))
        async with asyncio.timeout(WAIT_S / 2):
            for n in range(20):
                assert await (await fleet.submit(echo, value=n)).result() == n
        assert not blocked.done()
        gate.set()
        assert await (await blocked).result(WAIT_S) == "through"


def test_what_is_wrong_with_a_first_turn_is_raised_in_the_callers_thread(fleet: Fleet) -> None:
    @agent
    async def sleeps_in_asyncio() -> None:
        await asyncio.sleep(1)

    with pytest.raises(InvalidInput, match="asyncio"):
        fleet.submit(sleeps_in_asyncio)


def test_a_fleet_that_is_asked_on_its_own_thread_says_so_at_once(fleet: Fleet) -> None:
    said: list[str] = []

    class Asks:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            try:
                fleet.jobs()
            except UsageError as error:
                said.append(str(error))

    async def collect() -> None:
        gc.collect()

    gc.disable()
    try:
        Asks()
        fleet._run(lambda _: collect())
    finally:
        gc.enable()
    assert len(said) == 1
    assert said[0].startswith("A fleet cannot be asked on its own thread")
    assert fleet.jobs() == []


WAITS: list[Callable[[Fleet, Job], object]] = [
    lambda fleet, job: job.result(60),
    lambda fleet, job: list(fleet.as_completed([job], 60)),
    lambda fleet, job: list(job.events(timeout=60)),
]


@pytest.mark.parametrize("wait", WAITS, ids=["result", "as_completed", "events"])
def test_what_a_signal_raises_in_a_waiting_caller_comes_out_as_it_is(
    fleet: Fleet, wait: Callable[[Fleet, Job], object]
) -> None:
    import os
    import signal

    class SoftTimeLimit(Exception):
        pass

    def stop(*_: Any) -> None:
        raise SoftTimeLimit

    job = fleet.submit(ask, text="never answered")
    before = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(SoftTimeLimit):
            wait(fleet, job)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert job.cancel()
