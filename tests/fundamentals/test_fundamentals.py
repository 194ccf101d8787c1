"""Read this first: what a job is, what the schedulers do, and what you can rely on."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios_dist import Budget, Fleet, Job, JobFailed, JobSpec, JobState, LLMResponse, Plan, fifo, fixed, hybrid
from aios_dist.errors import BadRequest
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.testing import FakeLLM
from tests.fundamentals.agents import booking, complaint, trip

pytestmark = pytest.mark.real_starts

# What a job is


def test_a_job_is_one_run_of_an_agent_and_its_steps_are_kept(fleet: Fleet) -> None:
    job = fleet.submit(trip, city="Lima")  # returns at once; a worker makes the calls
    answer = job.result(timeout=20)
    first, second = job.steps()
    assert job.status() is JobState.DONE
    assert first.outcome is not None
    assert second.outcome is not None
    assert isinstance(second.outcome.response, LLMResponse)
    assert second.outcome.response.text == answer
    assert first.ended_at <= second.started_at  # the second question holds the first answer
    assert job.usage.calls == 2


def test_submitting_the_same_id_twice_is_one_job(fleet: Fleet) -> None:
    first = fleet.submit(trip, city="Lima", id="lima-1")
    again = fleet.submit(trip, city="Lima", id="lima-1")
    assert first.result(timeout=20) == again.result(timeout=20)
    assert again.usage.calls == 2  # not four


def test_a_tool_runs_once_though_its_agent_is_run_again_after_each_step(fleet: Fleet, tmp_path: Path) -> None:
    book = tmp_path / "book"
    assert fleet.submit(booking, path=str(book)).result(timeout=20) == "room 7"
    assert book.read_text() == "booked\n"


# Who goes first


def test_under_fifo_the_calls_of_agents_take_turns(fleet: Fleet) -> None:
    assert run(fleet, fifo([trip.job(city="Lima"), trip.job(city="Oslo")])) == "A1 B1 A2 B2"


def test_under_fixed_order_an_agent_finishes_before_the_next_begins(fleet: Fleet) -> None:
    assert run(fleet, fixed([trip.job(city="Lima"), trip.job(city="Oslo")])) == "A1 A2 B1 B2"


def test_under_hybrid_groups_follow_each_other_and_their_agents_take_turns(fleet: Fleet) -> None:
    cities = [trip.job(city=city) for city in ("Lima", "Oslo", "Rome")]
    assert run(fleet, hybrid([cities[:2], cities[2:]])) == "A1 B1 A2 B2 C1 C2"


def test_a_policy_says_who_waits_and_can_be_changed_while_the_fleet_runs(fleet: Fleet, llm: FakeLLM) -> None:
    fleet.set_lane("llm", policy="priority", oldest_every=0)
    low, high = (trip.job(city="Lima", calls=1).within(priority=priority) for priority in (1, 8))
    first, second = behind_another(fleet, llm, low, high)
    assert starts(second) < starts(first)


def test_a_tenant_that_submits_much_keeps_no_other_waiting(fleet: Fleet, llm: FakeLLM) -> None:
    fleet.set_lane("llm", fair="tenant")
    many = [trip.job(city="Lima", calls=1, tenant="many") for _ in range(4)]
    *_, last_of_many, one = behind_another(fleet, llm, *many, trip.job(city="Oslo", calls=1, tenant="one"))
    assert starts(one) < starts(last_of_many)


# What you can rely on


def test_what_a_killed_worker_had_goes_on_elsewhere_and_nothing_answered_is_asked_again(
    fleet: Fleet, machine: LocalFleet, llm: FakeLLM
) -> None:
    llm.script(faults="hang@1")
    job = fleet.submit(trip, city="Lima", model="large")
    llm.wait_until(lambda: llm.count == 2)
    machine.kill("four")
    machine.start_workers([WorkerSpec("four", "four")])
    job.result(timeout=20)
    asked = [call.messages[-1]["content"] for call in llm.calls]
    assert asked == ["Tell me more about Lima", asked[1], asked[1]]


def test_a_call_that_may_get_better_is_tried_again(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(faults="429@0", retry_after=0.2)
    fleet.submit(trip, city="Lima", calls=1).result(timeout=20)
    refused, answered = llm.calls
    assert (refused.status, answered.status) == (429, 200)
    assert answered.start - refused.start >= 0.2  # as the provider asked


def test_a_call_that_cannot_get_better_fails_the_job_and_retry_goes_on_from_there(
    fleet: Fleet, llm: FakeLLM
) -> None:
    llm.script(faults="400@1")
    job = fleet.submit(trip, city="Lima")
    with pytest.raises(JobFailed) as failed:
        job.result(timeout=20)
    assert isinstance(failed.value.error, BadRequest)
    assert job.retry()
    job.result(timeout=20)
    assert llm.count == 3  # the first was answered, and is not asked again


def test_a_paused_job_keeps_what_was_under_way_and_goes_on_when_told(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(latency=1.0)
    job = fleet.submit(trip, city="Lima")
    llm.wait_until(lambda: llm.in_flight == 1)
    llm.script(latency=0.05)
    assert job.pause()
    llm.wait_until(lambda: llm.in_flight == 0)
    assert (job.status(), llm.count) == (JobState.PAUSED, 1)
    job.resume()
    job.result(timeout=20)
    assert llm.count == 2


def test_a_job_waits_for_a_signal_in_no_process_at_all(fleet: Fleet, llm: FakeLLM) -> None:
    job = fleet.submit(complaint)
    llm.wait_until(lambda: llm.count == 1 and llm.in_flight == 0)
    job.signal("review", "shorter")
    job.result(timeout=20)
    assert str(llm.calls[-1].messages[-1]["content"]).endswith(", but shorter")


def test_a_fork_has_the_history_up_to_a_step_and_does_not_pay_it_again(fleet: Fleet, llm: FakeLLM) -> None:
    job = fleet.submit(trip, city="Lima")
    job.result(timeout=20)
    fork = job.fork(1)
    fork.result(timeout=20)
    assert llm.count == 3
    assert fork.steps()[0].outcome == job.steps()[0].outcome


def test_a_limit_holds_over_the_whole_fleet(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(latency=0.2)
    jobs = [fleet.submit(trip, city=str(n), calls=1, model="large") for n in range(6)]
    assert len(list(fleet.as_completed(jobs, timeout=20))) == 6
    assert llm.max_in_flight == 2  # of four slots


def test_a_job_that_has_spent_its_budget_pauses_until_it_gets_more(fleet: Fleet, llm: FakeLLM) -> None:
    job = fleet.submit(trip.job(city="Lima").within(budget=Budget(tokens=1)))
    next(event for event in job.events(timeout=20) if event.what == "paused")
    assert llm.count == 1  # what was under way is paid out
    job.resume(budget=Budget(tokens=10_000))
    job.result(timeout=20)
    assert llm.count == 2


def run(fleet: Fleet, plan: Plan) -> str:
    """Run a plan of jobs and give the order in which their calls started: ``A1 B1 A2 B2``."""
    jobs = dict(zip("ABC", fleet.submit_plan(plan), strict=False))
    for job in jobs.values():
        job.result(timeout=20)
    started = [(at, f"{name}{n}") for name, job in jobs.items() for n, at in enumerate(starts(job), start=1)]
    return " ".join(label for _, label in sorted(started))


def behind_another(fleet: Fleet, llm: FakeLLM, *specs: JobSpec) -> list[Job]:
    """Submit jobs while the only slot is taken, so that all of them wait; give them when they have ended."""
    llm.script(latency=60.0)
    other = fleet.submit(trip, city="somewhere", calls=1)
    llm.wait_until(lambda: llm.in_flight == 1)
    llm.script(latency=0.05)
    jobs = fleet.submit_many(specs)
    other.cancel()
    assert len(list(fleet.as_completed(jobs, timeout=20))) == len(jobs)
    return jobs


def starts(job: Job) -> list[float]:
    """When each of its calls started, on Redis' clock."""
    return [step.started_at for step in job.steps()]
