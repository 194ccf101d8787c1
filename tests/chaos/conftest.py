"""What the tests of this folder share: a fake LLM as new, and small fleets with short leases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.testing import FakeLLM

ROOT = Path(__file__).parents[2]
LEASE_S = 1.0
PERIOD_S = 0.5
SLACK_S = 2.0
"""What a busy machine may lose beside a lease and a period of the reconciler."""


@pytest.fixture(scope="session")
def fake_llm() -> Iterator[FakeLLM]:
    with FakeLLM() as server:
        yield server


@pytest.fixture
def llm(fake_llm: FakeLLM) -> FakeLLM:
    """The fake LLM as new: no calls, no faults."""
    fake_llm.script(latency=0.05, faults="", retry_after=0.1, reply=None)
    fake_llm.reset()
    return fake_llm


def small_fleet(name: str, redis_url: str, llm: FakeLLM, pools: dict[str, PoolConfig], **more: Any) -> Config:
    """A fleet with a model ``small`` on the lane ``llm``, and short leases."""
    return Config(
        fleet=FleetConfig(
            name=name,
            redis_url=redis_url,
            modules=["tests.chaos.agents"],
            lease=LEASE_S,
            renew=0.3,
            reconcile=PERIOD_S,
            shutdown_grace=1.0,
        ),
        models={"small": ModelConfig(base_url=llm.url, backoff=0.1, backoff_max=0.5, **more)},
        pools=pools,
    )
