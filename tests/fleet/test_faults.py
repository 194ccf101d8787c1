"""Workers that are told to stop, and workers that die."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from aios_dist import Fleet, JobState
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.testing import CLIENT_LEFT, FakeLLM
from tests.fleet.agents import caller
from tests.fleet.reading import called, calls

JOBS = 4  # one for each slot of a frail worker


_numbers = itertools.count(1)


def start(machine: LocalFleet) -> str:
    """One more worker on the lane of these tests; gives its name."""
    (worker,) = machine.start_workers([WorkerSpec(f"frail-{next(_numbers)}", "frail")])
    return worker.name


@pytest.fixture
def frail(machine: LocalFleet) -> str:
    """The only worker on its lane, for the test to end: left by the test before, or new."""
    there = [worker for worker in machine.workers if worker.spec is not None and worker.spec.pool == "frail"]
    machine.stop_workers(there[1:], grace_s=20)
    return there[0].name if there else start(machine)


def stop(machine: LocalFleet, name: str) -> bool:
    return machine.stop_workers([machine.worker(name)], grace_s=20)


def test_a_warm_shutdown_finishes_the_calls_in_flight_and_leaves_the_rest(
    fleet: Fleet, llm: FakeLLM, machine: LocalFleet, frail: str
) -> None:
    llm.script(latency=0.5)
    jobs = [fleet.submit(caller, calls=2, model="frail") for _ in range(JOBS)]
    llm.wait_until(lambda: llm.in_flight == JOBS)
    assert stop(machine, frail)
    assert [[step.state for step in calls(job)] for job in jobs] == [["done", "ready"]] * JOBS
    start(machine)
    assert len(list(fleet.as_completed(jobs, timeout=20))) == JOBS
    assert called(llm, *jobs, status=200) == Counter({f"{job.id}/{n}": 1 for job in jobs for n in (0, 1)})


def test_a_warm_shutdown_hands_back_the_calls_that_take_too_long(
    fleet: Fleet, llm: FakeLLM, machine: LocalFleet, frail: str
) -> None:
    llm.script(latency=30.0)
    jobs = [fleet.submit(caller, calls=1, model="frail") for _ in range(JOBS)]
    llm.wait_until(lambda: llm.in_flight == JOBS)
    assert stop(machine, frail)
    assert [call.status for call in llm.calls] == [CLIENT_LEFT] * JOBS
    assert [calls(job)[0].state for job in jobs] == ["ready"] * JOBS
    llm.script(latency=0.1)
    start(machine)
    assert len(list(fleet.as_completed(jobs, timeout=20))) == JOBS
    assert [calls(job)[0].attempt for job in jobs] == [2] * JOBS


def test_the_steps_of_a_killed_worker_are_run_by_another(
    fleet: Fleet, llm: FakeLLM, machine: LocalFleet, frail: str
) -> None:
    llm.script(latency=30.0)
    dead = machine.registered(frail).id
    jobs = [fleet.submit(caller, calls=2, model="frail") for _ in range(JOBS)]
    llm.wait_until(lambda: llm.in_flight == JOBS)
    heir = machine.registered(start(machine)).id
    llm.script(latency=0.1)
    machine.kill(frail)
    for job in jobs:  # a lease (1 s) and a period of the reconciler (0.5 s), and much more for a busy machine
        job.result(timeout=20)
    assert [job.status() for job in jobs] == [JobState.DONE] * JOBS
    assert dead != heir
    assert {(step.worker, step.attempt) for job in jobs for step in calls(job)[:1]} == {(heir, 2)}
    assert called(llm, *jobs, status=200) == Counter({f"{job.id}/{n}": 1 for job in jobs for n in (0, 1)})
