"""Policies on real workers: exact orders on one slot, and what changes while steps wait.

Exact orders are without ``oldest_every``: which dispatch is the tenth depends on the tests before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aios_dist import Fleet, Job, JobSpec, agent_first, fifo, hybrid, policies, prompts
from aios_dist.testing import FakeLLM
from tests.fleet.agents import caller, careless, worker_between
from tests.fleet.conftest import REPLY_S
from tests.fleet.reading import calls, finish, order, wait_for

SLOT = "one"
"""The lane with one slot; the agents' model of the same name is on it."""


@contextmanager
def rules(fleet: Fleet, lane: str, **wanted: Any) -> Iterator[None]:
    fleet.set_lane(lane, **wanted)
    try:
        yield
    finally:
        fleet.reset_lane(lane)


@contextmanager
def slot_is_busy(fleet: Fleet, llm: FakeLLM) -> Iterator[None]:
    """Another job has the slot while a test submits and changes what it likes; then replies come fast."""
    llm.script(latency=60.0)
    other = fleet.submit(caller, calls=1)
    llm.wait_until(lambda: llm.in_flight == 1)
    llm.script(latency=REPLY_S / 2)
    yield
    assert llm.in_flight == 1
    other.cancel()


def submit(fleet: Fleet, **jobs: JobSpec) -> dict[str, Job]:
    return dict(zip(jobs, fleet.submit_many(jobs.values()), strict=True))


def waiting(fleet: Fleet) -> dict[str, int]:
    """Waiting steps by tenant; not those that a producer ranked by rules of some seconds ago."""
    return next(lane.tenants for lane in fleet.lanes() if lane.name == SLOT)


def one(**more: Any) -> JobSpec:
    return caller.job(calls=1).within(**more)


def test_the_highest_priority_goes_first(fleet: Fleet, llm: FakeLLM) -> None:
    levels = {"A": 1, "B": 9, "C": 0, "D": 9, "E": 5}
    with rules(fleet, SLOT, policy="priority"):
        with slot_is_busy(fleet, llm):
            jobs = submit(fleet, **{name: one(priority=level) for name, level in levels.items()})
        finish(jobs)
    assert order(jobs) == "B1 D1 E1 A1 C1"


def test_a_job_can_be_reranked_while_its_steps_wait(fleet: Fleet, llm: FakeLLM) -> None:
    with rules(fleet, SLOT, policy="priority"):
        with slot_is_busy(fleet, llm):
            jobs = submit(fleet, A=one(), B=one(), C=caller.job(calls=2))
            assert jobs["C"].rerank(priority=9)
            assert jobs["B"].rerank(priority=3)
        finish(jobs)
    assert order(jobs) == "C1 C2 B1 A1"
    assert not jobs["A"].rerank(priority=9), "it has ended"


def test_the_nearest_deadline_goes_first_and_who_has_none_last(fleet: Fleet, llm: FakeLLM) -> None:
    with rules(fleet, SLOT, policy="deadline", oldest_every=0):
        with slot_is_busy(fleet, llm):
            jobs = submit(fleet, A=one(), B=one(deadline=300), C=one(deadline=100))
        finish(jobs)
    assert order(jobs) == "C1 B1 A1"


def test_what_is_expected_to_be_done_soonest_goes_first(fleet: Fleet, llm: FakeLLM) -> None:
    with rules(fleet, SLOT, policy="remaining", oldest_every=0):
        with slot_is_busy(fleet, llm):
            jobs = submit(
                fleet,
                A=caller.job(calls=3).within(expected_steps=3),
                B=caller.job(calls=2).within(expected_steps=2),
                C=one(expected_steps=1),
            )
        finish(jobs)
    assert order(jobs) == "C1 B1 B2 A1 A2 A3"


def test_earlier_runs_on_the_fleet_tell_how_much_of_a_job_is_still_to_come(
    fleet: Fleet, llm: FakeLLM
) -> None:
    long, short = prompts("long", ["1", "2", "3"], model=SLOT), prompts("short", ["1"], model=SLOT)
    llm.script(latency=REPLY_S / 2)
    finish(submit(fleet, A=long.job(), B=short.job()))
    with rules(fleet, SLOT, policy="remaining", oldest_every=0):
        with slot_is_busy(fleet, llm):
            jobs = submit(fleet, A=long.job(), B=long.job(), C=short.job())
        finish(jobs)
    assert order(jobs).startswith("C1 ")


def test_agents_take_turns_under_round_robin_however_many_jobs_they_have(fleet: Fleet, llm: FakeLLM) -> None:
    with rules(fleet, SLOT, policy="round-robin"):
        with slot_is_busy(fleet, llm):
            jobs = submit(fleet, A=one(), B=one(), C=one(), D=careless.job(), E=careless.job())
        finish(jobs)
    got = order(jobs).replace("1", "").split()
    assert [name in "ABC" for name in got] in (
        [True, False, True, False, True],
        [False, True, False, True, True],
    )


def test_a_tenant_with_few_jobs_does_not_wait_for_one_with_many(fleet: Fleet, llm: FakeLLM) -> None:
    with rules(fleet, SLOT, fair="tenant"):
        with slot_is_busy(fleet, llm):
            flood = [caller.job(calls=1, tenant="flood") for _ in range(4)]
            jobs = submit(fleet, A=flood[0], B=flood[1], C=flood[2], D=flood[3])
            jobs |= submit(fleet, X=caller.job(calls=2, tenant="small"))
            wait_for(lambda: waiting(fleet) == {"flood": 4, "small": 1})
        finish(jobs)
    assert order(jobs).index("X2") < order(jobs).index("C1")


def test_another_policy_takes_over_what_waits_without_a_restart(fleet: Fleet, llm: FakeLLM) -> None:
    with slot_is_busy(fleet, llm):
        jobs = submit(fleet, A=one(deadline=300), B=one(deadline=200), C=one(deadline=100))
        fleet.set_lane(SLOT, policy="deadline", oldest_every=0)
        # A producer that has not heard of it yet: its steps are put right by Redis.
        jobs |= submit(fleet, D=one(deadline=50))
        wait_for(lambda: sorted(jobs, key=lambda name: jobs[name].steps()[0].rank) == list("DCBA"))
    finish(jobs)
    assert fleet.reset_lane(SLOT).policy == "fifo"
    assert order(jobs) == "D1 C1 B1 A1"


def test_a_hybrid_plan_keeps_its_groups_apart_also_where_slots_are_free(fleet: Fleet, llm: FakeLLM) -> None:
    groups = [[caller.job(calls=2, model="small") for _ in range(2)] for _ in range(2)]
    jobs = fleet.submit_plan(hybrid(groups))
    finish({job.id: job for job in jobs})
    first, second = ([step for job in part for step in calls(job)] for part in (jobs[:2], jobs[2:]))
    assert max(step.ended_at for step in first) <= min(step.started_at for step in second)
    assert llm.max_in_flight == 2


def test_agent_first_on_one_slot_is_the_fixed_order(fleet: Fleet, llm: FakeLLM) -> None:
    plan = agent_first([caller.job(calls=3), caller.job(calls=2), caller.job(calls=2)])
    with slot_is_busy(fleet, llm):
        jobs = dict(zip("ABC", fleet.submit_plan(plan), strict=True))
    finish(jobs)
    assert order(jobs) == "A1 A2 A3 B1 B2 C1 C2"


def test_agent_first_gives_the_slot_to_the_next_agent_while_the_first_one_works(
    fleet: Fleet, llm: FakeLLM
) -> None:
    plan = agent_first([worker_between.job(pause=2 * REPLY_S, model=SLOT), caller.job(calls=20)])
    with slot_is_busy(fleet, llm):
        jobs = dict(zip("AB", fleet.submit_plan(plan), strict=True))
    finish(jobs)
    started = order(jobs).split()
    assert started[:2] == ["A1", "B1"]
    assert started.index("A2") < started.index("B20"), "when the first one is back, it goes first"


def test_groups_of_an_agent_first_plan_are_fifo_inside(fleet: Fleet, llm: FakeLLM) -> None:
    groups = [fifo([caller.job(calls=2), caller.job(calls=2)]), fifo([caller.job(calls=1)])]
    with slot_is_busy(fleet, llm):
        jobs = dict(zip("ABC", fleet.submit_plan(agent_first(groups)), strict=True))
    finish(jobs)
    assert order(jobs) == "A1 B1 A2 B2 C1"


@pytest.mark.parametrize("policy", policies.names())
def test_under_every_policy_all_slots_work_and_all_jobs_end(fleet: Fleet, llm: FakeLLM, policy: str) -> None:
    llm.script(latency=5.0)
    with rules(fleet, "llm", policy=policy, fair="tenant"):
        jobs = fleet.submit_many(
            caller.job(calls=3, model="small", tenant=f"t{n % 3}").within(priority=n % 10) for n in range(24)
        )
        llm.wait_until(lambda: llm.in_flight == 16, timeout=20)
        llm.script(latency=REPLY_S / 2)
        finish({job.id: job for job in jobs})
    assert llm.count == 72
