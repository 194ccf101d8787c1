"""Redis' clock jumps by an hour under a fleet that works: nothing ends early, nothing waits for the hour."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from aios_dist import Fleet
from aios_dist.config import Config, ModelConfig, PoolConfig
from aios_dist.errors import ConfigError
from aios_dist.journal.keys import Keys
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.local.redis_server import EmbeddedRedis, find_server
from aios_dist.testing import FakeLLM
from tests.fleet.agents import caller, naps
from tests.fleet.conftest import fleet_config
from tests.fleet.reading import called, calls_of, wait_for

KEYS = Keys("aios")
LEASE_S, PERIOD_S = 1.0, 0.5
SLACK_S = 10.0
"""For the machine that the tests run on: what went wrong would wait for the hour."""
HOUR_S = 3600
SLOTS = 4

pytestmark = pytest.mark.slow


class Clock:
    """A server whose clock a test sets, by libfaketime. Its monotonic clock goes on."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        if not found:
            pytest.skip("faketime is not installed (Debian: apt-get install faketime)")
        try:
            # libfaketime and the jemalloc that Debian links its redis-server with do not start together.
            binary = find_server("valkey")
        except ConfigError as error:
            pytest.skip(str(error))
        self._offset = folder / "offset"
        self.set(0)
        self.server = folder / "server"
        self.server.write_text(
            f"#!/bin/sh\nexec env LD_PRELOAD={found[0]} FAKETIME_TIMESTAMP_FILE={self._offset} "
            f'FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 {binary} "$@"\n'
        )
        self.server.chmod(0o755)

    def set(self, seconds: int) -> None:
        """It shows so many seconds more than ours from now on."""
        new = self._offset.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        os.replace(new, self._offset)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def clocked(clock: Clock, fake_llm: FakeLLM) -> Iterator[LocalFleet]:
    """Two workers on a Redis whose clock can be set."""
    with EmbeddedRedis(clock.server) as server:
        config = Config(
            fleet=fleet_config("aios", server.url, LEASE_S, reconcile=PERIOD_S),
            models={"small": ModelConfig(base_url=fake_llm.url)},
            pools={"llm": PoolConfig(lanes=["llm", "turns"], slots=SLOTS)},
        )
        with LocalFleet(
            config, [WorkerSpec("stays", "llm", SLOTS)], embedded_redis=False, cwd=Path(__file__).parents[2]
        ) as machine:
            yield machine


@pytest.fixture
def direct(clocked: LocalFleet) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(clocked.config.fleet.redis_url, decode_responses=True) as client:
        yield client


@pytest.mark.parametrize("jump", [HOUR_S, -HOUR_S], ids=["forward", "back"])
def test_a_clock_that_jumps_by_an_hour_costs_nothing_but_a_few_periods(
    clocked: LocalFleet, clock: Clock, llm: FakeLLM, direct: redis.Redis, jump: int
) -> None:
    clock.set(0)  # from the hour that the test before has left
    dies = f"dies{jump}"
    clocked.start_workers([WorkerSpec(dies, "llm", SLOTS)])
    with Fleet(clocked.config) as fleet:
        llm.script(latency=0.05)
        nap = fleet.submit(naps, seconds=2.8)  # the slots are free before
        wait_for(lambda: any(step.state == "timed" for step in nap.steps()))
        llm.script(latency=1.5)
        jobs = [fleet.submit(caller, calls=1, model="small") for _ in range(2 * SLOTS)]
        llm.wait_until(lambda: llm.in_flight == 2 * SLOTS)
        worker = clocked.registered(dies).id
        lost = [job.id for job in jobs if job.steps()[0].worker == worker]
        beat = direct.get(KEYS.reconciler)
        clock.set(jump)

        # The reconciler is back: its beat goes on, and a worker that dies now is missed in time.
        clocked.kill(dies)
        died = time.monotonic()
        llm.script(latency=0.05)
        wait_for(lambda: direct.get(KEYS.reconciler) != beat, 3 * PERIOD_S + SLACK_S)
        finished = list(fleet.as_completed(jobs, timeout=20))
        assert time.monotonic() - died < LEASE_S + 3 * PERIOD_S + SLACK_S
        assert len(finished) == len(jobs)
        assert nap.result(timeout=20)
        first, second = [call for _, call in calls_of(llm, nap)]
        assert 2.8 <= second.start - first.start < 2.8 + 2 * PERIOD_S + SLACK_S
        calls = called(llm, *jobs)
        assert set(calls) == {f"{job.id}/0" for job in jobs}
        # (A busy machine may see an answer of the dying one before it is killed.)
        assert {step for step, count in calls.items() if count > 1} <= {f"{job}/0" for job in lost}
        assert len(lost) == SLOTS
        wait_for(lambda: not direct.zcard(KEYS.leases))
