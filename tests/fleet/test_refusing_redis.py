"""A Redis that is there and takes no writes, while answers come in that are paid for."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from aios_dist import Fleet
from aios_dist.config import Config, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.local.redis_server import EmbeddedRedis, find_server
from aios_dist.testing import FakeLLM
from tests.fleet.agents import caller
from tests.fleet.conftest import fleet_config
from tests.fleet.reading import called, wait_for

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(90)]

ROOT = Path(__file__).parents[2]
JOBS = 3
GRACE_S = 1.0
LEASE_S = 2.0


@pytest.fixture(scope="module")
def redis_of_ours() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(find_server()) as server:
        yield server


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spool") / "answers"


@pytest.fixture(scope="module")
def local(redis_of_ours: EmbeddedRedis, spool: Path, fake_llm: FakeLLM) -> Iterator[LocalFleet]:
    config = Config(
        fleet=fleet_config(
            "refused",
            redis_of_ours.url,
            LEASE_S,
            renew=0.5,
            shutdown_grace=GRACE_S,
            redis_timeout=1.0,
            spool_dir=str(spool),
        ),
        models={"small": ModelConfig(base_url=fake_llm.url)},
        pools={"llm": PoolConfig(lanes=["llm"], slots=8)},
    )
    with LocalFleet(config, [WorkerSpec("first", "llm")], embedded_redis=False, cwd=ROOT) as started:
        yield started


@pytest.fixture
def client(redis_of_ours: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_of_ours.url, decode_responses=True) as opened:
        yield opened


def full(client: redis.Redis, yes: bool) -> None:
    client.config_set("maxmemory", 1 if yes else 0)


def replica(client: redis.Redis, yes: bool) -> None:
    # A primary that nobody serves; it goes on answering reads.
    client.execute_command("REPLICAOF", *(("127.0.0.1", "1") if yes else ("NO", "ONE")))


REFUSES: dict[str, Any] = {"full": full, "replica": replica}


@pytest.mark.parametrize("how", REFUSES)
def test_an_answer_waits_for_a_redis_that_refuses_it(
    local: LocalFleet, llm: FakeLLM, client: redis.Redis, how: str
) -> None:
    llm.script(latency=2.0)
    with Fleet(local.config) as fleet:
        jobs = fleet.submit_many([caller.job(calls=1, model="small") for _ in range(JOBS)])
        llm.wait_until(lambda: llm.in_flight == JOBS, timeout=30)
        REFUSES[how](client, True)
        llm.wait_until(lambda: llm.in_flight == 0, timeout=30)
        time.sleep(LEASE_S + 0.5)  # the outage itself, longer than a lease
        REFUSES[how](client, False)
        for job in jobs:
            job.result(timeout=20)
        assert set(called(llm, *jobs).values()) == {1}


def test_answers_that_a_worker_may_not_write_before_it_ends_are_written_by_its_next_life(
    local: LocalFleet, llm: FakeLLM, client: redis.Redis, spool: Path
) -> None:
    llm.script(latency=2.0)
    with Fleet(local.config) as fleet:
        jobs = fleet.submit_many([caller.job(calls=1, model="small") for _ in range(JOBS)])
        llm.wait_until(lambda: llm.in_flight == JOBS, timeout=30)
        replica(client, True)
        llm.wait_until(lambda: llm.in_flight == 0, timeout=30)
        first = local.worker("first")
        begun = time.monotonic()
        assert local.stop_workers([first], grace_s=GRACE_S + 10.0)
        assert time.monotonic() - begun < GRACE_S + 10.0
        log = first.log.read_text()
        assert f"Saved {JOBS} answers that Redis does not take" in log
        assert all(f"{job.id}/0" in log for job in jobs)
        files = list(spool.iterdir())
        assert len(files) == JOBS
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        kept = msgspec.msgpack.decode(files[0].read_bytes())
        assert "request" not in kept
        replica(client, False)
        local.start_workers([WorkerSpec("second", "llm")])
        wait_for(lambda: all(job.steps()[0].state == "done" for job in jobs))
        assert set(called(llm, *jobs).values()) == {1}
        assert not list(spool.iterdir())


def test_a_worker_with_nowhere_to_save_them_says_which_answers_it_loses(
    local: LocalFleet, llm: FakeLLM, client: redis.Redis
) -> None:
    bare = msgspec.structs.replace(
        local.config, fleet=msgspec.structs.replace(local.config.fleet, spool_dir="", name="loses")
    )
    llm.script(latency=2.0)
    with (
        LocalFleet(bare, [WorkerSpec("loser", "llm")], embedded_redis=False, cwd=ROOT) as other,
        Fleet(bare) as fleet,
    ):
        job = fleet.submit(caller, calls=1, model="small")
        llm.wait_until(lambda: llm.in_flight == 1, timeout=30)
        replica(client, True)
        llm.wait_until(lambda: llm.in_flight == 0, timeout=30)
        loser = other.worker("loser")
        assert other.stop_workers([loser], grace_s=GRACE_S + 10.0)
        replica(client, False)
        log = loser.log.read_text()
        assert f"LOST 1 answers that Redis does not take (no spool_dir is set): {job.id}/0." in log
