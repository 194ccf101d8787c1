"""A fleet that is closed lets nobody wait for ever (invariant 10)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from aios_dist import Fleet, prompts
from aios_dist.config import Config, FleetConfig
from aios_dist.errors import FleetUnavailable
from aios_dist.sync import Job

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
