"""A fleet that is closed lets nobody wait for ever (invariant 10)."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aios_dist import AsyncFleet, Fleet, prompts
from aios_dist.config import Config, FleetConfig
from aios_dist.errors import FleetUnavailable
from aios_dist.producer.sync import Job
from tests.fleet.wire import Wire

ONE = prompts("one", ["say {input}"], model="small")

WAITS: list[Callable[[Fleet, Job], object]] = [
    lambda fleet, job: job.result(timeout=60),
    lambda fleet, job: list(fleet.as_completed([job], timeout=60)),
    lambda fleet, job: list(job.events(timeout=60)),
]


def open_fleet(url: str, name: str) -> Fleet:
    return Fleet(Config(fleet=FleetConfig(name=name, redis_url=url), models={}))


@pytest.mark.parametrize("wait", WAITS, ids=["result", "as_completed", "events"])
def test_who_waits_in_another_thread_is_told_when_the_fleet_is_closed(
    redis_url: str, fleet_name: str, wait: Callable[[Fleet, Job], object]
) -> None:
    fleet = open_fleet(redis_url, fleet_name)
    job = fleet.submit(ONE, input="x", id="waits")
    begun = threading.Event()

    def run() -> object:
        begun.set()
        return wait(fleet, job)

    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(run)
        assert begun.wait(10)
        fleet.close()
        with pytest.raises(FleetUnavailable, match="closed"):
            waiting.result(timeout=10)


def test_what_is_asked_of_a_closed_fleet_is_refused_and_closing_twice_is_once(
    redis_url: str, fleet_name: str
) -> None:
    fleet = open_fleet(redis_url, fleet_name)
    job = fleet.submit(ONE, input="x", id="waits")
    fleet.close()
    fleet.close()
    with pytest.raises(FleetUnavailable, match="closed"):
        job.status()
    with pytest.raises(FleetUnavailable, match="closed"):
        list(job.events())


def test_closing_waits_for_no_redis_that_hangs_and_tells_all_who_do(
    redis_server: Any, redis_url: str, fleet_name: str
) -> None:
    async def run(url: str) -> tuple[list[Any], float]:
        fleet = AsyncFleet(Config(fleet=FleetConfig(name=fleet_name, redis_url=url)))
        job = await fleet.submit(ONE, input="x")
        wire.forget()
        large = random.Random(1).randbytes(300_000).hex()
        asks = (job.status, job.view, job.pause, job.result, lambda: fleet.submit(ONE, input="y"))
        tasks = [asyncio.ensure_future(ask()) for ask in asks for _ in range(100)]
        tasks.append(asyncio.ensure_future(fleet.submit(ONE, input=large)))
        await asyncio.sleep(0.1)  # under way
        began = time.monotonic()
        await fleet.close()
        took = time.monotonic() - began
        return await asyncio.gather(*tasks, return_exceptions=True), took

    with Wire(redis_server.port) as wire:
        answers, took = asyncio.run(run(wire.url))
    assert took < 4, "less than Redis' own time-out"
    assert {type(answer) for answer in answers} == {FleetUnavailable}


def test_a_submission_that_is_cut_short_by_closing_names_its_job(
    redis_server: Any, redis_url: str, fleet_name: str
) -> None:
    with Wire(redis_server.port) as wire, ThreadPoolExecutor() as threads:
        fleet = open_fleet(wire.url, fleet_name)
        fleet.submit(ONE, input="x")
        wire.forget()
        told = threads.submit(fleet.submit, ONE, input="y", id="cut-short")
        time.sleep(0.5)  # on its way
        fleet.close()
        with pytest.raises(FleetUnavailable) as broke:
            told.result(timeout=10)
        assert broke.value.ids == ("cut-short",)
