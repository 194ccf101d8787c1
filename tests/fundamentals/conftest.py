"""The smallest fleet there is: a Redis, one worker with one slot, and a fake LLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import Fleet
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis


@pytest.fixture(scope="session")
def smallest(redis_server: EmbeddedRedis, fleets: Any) -> Iterator[Fleet]:
    config = Config(
        fleet=FleetConfig(
            name=fleets.new_name(), redis_url=redis_server.url, modules=["tests.fundamentals.agents"]
        ),
        models={"small": ModelConfig()},
        pools={"all": PoolConfig(lanes=["llm", "turns"], slots=1)},
    )
    machine = LocalFleet(
        config,
        [WorkerSpec("worker", "all")],
        embedded_redis=False,
        fake_llm="0.05",
        cwd=Path(__file__).parents[2],
    )
    with machine, Fleet(machine.config) as fleet:
        yield fleet


@pytest.fixture
def fleet(smallest: Fleet) -> Fleet:
    """What a producer holds."""
    return smallest
