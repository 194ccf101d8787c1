"""Real workers on machines that pause, run short of files, or lose a line: nobody pays for it but they."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kombu.connection
import msgspec
import pytest
import redis

from aios_dist import Fleet, Job
from aios_dist.broker.app import make_app
from aios_dist.cli.checks.lanes import workers as check_workers
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.journal.keys import Keys
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.local.members import Member
from aios_dist.testing import FakeLLM
from aios_dist.worker.ending import OVERDUE
from tests.fleet.agents import caller
from tests.fleet.conftest import fleet_config
from tests.fleet.reading import called, calls_of, wait_for
from tests.fleet.wire import Wire

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

SLOTS = 16
TIMEOUT_S = 2.5
LEASE_S = 6.0
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


class Scene:
    """Two workers behind a wire, on lanes of their own, and a producer that is not."""

    def __init__(self, wire: Wire, llm: FakeLLM, machine: LocalFleet, fleet: Fleet) -> None:
        self.wire, self.llm, self.machine, self.fleet = wire, llm, machine, fleet
        self.keys = Keys(machine.config.fleet.name)

    def submit(self, count: int, model: str) -> list[Job]:
        return self.fleet.submit_many([caller.job(calls=1, model=model) for _ in range(count)])

    def fails(self, model: str) -> int:
        """Failures in a row that are held against the model."""
        with redis.Redis.from_url(self.machine.config.fleet.redis_url) as client:
            return int(client.hget(self.keys.model(model), "fails") or 0)


def _straight(config: Config, url: str) -> Config:
    """The producer has a line of its own, which nothing befalls."""
    return msgspec.structs.replace(config, fleet=msgspec.structs.replace(config.fleet, redis_url=url))


@pytest.fixture(scope="module")
def module_scene(redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM) -> Iterator[Scene]:
    with Wire(redis_server.port) as wire:
        config = Config(
            fleet=fleet_config(
                fleets.new_name(), wire.url, LEASE_S, renew=1.0, shutdown_grace=0.0, redis_timeout=1.0
            ),
            models={
                name: ModelConfig(
                    base_url=fake_llm.url, lane=name, timeout=TIMEOUT_S, backoff=0.1, backoff_max=0.2
                )
                for name in ("few", "still")
            },
            pools={name: PoolConfig(lanes=[name, "turns"], slots=SLOTS) for name in ("few", "still")},
        )
        specs = [WorkerSpec(name, name) for name in ("few", "still")]
        with (
            LocalFleet(config, specs, embedded_redis=False, cwd=ROOT) as machine,
            Fleet(_straight(machine.config, redis_server.url)) as fleet,
        ):
            yield Scene(wire, fake_llm, machine, fleet)


@pytest.fixture
def scene(module_scene: Scene, llm: FakeLLM) -> Scene:
    return module_scene


def once_each(jobs: list[Job]) -> Counter[str]:
    return Counter({f"{job.id}/0": 1 for job in jobs})


def test_answers_that_came_while_a_worker_was_stopped_are_used(scene: Scene, llm: FakeLLM) -> None:
    llm.script(latency=1.5)  # all are in flight at once also where they begin slowly
    member = scene.machine.worker("still")
    jobs = scene.submit(SLOTS, "still")
    llm.wait_until(lambda: llm.in_flight == SLOTS, timeout=20)
    os.kill(member.pid, signal.SIGSTOP)
    try:
        time.sleep(
            TIMEOUT_S + 1.0
        )  # the fault itself: longer than the model's timeout, shorter than the lease
    finally:
        os.kill(member.pid, signal.SIGCONT)
    for job in jobs:
        job.result(timeout=20)
    assert called(llm, *jobs) == once_each(jobs)
    assert scene.fails("still") == 0
    assert "stood still for" in member.log.read_text()


def test_a_worker_that_loses_its_line_while_no_file_can_be_opened_waits(scene: Scene, llm: FakeLLM) -> None:
    llm.script(latency=0.1)
    member = scene.machine.worker("few")
    scene.submit(1, "few")[0].result(timeout=20)
    soft, hard = resource.prlimit(member.pid, resource.RLIMIT_NOFILE)
    before = member.log.read_text().count("The connection to Redis waits for a file")
    resource.prlimit(member.pid, resource.RLIMIT_NOFILE, (3, hard))  # all of these are taken
    try:
        scene.wire.cut()
        wait_for(lambda: member.log.read_text().count("The connection to Redis waits for a file") > before)
        jobs = scene.submit(3, "few")
    finally:
        resource.prlimit(member.pid, resource.RLIMIT_NOFILE, (soft, hard))
    for job in jobs:
        job.result(timeout=40)
    assert called(llm, *jobs) == once_each(jobs)
    assert scene.machine.worker("few").pid == member.pid
    assert "Aborting" not in member.log.read_text()


def test_a_worker_without_files_calls_less_and_blames_nobody(scene: Scene, llm: FakeLLM) -> None:
    llm.script(latency=0.3)
    member = scene.machine.worker("few")
    scene.submit(1, "few")[0].result(timeout=20)
    _, hard = resource.prlimit(member.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(member.pid, resource.RLIMIT_NOFILE, (_with_room_for(5, member), hard))
    jobs = scene.submit(3 * SLOTS, "few")
    try:
        for job in jobs:
            job.result(timeout=60)
        wait_for(lambda: scene.machine.registered("few").short)
        told = scene.machine.registered("few")
    finally:
        resource.prlimit(member.pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert called(llm, *jobs) == once_each(jobs)
    assert {step.attempt for job in jobs for step in job.steps()} != {1}, "some calls could not be made"
    assert scene.fails("few") == 0
    assert told.slots < SLOTS
    assert 0 < told.files < 1000
    found = scene.machine.ask(lambda journal: journal.registry())
    said = [finding.what for finding in check_workers(scene.machine.config, found, time.time())]
    assert any("only" in text and "too many open files" in text for text in said)


PRICED = """
import asyncio, os, resource, sys
from aios_dist.model.calls import Usage
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.worker.worker import Runtime

async def main():
    listed = ModelConfig(model="gpt-4o", base_url="http://127.0.0.1:1/v1")
    pools = {"all": PoolConfig(lanes=["llm"], slots=1)}
    fleet = FleetConfig(name=sys.argv[2], redis_url=sys.argv[1])
    runtime = Runtime(Config(fleet=fleet, models={"a": listed}, pools=pools), "all", pools["all"])
    await runtime.open(lambda: 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    first = runtime._price("a", Usage(1000, 1000, 1))
    sys.modules["aios_dist.model.costs"].money = None
    print(first, runtime._price("a", Usage(1000, 1000, 1)), flush=True)
    os._exit(0)

asyncio.run(main())
"""


def test_a_worker_without_a_single_file_knows_its_prices_and_none_that_it_does_not_know_is_in_the_way(
    redis_server: EmbeddedRedis, fleets: Any
) -> None:
    pytest.importorskip("genai_prices")
    command = [sys.executable, "-c", PRICED, redis_server.url, fleets.new_name()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    first, second = map(float, done.stdout.split())
    assert first > 0
    assert second == 0, "nobody knows it, and the answer is kept"


def _with_room_for(files: int, member: Member) -> int:
    """The limit below which so many numbers are free: those of files that were closed are among them."""
    taken = {int(name) for name in os.listdir(f"/proc/{member.pid}/fd")}
    free = itertools.islice((n for n in itertools.count() if n not in taken), files)
    return max(free) + 1


def test_a_call_cut_off_is_repeated_under_its_key_and_a_refused_one_under_another(
    scene: Scene, llm: FakeLLM
) -> None:
    llm.script(faults="500@0,cut@1")
    (job,) = scene.submit(1, "still")
    job.result(timeout=20)
    keys = [call.headers["idempotency-key"] for _, call in calls_of(llm, job)]
    assert len(keys) == 3
    assert keys[0] != keys[1] == keys[2]


def test_lines_that_were_forgotten_on_their_way_cost_no_lease_and_no_call(scene: Scene, llm: FakeLLM) -> None:
    llm.script(latency=1.2)
    jobs = scene.submit(8, "still")
    llm.wait_until(lambda: llm.in_flight == 8, timeout=20)
    assert scene.wire.forget() >= 4
    wait_for(lambda: all(job.status() == "done" for job in jobs))
    assert called(llm, *jobs) == once_each(jobs)
    assert {step.attempt for job in jobs for step in job.steps()} == {1}
    later = scene.submit(4, "still")
    wait_for(lambda: all(job.status() == "done" for job in later), seconds=10.0)  # over new lines


def test_kombu_does_not_wait_longer_from_try_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", pauses.append)
    said: list[float] = []
    app = make_app(Config(fleet=FleetConfig(redis_url="redis://127.0.0.1:1/0")))
    line = app.connection_for_read()
    with pytest.raises(kombu.connection.exceptions.OperationalError):
        line.ensure_connection(lambda exc, interval: said.append(interval), 8)
    assert 7 <= sum(pauses) <= 2 * 8, "in slices of a second"
    assert len(said) == 1, "and says so once in a while"


def test_a_worker_ends_in_time_though_redis_says_nothing(scene: Scene) -> None:
    given = scene.machine.config
    patient = msgspec.structs.replace(given.fleet, redis_timeout=60.0, lease=180.0)  # each wait is too long
    config = msgspec.structs.replace(given, fleet=patient)
    with LocalFleet(config, [WorkerSpec("waits", "few")], embedded_redis=False, cwd=ROOT) as machine:
        (member,) = machine.workers
        with scene.wire.silent():
            begun = time.monotonic()
            os.kill(member.pid, signal.SIGTERM)
            code = member.process.wait(timeout=30)
    assert time.monotonic() - begun < 20
    assert code == OVERDUE
