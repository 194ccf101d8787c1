"""One fleet of real worker processes for all tests of this folder, and the fake LLM that they call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import Fleet
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.testing import FakeLLM
from tests import forked

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

REPLY_S = 0.1
MODELS: dict[str, dict[str, Any]] = {
    "one": {"lane": "one"},
    "small": {"lane": "llm"},
    "frail": {"lane": "frail"},
    "patient": {"lane": "llm", "attempts": 3, "backoff": 0.1, "fallback": ["spare"]},
    "spare": {"lane": "one", "attempts": 1},
    "limited": {"lane": "llm", "max_in_flight": 2, "attempts": 1},
    "priced": {"lane": "llm", "input_price": 1.0, "output_price": 1_000_000.0},
}
WORKERS = [
    WorkerSpec("machine-1", "llm"),
    WorkerSpec("machine-2", "llm"),
    WorkerSpec("one-slot", "one"),
    WorkerSpec("turns", "turns"),
]


def fleet_config(name: str, redis_url: str, lease: float = 1.0, **more: Any) -> FleetConfig:
    """A fleet with the agents of this folder, whose leases are short: what is lost is soon ready again."""
    short = {"renew": 0.3, "reconcile": 0.5, "shutdown_grace": 1.0}
    return FleetConfig(
        name=name, redis_url=redis_url, modules=["tests.fleet.agents"], lease=lease, **{**short, **more}
    )


@pytest.fixture(scope="session")
def fake_llm() -> Iterator[FakeLLM]:
    with FakeLLM() as server:
        yield server


@pytest.fixture
def llm(fake_llm: FakeLLM) -> FakeLLM:
    """The fake LLM as new: no calls, no faults, ``REPLY_S`` for a reply."""
    fake_llm.script(latency=REPLY_S, faults="", reply=None)
    fake_llm.reset()
    return fake_llm


@pytest.fixture(scope="package")
def machine(redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM) -> Iterator[LocalFleet]:
    """Two machines of eight slots, a pool of one slot, a pool for turns; ``frail`` is for faults."""
    config = Config(
        fleet=fleet_config(fleets.new_name(), redis_server.url),
        models={name: ModelConfig(base_url=fake_llm.url, **settings) for name, settings in MODELS.items()},
        pools={
            "llm": PoolConfig(lanes=["llm"], slots=8),
            "one": PoolConfig(lanes=["one"], slots=1),
            "frail": PoolConfig(lanes=["frail"], slots=4),
        },
    )
    root = Path(__file__).parents[2]
    made = LocalFleet(config, WORKERS, embedded_redis=False, cwd=root)
    with forked.workers():
        made.start()
    with made:
        yield made


@pytest.fixture(scope="package")
def folder_fleet(machine: LocalFleet) -> Iterator[Fleet]:
    with Fleet(machine.config) as opened:
        yield opened


@pytest.fixture
def fleet(folder_fleet: Fleet, llm: FakeLLM) -> Fleet:
    """The fleet from the producers' side, with the fake LLM as new."""
    return folder_fleet
