"""Workers that hang: blocked by a user's code, stopped by the system, or cut off from Redis for too long."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aios_dist import Fleet, Job
from aios_dist.config import PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.local.members import Member
from aios_dist.testing import FakeLLM
from tests.chaos.agents import blocking, calling, computing
from tests.chaos.conftest import LEASE_S, PERIOD_S, ROOT, SLACK_S, small_fleet
from tests.fleet.reading import called

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

pytestmark = [pytest.mark.fleet, pytest.mark.slow]
TAKEN_S = LEASE_S + PERIOD_S + SLACK_S
"""After this long another worker has the step of one that hangs."""


@pytest.fixture(scope="module")
def machine(redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM) -> Iterator[LocalFleet]:
    """Workers with one slot for calls, so that a hanging one holds nothing but its step; two for tools."""
    pools = {"llm": PoolConfig(lanes=["llm"], slots=1), "turns": PoolConfig(lanes=["turns"], slots=1)}
    pools["wide"] = PoolConfig(lanes=["wide"], slots=4)
    config = small_fleet(fleets.new_name(), redis_server.url, fake_llm, pools)
    small = config.models["small"]
    models = {"small": small, "wide": msgspec.structs.replace(small, lane="wide")}
    config = msgspec.structs.replace(config, models=models)
    workers = [WorkerSpec("one", "llm"), WorkerSpec("turns-1", "turns"), WorkerSpec("turns-2", "turns")]
    with LocalFleet(config, workers, embedded_redis=False, cwd=ROOT) as started:
        yield started


@pytest.fixture(scope="module")
def fleet(machine: LocalFleet) -> Iterator[Fleet]:
    with Fleet(machine.config) as opened:
        yield opened


@pytest.fixture
def frozen() -> Iterator[Callable[[Member], None]]:
    """Stops a process as a hung machine would; it goes on at the end of the test at the latest."""
    stopped: list[int] = []

    def stop(member: Member) -> None:
        os.kill(member.pid, signal.SIGSTOP)
        stopped.append(member.pid)

    yield stop
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def go_on(member: Member) -> None:
    os.kill(member.pid, signal.SIGCONT)


def until(condition: Callable[[], bool], within: float) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not within {within:g} s"
        time.sleep(0.01)


def happened(job: Job, what: str) -> int:
    """How often an event is among the job's."""
    return sum(event.what == what for event in job._fleet._run(lambda fleet: fleet.journal.events(job.id)))


def test_a_tool_may_take_longer_than_a_lease(fleet: Fleet, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    job = fleet.submit(blocking, path=str(trace), seconds=2.5 * LEASE_S, of_the_loop=False)
    assert job.result(timeout=20) == 1
    assert [step.attempt for step in job.steps()] == [1]


def test_a_program_may_compute_for_longer_than_a_lease(fleet: Fleet, llm: FakeLLM, tmp_path: Path) -> None:
    job = fleet.submit(computing, path=str(tmp_path / "trace"), seconds=2.5 * LEASE_S, model="small")
    job.result(timeout=30)
    assert [step.attempt for step in job.steps()] == [1, 1]
    assert set(called(llm, job).values()) == {1}


def test_a_tool_that_blocks_its_own_loop_does_not_block_the_renewals(fleet: Fleet, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    job = fleet.submit(blocking, path=str(trace), seconds=3 * LEASE_S, of_the_loop=True)
    assert job.result(timeout=20) == 1
    assert [step.attempt for step in job.steps()] == [1]
    assert len(trace.read_text().splitlines()) == 1


def test_a_stopped_workers_step_is_taken_over_and_its_late_answer_is_not_written(
    fleet: Fleet, llm: FakeLLM, machine: LocalFleet, frozen: Callable[[Member], None]
) -> None:
    llm.script(latency=0.5)
    one = machine.worker("one")
    job = fleet.submit(calling, name="taken", calls=2, model="small")
    llm.wait_until(lambda: llm.in_flight == 1)
    frozen(one)
    (_other,) = machine.start_workers([WorkerSpec("other", "llm")])
    heir = machine.registered("other").id
    try:
        assert job.result(timeout=TAKEN_S + 2.0) == 2
        go_on(one)
        until(lambda: _came_too_late(machine, f"{job.id}/0"), 5.0)
    finally:
        machine.stop_workers(["other"], grace_s=10)
    assert [(step.worker, step.attempt) for step in job.steps()] == [(heir, 2), (heir, 1)]
    assert called(llm, job) == Counter({f"{job.id}/0": 2, f"{job.id}/1": 1})
    assert happened(job, "done") == 3  # two steps and the job


def test_a_stopped_workers_late_answer_is_kept_where_nobody_has_taken_its_step(
    fleet: Fleet, llm: FakeLLM, machine: LocalFleet, frozen: Callable[[Member], None]
) -> None:
    llm.script(latency=0.5)
    one = machine.worker("one")
    job = fleet.submit(calling, name="kept", calls=2, model="small")
    llm.wait_until(lambda: llm.in_flight == 1)
    frozen(one)
    until(lambda: job.steps()[0].state == "ready", TAKEN_S)  # another worker's reconciler took the lease
    go_on(one)
    assert job.result(timeout=5) == 2
    assert [step.attempt for step in job.steps()] == [1, 1]
    assert set(called(llm, job).values()) == {1}


def test_a_stopped_worker_with_free_slots_does_not_call_again_for_what_it_still_waits_for(
    fleet: Fleet, llm: FakeLLM, machine: LocalFleet, frozen: Callable[[Member], None]
) -> None:
    llm.script(latency=5.0)
    (wide,) = machine.start_workers([WorkerSpec("wide", "wide")])
    job = fleet.submit(calling, name="own", calls=1, model="wide")
    llm.wait_until(lambda: llm.in_flight == 1)
    frozen(wide)
    until(lambda: job.steps()[0].state == "ready", TAKEN_S)
    go_on(wide)
    try:
        assert job.result(timeout=10) == 1
    finally:
        machine.stop_workers([wide], grace_s=10)
    assert [step.attempt for step in job.steps()] == [1]
    assert set(called(llm, job).values()) == {1}


def _came_too_late(machine: LocalFleet, step: str) -> bool:
    return any(f"The outcome of {step} came too late" in member.log.read_text() for member in machine.workers)
