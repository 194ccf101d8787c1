"""A fleet's first call: of many tasks at once, and in a child while Redis is away."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

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
@pytest.mark.parametrize("generations", [1, 2])
def test_a_child_or_its_child_waits_for_a_redis_that_its_parent_has_met(generations: int) -> None:
    with EmbeddedRedis().start(appendonly=True) as redis:
        config = Config(fleet=FleetConfig(redis_url=redis.url), models={"small": ModelConfig()})
        with Fleet(config) as fleet:
            fleet.submit(echo, value=0)
            redis.kill()

            def ask() -> Any:
                return fleet.submit(echo, value="child").result(10)

            answer = child(ask if generations == 1 else lambda: child(ask)())
            with socket.create_server(("127.0.0.1", redis.port)) as away:
                away.settimeout(5)
                away.accept()[0].close()  # it asks, and asks again: nobody has answered
            redis.restart()
            assert answer() == "child"
