"""Redis goes away in every way that it can, while calls are in flight; then it is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from aios_dist import Fleet, Job, JobState
from aios_dist.config import Config, ModelConfig, PoolConfig
from aios_dist.errors import FleetUnavailable
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.testing import FakeLLM
from tests.fleet.agents import caller
from tests.fleet.conftest import fleet_config
from tests.fleet.reading import called, wait_for
from tests.fleet.wire import Wire

LEASE_S = 2.0
TIMEOUT_S = 1.0
SLOTS = 6
JOBS = 20
CALLS = 2
ROOT = Path(__file__).parents[2]
LINES_A_SECOND = 4
"""What a worker may write while Redis is away, and a few lines more for the way out and back."""
LINES_BESIDES = 12

pytestmark = pytest.mark.slow


@dataclass
class Scene:
    """Two workers and a producer, all behind one wire to their Redis."""

    redis: EmbeddedRedis
    wire: Wire
    llm: FakeLLM
    machine: LocalFleet
    fleet: Fleet

    def __post_init__(self) -> None:
        self.direct = redis.Redis.from_url(self.redis.url, decode_responses=True)
        self._lines: dict[str, int] = {}
        self._pids: list[int] = []
        self._since = 0.0

    def start(self) -> Watched:
        """Jobs on all slots of both workers and as many waiting; every kind of caller waits for them."""
        self.llm.reset()
        self.llm.script(latency=1.0)
        jobs = self.fleet.submit_many([caller.job(calls=CALLS, model="small") for _ in range(JOBS)])
        watched = Watched(self, jobs)
        self.llm.wait_until(lambda: self.llm.in_flight == 2 * SLOTS, timeout=20)
        self._lines = {member.name: len(self.log(member.name)) for member in self.machine.workers}
        self._pids = [member.pid for member in self.machine.workers]
        self._since = time.monotonic()
        return watched

    def log(self, name: str) -> list[str]:
        """What the worker of that name has written."""
        return self.machine.worker(name).log.read_text().splitlines()

    def written(self, name: str) -> list[str]:
        """… since ``start()``."""
        return self.log(name)[self._lines[name] :]

    def reports(self, words: str) -> bool:
        """Each worker has written these words since ``start()``."""
        return all(any(words in line for line in self.written(name)) for name in self._lines)

    def check(self) -> None:
        """The workers are the same processes, and have said in few words what happened."""
        assert [member.pid for member in self.machine.workers if not member.ended] == self._pids
        took = time.monotonic() - self._since
        for name in self._lines:
            lines = self.written(name)
            text = "\n".join(lines)
            assert "Traceback" not in text, f"{name}:\n{text}"
            assert len(lines) <= LINES_A_SECOND * took + LINES_BESIDES, f"{name}:\n{text}"
        wait_for(lambda: all(self.says_that_it_is_back(name) for name in self._lines))

    def says_that_it_is_back(self, name: str) -> bool:
        """The worker's last word about Redis; one that has noticed nothing says nothing."""
        words = [line for line in self.written(name) if "aios_dist.outage" in line]
        return not words or "Redis is back" in words[-1]


class Watched:
    """Jobs, and callers of every kind that wait for them from before the outage on."""

    def __init__(self, scene: Scene, jobs: list[Job]) -> None:
        self.jobs = jobs
        self._scene = scene
        self._threads = ThreadPoolExecutor(max_workers=4)
        ready = threading.Semaphore(0)

        def ask(what: Callable[[], object]) -> Future[object]:
            def run() -> object:
                ready.release()
                return what()

            return self._threads.submit(run)

        self._result = ask(lambda: jobs[-1].result(timeout=40))
        self._completed = ask(lambda: {job.id for job in scene.fleet.as_completed(jobs, timeout=40)})
        self._events = ask(lambda: [event.what for event in jobs[-1].events(timeout=40)])
        for _ in range(3):
            ready.acquire()

    def finish(self, *others: Job) -> None:
        """All callers get their answers; each call was answered once, and its answer is what was kept."""
        try:
            assert self._completed.result(timeout=45) == {job.id for job in self.jobs}
            assert isinstance(self._result.result(timeout=45), str)
            events = self._events.result(timeout=45)
            assert isinstance(events, list)
            assert events[0] == "submitted"
            assert events[-1] == "done"
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)
        jobs = [*self.jobs, *others]
        assert [job.status() for job in jobs] == [JobState.DONE] * len(jobs)
        assert called(self._scene.llm, *jobs, status=200) == {
            f"{job.id}/{n}": 1 for job in jobs for n in range(CALLS)
        }
        assert {job.usage.calls for job in jobs} == {CALLS}
        self._scene.check()


@pytest.fixture(scope="module")
def module_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    data = tmp_path_factory.mktemp("redis")
    with (
        EmbeddedRedis().start(data, appendonly=True) as server,
        Wire(server.port) as wire,
        FakeLLM() as llm,
    ):
        config = Config(
            fleet=fleet_config(
                "outages", wire.url, LEASE_S, renew=0.4, reconcile=0.4, redis_timeout=TIMEOUT_S
            ),
            models={"small": ModelConfig(base_url=llm.url)},
            pools={"all": PoolConfig(lanes=["llm", "turns"], slots=SLOTS)},
        )
        workers = [WorkerSpec("machine-1", "all"), WorkerSpec("machine-2", "all")]
        with (
            LocalFleet(config, workers, embedded_redis=False, cwd=ROOT) as machine,
            Fleet(machine.config) as fleet,
        ):
            fleet.submit(caller, calls=1, model="small").result(timeout=20)
            yield Scene(server, wire, llm, machine, fleet)


@pytest.fixture
def scene(module_scene: Scene) -> Scene:
    assert len(module_scene.machine.workers) == 2, "a worker ended in the test before"
    return module_scene


def test_connections_that_break_cost_nothing(scene: Scene) -> None:
    watched = scene.start()
    scene.wire.cut()
    watched.finish()


def test_a_redis_that_hangs_up_on_everybody_is_waited_for(scene: Scene) -> None:
    watched = scene.start()
    with scene.wire.refused():
        wait_for(lambda: scene.reports("cannot be reached"))
        scene.llm.wait_until(lambda: scene.llm.in_flight == 0, timeout=20)
    watched.finish()


def test_a_silence_longer_than_timeouts_and_leases_repeats_no_call(scene: Scene) -> None:
    watched = scene.start()
    with scene.wire.silent():
        time.sleep(2 * LEASE_S)  # the fault itself
        scene.llm.wait_until(lambda: scene.llm.in_flight == 0, timeout=20)
        wait_for(lambda: scene.reports("does not answer"))
    watched.finish()


def test_a_redis_that_is_killed_and_comes_back_has_lost_nothing(scene: Scene) -> None:
    watched = scene.start()
    scene.redis.kill()
    wait_for(lambda: scene.reports("cannot be reached"))
    scene.redis.restart()
    watched.finish()


def test_a_redis_that_restarts_in_good_order_has_lost_nothing(scene: Scene) -> None:
    watched = scene.start()
    scene.redis.restart()
    watched.finish()


def test_a_full_redis_is_waited_for(scene: Scene) -> None:
    watched = scene.start()
    scene.direct.config_set("maxmemory", "1mb")
    try:
        scene.llm.wait_until(lambda: scene.llm.in_flight == 0, timeout=20)
        wait_for(lambda: scene.reports("is full"))
        scene.wire.cut()  # and who has to connect anew finds it full
        wait_for(lambda: len(scene.direct.client_list()) > 4)
    finally:
        scene.direct.config_set("maxmemory", "0")
    watched.finish()


def test_a_redis_that_takes_no_writes_because_it_became_a_replica_is_waited_for(scene: Scene) -> None:
    watched = scene.start()
    scene.direct.replicaof("127.0.0.1", 1)  # of nobody
    try:
        scene.llm.wait_until(lambda: scene.llm.in_flight == 0, timeout=20)
        wait_for(lambda: scene.reports("READONLY"))
        scene.wire.cut()
        wait_for(lambda: len(scene.direct.client_list()) > 4)
    finally:
        scene.direct.replicaof("NO", "ONE")
    watched.finish()


def test_what_is_submitted_while_redis_is_away_waits_for_it(scene: Scene) -> None:
    watched = scene.start()
    with ThreadPoolExecutor() as threads:
        with scene.wire.refused():
            late = threads.submit(scene.fleet.submit, caller, calls=CALLS, model="small")
            asked = threads.submit(watched.jobs[0].result, timeout=40)
            wait_for(lambda: scene.reports("cannot be reached"))
            assert not late.done()
            assert not asked.done()
        late.result(timeout=40).result(timeout=40)
        asked.result(timeout=40)
    watched.finish(late.result())


def test_a_producer_that_finds_no_redis_says_so_in_one_sentence(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_dist.producer.endings.PATIENCE_S", 0.5)
    with scene.wire.refused(), Fleet(scene.machine.config) as stranger:
        for fleet in (scene.fleet, stranger):
            with pytest.raises(FleetUnavailable) as error:
                fleet.submit(caller, calls=1, model="small")
            assert "\n" not in str(error.value)
            assert "cannot be reached" in str(error.value)
