"""What a plan does when an agent fails, and when it grows."""

from __future__ import annotations

import pytest

from aios_dist import Fleet, JobCancelled, JobFailed, JobState, LLMError, fixed
from aios_dist.testing import FakeLLM
from tests.fleet.agents import caller, careless
from tests.fleet.reading import finish, order


def test_a_fixed_plan_that_stops_on_failure_cancels_what_comes_after(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(faults="400@0")
    plan = fleet.submit_plan(fixed([careless.job(), caller.job(calls=1)], on_failure="stop"))
    with pytest.raises(JobFailed) as failed:
        plan[0].result(timeout=20)
    with pytest.raises(JobCancelled):
        plan[1].result(timeout=20)
    assert isinstance(failed.value.error, LLMError)
    assert plan.state() == "failed"
    assert llm.count == 1


def test_a_fixed_plan_that_continues_on_failure_runs_the_next_agent(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(faults="400@0")
    plan = fleet.submit_plan(fixed([careless.job(), caller.job(calls=1)], on_failure="continue"))
    assert plan[1].result(timeout=20)
    assert plan[0].status() is JobState.FAILED


def test_a_fixed_plan_can_be_extended_at_its_tail_while_it_runs(fleet: Fleet, llm: FakeLLM) -> None:
    plan = fleet.submit_plan(fixed([caller.job(calls=2), caller.job(calls=1)]))
    llm.wait_until(lambda: llm.count == 1)
    plan.extend_with([caller.job(calls=2)])
    jobs = dict(zip("ABC", plan, strict=True))
    assert jobs["C"].status() is JobState.WAITING
    finish(jobs)
    assert order(jobs) == "A1 A2 B1 C1 C2"
    assert plan.state() == "done"


def test_a_plan_that_has_ended_goes_on_when_it_is_extended(fleet: Fleet) -> None:
    plan = fleet.submit_plan(fixed([caller.job(calls=1)]))
    finish({"A": plan[0]})
    (added,) = plan.extend_with([caller.job(calls=1)])
    assert added.result(timeout=20)
