"""A small fleet: a Redis, a worker with one slot and one with four, and a fake LLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import Fleet
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.testing import FakeLLM

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis


@pytest.fixture(scope="session")
def fake_llm() -> Iterator[FakeLLM]:
    with FakeLLM() as server:
        yield server


@pytest.fixture
def llm(fake_llm: FakeLLM) -> FakeLLM:
    """What stands for the provider, as new: it answers after 50 ms, and nothing goes wrong."""
    fake_llm.script(latency=0.05, faults="", reply=None)
    fake_llm.reset()
    return fake_llm


@pytest.fixture(scope="module")
def machine(redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM) -> Iterator[LocalFleet]:
    """All processes of the fleet."""
    config = Config(
        fleet=FleetConfig(
            name=fleets.new_name(),
            redis_url=redis_server.url,
            modules=["tests.fundamentals.agents"],
            lease=1.0,  # the default is 10 s: what a killed worker had is ready again sooner
            renew=0.3,
            reconcile=0.3,
        ),
        models={
            "small": ModelConfig(base_url=fake_llm.url),
            "large": ModelConfig(base_url=fake_llm.url, lane="large", max_in_flight=2),
        },
        pools={
            "one": PoolConfig(lanes=["llm", "turns"], slots=1),
            "four": PoolConfig(lanes=["large"], slots=4),
        },
    )
    workers = [WorkerSpec("one", "one"), WorkerSpec("four", "four")]
    root = Path(__file__).parents[2]
    with LocalFleet(config, workers, embedded_redis=False, cwd=root) as started:
        yield started


@pytest.fixture
def fleet(machine: LocalFleet, llm: FakeLLM) -> Iterator[Fleet]:
    """What a producer holds."""
    with Fleet(machine.config) as fleet:
        yield fleet
        fleet.reset_lane("llm")
