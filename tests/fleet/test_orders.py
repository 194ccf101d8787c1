"""The two schedulers, exactly as the seed describes them, on real workers."""

from __future__ import annotations

from itertools import pairwise

from aios_dist import Fleet, JobSpec, Plan, fifo, fixed, hybrid
from aios_dist.testing import FakeLLM
from aios_dist.testing.replies import Reply
from tests.fleet.agents import caller, worker_between
from tests.fleet.conftest import REPLY_S
from tests.fleet.reading import calls, finish, order


def seed(model: str = "one", pause: float | None = None) -> list[JobSpec]:
    """A with three calls, B with two, C with two; where there is a pause, it is C's, between its calls."""
    last = caller.job(calls=2, model=model)
    if pause is not None:
        last = worker_between.job(pause=pause, model=model)
    return [caller.job(calls=3, model=model), caller.job(calls=2, model=model), last]


def run(fleet: Fleet, plan: Plan) -> str:
    jobs = dict(zip("ABC", fleet.submit_plan(plan), strict=True))
    finish(jobs)
    return order(jobs)


def test_fifo_on_one_slot_takes_calls_in_the_order_in_which_they_became_ready(fleet: Fleet) -> None:
    assert run(fleet, fifo(seed())) == "A1 B1 C1 A2 B2 C2 A3"


def test_under_fifo_an_agent_that_works_between_its_calls_is_overtaken(fleet: Fleet, llm: FakeLLM) -> None:
    # Eight reply times are what the machine may lose, over A2 alone, before A3 and C2 change places.
    assert run(fleet, fifo(seed(pause=10 * REPLY_S))) == "A1 B1 C1 A2 B2 A3 C2"


def test_fixed_order_on_one_slot_runs_agent_after_agent(fleet: Fleet) -> None:
    assert run(fleet, fixed(seed(pause=REPLY_S))) == "A1 A2 A3 B1 B2 C1 C2"


def test_fixed_order_runs_one_call_at_a_time_also_on_two_processes_with_eight_slots_each(
    fleet: Fleet, llm: FakeLLM
) -> None:
    jobs = dict(zip("ABC", fleet.submit_plan(fixed(seed("small", pause=REPLY_S))), strict=True))
    finish(jobs)
    assert order(jobs) == "A1 A2 A3 B1 B2 C1 C2"
    steps = sorted((step for job in jobs.values() for step in calls(job)), key=lambda step: step.started_at)
    assert all(before.ended_at <= after.started_at for before, after in pairwise(steps))
    assert llm.max_in_flight == 1


def test_an_agent_may_join_a_fifo_fleet_at_any_moment(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(reply=[Reply(), Reply(latency=1.0)])
    early = fleet.submit(caller, calls=3)
    llm.wait_until(lambda: llm.count == 2)  # its second call is under way
    late = fleet.submit(caller, calls=2)
    jobs = {"A": early, "B": late}
    finish(jobs)
    assert order(jobs) == "A1 A2 B1 A3 B2"


def test_fifo_on_sixteen_slots_of_two_processes_starts_calls_in_the_order_of_becoming_ready(
    fleet: Fleet,
) -> None:
    jobs = fleet.submit_plan(fifo([caller.job(calls=2, model="small") for _ in range(24)]))
    finish({job.id: job for job in jobs})
    steps = sorted((step for job in jobs for step in calls(job)), key=lambda step: step.started_at)
    assert [step.ready_at for step in steps] == sorted(step.ready_at for step in steps)
    assert len({step.worker for step in steps}) == 2


def test_a_hybrid_plan_keeps_fixed_order_between_groups_and_fifo_inside(fleet: Fleet) -> None:
    a, b, c = (caller.job(calls=2) for _ in "ABC")
    assert run(fleet, hybrid([[a, b], [c]])) == "A1 B1 A2 B2 C1 C2"
