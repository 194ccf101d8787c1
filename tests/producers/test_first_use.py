"""A fleet's first call: what it loads, of many tasks at once, and in a child while Redis is away."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from aios_dist import AsyncFleet, Fleet
from aios_dist.config import Config, FleetConfig, ModelConfig
from aios_dist.local.redis_server import EmbeddedRedis
from tests.producers.agents import echo
from tests.producers.conftest import Scripts
from tests.producers.test_forks import child

TASKS = 250
"""More than redis-py lets one client have connections."""


OF_MSGSPEC = {"msgspec", "typing_extensions"}

NAMED = """
import sys
at_start = {*sys.modules}
from aios_dist import Fleet, JobSpec, agent, fifo, gather, llm, tool
named = {*sys.modules} - at_start
"""
LOADED = """
from importlib.metadata import packages_distributions
def loaded(modules): return " ".join({n.partition(".")[0] for n in modules} & packages_distributions().keys())
"""
ASKED = """
with Fleet(config) as fleet:
    fleet.submit(ask, text="")
    assert [job.result(10) for job in fleet.as_completed([fleet.submit(echo, value=1)], 10)] == [1]
print(loaded(named), loaded({*sys.modules} - at_start), sep=",")
"""
ALONE = "import sys\nat_start = {*sys.modules}\nimport redis.asyncio\nalone = {*sys.modules} - at_start\n"


def test_a_producer_loads_redis_with_its_first_fleet_and_neither_celery_nor_kombu(scripts: Scripts) -> None:
    """In processes of their own: after the imports, after tickets and results; and redis-py alone."""
    ((code, said),) = scripts(LOADED + ASKED, first=NAMED)
    ((_, of_redis),) = scripts(LOADED + "print(loaded(alone))", first=ALONE)
    assert code == 0, said
    named, asked = (set(names.split()) for names in said.split(","))
    assert named <= OF_MSGSPEC
    assert "redis" in asked
    assert asked <= {*OF_MSGSPEC, "msgpack", *of_redis.split()}


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
