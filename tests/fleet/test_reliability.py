"""Calls that fail and come back, limits over the fleet, and jobs that are steered while they run."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from aios_dist import Budget, Fleet, JobCancelled, JobFailed, JobState
from aios_dist.errors import BudgetReached, DeadlineExceeded, NotAllowed, ProviderBusy
from aios_dist.testing import FakeLLM, Fault
from tests.fleet.agents import caller, hears, naps, waits_for_a_word
from tests.fleet.reading import called, calls


def test_a_call_that_may_succeed_later_is_tried_again(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(faults="500@0,cut@1")
    job = fleet.submit(caller, calls=2, model="patient")
    job.result(timeout=20)
    assert called(llm, job) == {f"{job.id}/0": 3, f"{job.id}/1": 1}
    assert llm.count == 4
    assert [step.attempt for step in calls(job)] == [3, 1]
    assert [event.what for event in job.events() if event.step == 0].count("retry") == 2


def test_a_final_error_is_not_tried_again(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(faults="401@0")
    job = fleet.submit(caller, calls=1, model="small")
    with pytest.raises(JobFailed) as failed:
        job.result(timeout=20)
    assert isinstance(failed.value.error, NotAllowed)
    assert llm.count == 1


def test_a_step_whose_model_fails_for_good_goes_to_the_next_model(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(reply=lambda call: Fault("500") if call.model == "patient" else None)
    job = fleet.submit(caller, calls=1, model="patient")
    job.result(timeout=20)
    assert [call.model for call in llm.calls] == ["patient"] * 3 + ["spare"]
    assert calls(job)[0].label == "spare"


def test_when_all_models_have_failed_the_last_error_is_the_agents(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(reply=[Fault("500")] * 4)
    job = fleet.submit(caller, calls=1, model="patient")
    with pytest.raises(JobFailed) as failed:
        job.result(timeout=20)
    assert isinstance(failed.value.error, ProviderBusy)


def test_a_429_holds_the_model_for_all_workers_and_no_other_model(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(faults="429@0", retry_after=3.0)
    first = fleet.submit(caller, calls=1, model="small")
    llm.wait_until(lambda: llm.count == 1 and llm.calls[0].end is not None)
    wait_for(lambda: first.steps()[0].state == "ready")
    held = [fleet.submit(caller, calls=1, model="small") for _ in range(4)]
    free = fleet.submit(caller, calls=2, model="one")
    free.result(timeout=20)
    assert {call.model for call in llm.calls[1:]} == {"one"}
    for job in [first, *held]:
        job.result(timeout=20)
    again = [call.start for call in llm.calls if call.model == "small"][1:]
    assert min(again) - llm.calls[0].start >= 2.9
    begun = [job.steps()[0].started_at for job in [first, *held]]
    assert begun == sorted(begun)


def test_a_limit_of_calls_in_flight_holds_over_all_workers(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(latency=0.3)
    jobs = [fleet.submit(caller, calls=2, model="limited") for _ in range(5)]
    assert len(list(fleet.as_completed(jobs, timeout=30))) == 5
    assert llm.max_in_flight == 2
    assert all(job.status() is JobState.DONE for job in jobs)


def test_what_a_limit_holds_does_not_hold_up_other_models_of_the_lane(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(latency=60.0)
    slow = [fleet.submit(caller, calls=1, model="limited") for _ in range(6)]
    llm.wait_until(lambda: llm.in_flight == 2)
    llm.script(latency=0.1)
    fleet.submit(caller, calls=1, model="small").result(timeout=20)
    assert llm.in_flight == 2
    for job in slow[:2]:
        job.cancel()
    assert len(list(fleet.as_completed(slow, timeout=30))) == 6
    assert [job.status() for job in slow[2:]] == [JobState.DONE] * 4


def test_a_paused_job_starts_no_call_until_it_goes_on(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(latency=1.5)
    job = fleet.submit(caller, calls=3, model="small")
    llm.wait_until(lambda: llm.in_flight == 1)
    llm.script(latency=0.1)
    assert job.pause()
    wait_for(lambda: job.view().outcomes == 1)
    other = fleet.submit(caller, calls=2, model="small")
    other.result(timeout=20)
    assert job.status() is JobState.PAUSED
    assert job.view().outcomes == 1
    assert job.resume()
    job.result(timeout=20)
    assert llm.count == 5


def test_a_signal_lets_a_waiting_agent_go_on(fleet: Fleet, llm: FakeLLM) -> None:
    early, late = fleet.submit(waits_for_a_word), fleet.submit(waits_for_a_word)
    assert early.signal("review", "good")
    wait_for(lambda: len(late.steps()) == 2 and late.steps()[1].state == "waiting")
    assert late.signal("review", "bad")
    assert early.result(timeout=20).startswith("good: ")
    assert late.result(timeout=20).startswith("bad: ")
    assert not late.signal("review", "too late")


def test_signals_that_are_there_before_they_are_asked_for_are_heard_one_after_the_other(
    fleet: Fleet, llm: FakeLLM
) -> None:
    """Each is written with what asks for it: a program that is kept has not heard it."""
    words = [f"w{n}" for n in range(6)]
    job = fleet.submit(hears, words=len(words))
    for n, word in enumerate(words):
        assert job.signal(f"word-{n}", word)
    assert job.result(timeout=20) == " ".join(words)


def test_an_agent_that_sleeps_holds_no_slot(fleet: Fleet, llm: FakeLLM) -> None:
    job = fleet.submit(naps, seconds=0.7)
    job.result(timeout=20)
    before, nap, after = job.steps()
    assert after.started_at - before.ended_at >= 0.7
    assert nap.worker == ""


def test_a_failed_job_goes_on_from_the_step_that_failed(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(faults="401@2")
    job = fleet.submit(caller, calls=4, model="small")
    with pytest.raises(JobFailed):
        job.result(timeout=20)
    assert llm.count == 3
    assert job.retry()
    job.result(timeout=20)
    assert llm.count == 5
    assert not job.retry()


def test_a_cancelled_job_can_be_taken_up_again(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(latency=30.0)
    job = fleet.submit(caller, calls=2, model="small")
    llm.wait_until(lambda: llm.in_flight == 1)
    assert job.cancel()
    with pytest.raises(JobCancelled):
        job.result(timeout=20)
    llm.wait_until(lambda: llm.in_flight == 0)
    llm.script(latency=0.1)
    assert job.retry()
    job.result(timeout=20)


def test_a_fork_pays_only_for_what_comes_after(fleet: Fleet, llm: FakeLLM) -> None:
    job = fleet.submit(caller, calls=3, model="small")
    job.result(timeout=20)
    fork = job.fork(2, id=f"{job.id}-b")
    fork.result(timeout=20)
    assert llm.count == 4
    assert fork.usage.calls == 1
    assert [step.digest for step in fork.steps()] == [step.digest for step in job.steps()]


def test_a_job_past_its_deadline_fails_and_its_call_is_stopped(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(latency=30.0)
    job = fleet.submit(caller.job(calls=1, model="small").within(deadline=0.8))
    with pytest.raises(JobFailed) as failed:
        job.result(timeout=20)
    assert isinstance(failed.value.error, DeadlineExceeded)
    llm.wait_until(lambda: llm.in_flight == 0)


def test_a_job_that_has_spent_its_budget_is_paused_and_goes_on_with_more(fleet: Fleet, llm: FakeLLM) -> None:
    job = fleet.submit(caller.job(calls=4, model="small").within(budget=Budget(tokens=1)))
    wait_for(lambda: job.status() is JobState.PAUSED)
    assert llm.count == 1
    assert job.view().why == "budget of the job used up"
    assert job.resume(Budget(tokens=1_000_000))
    job.result(timeout=20)
    assert llm.count == 4


def test_a_job_may_fail_when_its_money_is_spent(fleet: Fleet, llm: FakeLLM) -> None:
    budget = Budget(money=0.5, on_budget="fail")
    job = fleet.submit(caller.job(calls=4, model="priced").within(budget=budget))
    with pytest.raises(JobFailed) as failed:
        job.result(timeout=20)
    assert isinstance(failed.value.error, BudgetReached)
    assert job.view().money >= 0.5
    assert llm.count == 1


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Look until it is so; the journal has no way to be told of all that these tests wait for."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def test_a_retried_step_begins_with_its_own_model_again(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(reply=[Fault("500")] * 4)
    job = fleet.submit(caller, calls=1, model="patient")
    with pytest.raises(JobFailed):
        job.result(timeout=20)
    llm.reset()
    llm.script(reply=None)
    assert job.retry()
    job.result(timeout=20)
    assert [call.model for call in llm.calls] == ["patient"]
