"""Redis away for longer than a lease: nobody could renew, so nobody may lose what is in flight."""

from __future__ import annotations

import time

import pytest

from aios_dist import Fleet
from aios_dist.config import PoolConfig
from aios_dist.errors import ConfigError
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.local.redis_server import EmbeddedRedis, find_server
from aios_dist.testing import FakeLLM
from tests.chaos.agents import calling
from tests.chaos.conftest import LEASE_S, PERIOD_S, ROOT, SLACK_S, small_fleet
from tests.chaos.machines import DURABLE
from tests.fleet.reading import called

pytestmark = [pytest.mark.fleet, pytest.mark.slow]
AWAY_S = 2.5 * LEASE_S
CALL_S = 12.0
"""Longer than what Celery takes to connect again, so that a step that is taken away would be called again."""
JOBS = 8


def test_no_call_is_taken_from_a_live_worker_when_redis_was_away_for_longer_than_a_lease(
    llm: FakeLLM,
) -> None:
    try:
        server = EmbeddedRedis(find_server(), DURABLE)
    except ConfigError as error:
        pytest.skip(str(error))
    llm.script(latency=CALL_S)
    pools = {"llm": PoolConfig(lanes=["llm"], slots=JOBS)}
    with server.start(appendonly=True):
        config = small_fleet("outage", server.url, llm, pools)
        workers = [WorkerSpec("one", "llm"), WorkerSpec("two", "llm")]
        with (
            LocalFleet(config, workers, embedded_redis=False, cwd=ROOT) as machine,
            Fleet(machine.config) as fleet,
        ):
            jobs = fleet.submit_many([calling.job(name=str(n), calls=1, model="small") for n in range(JOBS)])
            llm.wait_until(lambda: llm.in_flight == JOBS)
            server.kill()
            time.sleep(AWAY_S)  # the outage itself
            server.restart()
            assert len(list(fleet.as_completed(jobs, timeout=CALL_S + SLACK_S))) == JOBS
            assert [step.attempt for job in jobs for step in job.steps()] == [1] * JOBS
            assert called(llm, *jobs) == {f"{job.id}/0": 1 for job in jobs}


def test_a_worker_that_died_in_an_outage_is_found_out_after_it(llm: FakeLLM) -> None:
    try:
        server = EmbeddedRedis(find_server(), DURABLE)
    except ConfigError as error:
        pytest.skip(str(error))
    llm.script(latency=CALL_S)
    pools = {"llm": PoolConfig(lanes=["llm"], slots=JOBS), "turns": PoolConfig(lanes=["turns"], slots=1)}
    with server.start(appendonly=True):
        config = small_fleet("outage", server.url, llm, pools)
        workers = [WorkerSpec("dies", "llm"), WorkerSpec("lives", "turns")]
        with (
            LocalFleet(config, workers, embedded_redis=False, cwd=ROOT) as machine,
            Fleet(machine.config) as fleet,
        ):
            job = fleet.submit(calling, name="dies", calls=1, model="small")
            llm.wait_until(lambda: llm.in_flight == 1)
            server.kill()
            machine.kill("dies")
            time.sleep(AWAY_S)
            server.restart()
            back = time.monotonic() + 2 * LEASE_S + PERIOD_S + SLACK_S
            while job.steps()[0].state != "ready":
                assert time.monotonic() < back
                time.sleep(0.01)
