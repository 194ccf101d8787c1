"""A fleet's first call: of many tasks at once, and in a child while Redis is away."""

from __future__ import annotations

import asyncio

import pytest

from aios_dist import AsyncFleet, Fleet
from aios_dist.config import Config, FleetConfig, ModelConfig
from aios_dist.local.redis_server import EmbeddedRedis
from tests.producers.agents import echo
from tests.producers.test_forks import child

TASKS = 250
"""More than redis-py lets one client have connections."""


async def test_hundreds_of_tasks_may_be_the_first_to_submit(config: Config) -> None:
    async with AsyncFleet(config) as fleet:
        jobs = await asyncio.gather(*(fleet.submit(echo, value=n) for n in range(TASKS)))
        assert [await job.result(10) for job in jobs] == list(range(TASKS))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_waits_for_a_redis_that_its_parent_has_met() -> None:
    with EmbeddedRedis().start(appendonly=True) as redis:
        config = Config(fleet=FleetConfig(redis_url=redis.url), models={"small": ModelConfig()})
        with Fleet(config) as fleet:
            fleet.submit(echo, value=0)
            redis.kill()
            answer = child(lambda: fleet.submit(echo, value="child").result(10))
            redis.restart()
            assert answer() == "child"
