"""Read this first: what a job is, what the two schedulers do, and what you can rely on."""

from __future__ import annotations

from pathlib import Path

from aios_dist import Fleet, Job, JobState, LLMResponse, Plan, fifo, fixed
from tests.fundamentals.agents import booking, trip


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


def test_under_fifo_the_calls_of_agents_take_turns(fleet: Fleet) -> None:
    assert run(fleet, fifo([trip.job(city="Lima"), trip.job(city="Oslo")])) == "A1 B1 A2 B2"


def test_under_fixed_order_an_agent_finishes_before_the_next_begins(fleet: Fleet) -> None:
    assert run(fleet, fixed([trip.job(city="Lima"), trip.job(city="Oslo")])) == "A1 A2 B1 B2"


def test_a_tool_runs_once_though_its_agent_is_run_again_after_each_step(fleet: Fleet, tmp_path: Path) -> None:
    book = tmp_path / "book"
    assert fleet.submit(booking, path=str(book)).result(timeout=20) == "room 7"
    assert book.read_text() == "booked\n"


def test_submitting_the_same_id_twice_is_one_job(fleet: Fleet) -> None:
    first = fleet.submit(trip, city="Lima", id="lima-1")
    again = fleet.submit(trip, city="Lima", id="lima-1")
    assert first.result(timeout=20) == again.result(timeout=20)
    assert again.usage.calls == 2  # not four


def run(fleet: Fleet, plan: Plan) -> str:
    """Run a plan of jobs and give the order in which their calls started: ``A1 B1 A2 B2``."""
    jobs = dict(zip("AB", fleet.submit_plan(plan), strict=True))
    for job in jobs.values():
        job.result(timeout=20)
    started = [(at, f"{name}{n}") for name, job in jobs.items() for n, at in enumerate(starts(job), start=1)]
    return " ".join(label for _, label in sorted(started))


def starts(job: Job) -> list[float]:
    """When each of its calls started, on Redis' clock."""
    return [step.started_at for step in job.steps()]
