"""Limits, shares and orders: the scheduling driver's short form (``python -m tests.driver --scheduling``)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.driver.fleet import Fleet
from tests.driver.patched import Change
from tests.driver.scheduling import BUGS, MOVES, Scheduling, find

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis
    from tests.conftest import Fleets


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_a_scheduler_keeps_its_promises(each_server: EmbeddedRedis, fleets: Fleets, seed: int) -> None:
    fleet = Fleet(each_server.url, fleets.new_name())
    try:
        driver = Scheduling(fleet, random.Random(seed))
        for _ in range(MOVES if each_server.kind.startswith("redis") else MOVES // 2):
            driver.move()
        driver.drain()
    finally:
        fleet.close()


@pytest.mark.slow
@pytest.mark.timeout(240)  # a driver that has changed finds it with another seed: it tries all
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_of_scheduling_is_found(
    redis_server: EmbeddedRedis, fleets: Fleets, bug: Change
) -> None:
    assert find(redis_server.url, fleets.new_name(), bug) is not None
