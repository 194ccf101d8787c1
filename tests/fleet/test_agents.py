"""What agents can rely on, on real workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from aios_dist import Fleet, JobCancelled, JobFailed, JobParked, JobState, ToolError, UsageError
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.testing import CLIENT_LEFT, FakeLLM
from tests.fleet.agents import caller, careful, draws, fan_out, hurried, tool_user, waits_for_a_child
from tests.fleet.reading import calls, wait_for

MANY = 500


def test_gather_has_its_branches_in_flight_together_and_keeps_their_order(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(latency=1.0, reply={f"branch {n}": f"answer {n}" for n in range(5)})
    job = fleet.submit(fan_out, branches=5)
    llm.wait_until(lambda: llm.in_flight == 5)
    assert job.result(timeout=20) == [f"answer {n}" for n in range(5)]


def test_a_tool_runs_once_however_often_the_program_is_replayed(fleet: Fleet, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert fleet.submit(tool_user, path=str(trace)).result(timeout=20) == [1]
    assert trace.read_text() == "ran\n"


def test_on_one_worker_too_an_agent_that_does_not_repeat_itself_is_parked_and_its_author_sees_the_line(
    fleet: Fleet,
) -> None:
    job = fleet.submit(draws)
    with pytest.raises(JobParked, match=r"same code \(\w+\): not deterministic") as parked:
        job.result(timeout=20)
    assert 'await llm(f"draft {tag}", model="one")' in parked.value.reason
    job.cancel()


def test_a_tool_does_not_wait_for_a_job_of_its_workers_fleet(fleet: Fleet) -> None:
    with pytest.raises(JobFailed, match=r"A tool cannot wait for a job \(result\(\)\)") as failed:
        fleet.submit(waits_for_a_child).result(timeout=20)
    assert isinstance(failed.value.error, ToolError)


def test_a_wait_may_be_given_up_and_the_first_answer_taken(fleet: Fleet) -> None:
    job = fleet.submit(hurried)
    wait_for(lambda: any(step.outcome for step in calls(job)))
    job.signal("review", "fine")
    assert job.result(timeout=20) == ["It was not done within 0.2 s.", "an answer", "fine"]
    assert [step.kind for step in job.steps()] == ["sleep", "signal", "llm", "llm"]


def test_an_agent_may_catch_the_failure_of_a_call_and_go_on(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(faults="400@0")
    job = fleet.submit(careful)
    assert job.result(timeout=20).startswith("BadRequest, then ")
    assert [step.state for step in calls(job)] == ["failed", "done"]


def test_the_same_id_twice_is_the_same_job(fleet: Fleet, llm: FakeLLM) -> None:
    first = fleet.submit(caller, calls=2, model="small", id="twice")
    second = fleet.submit(caller, calls=2, model="small", id="twice")
    assert first.result(timeout=20) == second.result(timeout=20)
    assert llm.count == 2


def test_the_same_id_for_other_work_is_refused(fleet: Fleet) -> None:
    fleet.submit(caller, calls=1, model="small", id="taken").result(timeout=20)
    with pytest.raises(UsageError, match="taken"):
        fleet.submit(caller, calls=2, model="small", id="taken")


def test_cancelling_a_job_stops_its_call_at_the_provider(fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(latency=30.0)
    job = fleet.submit(caller, calls=2, model="small")
    llm.wait_until(lambda: llm.in_flight == 1)
    assert job.cancel()
    llm.wait_until(lambda: llm.in_flight == 0)
    assert [call.status for call in llm.calls] == [CLIENT_LEFT]
    assert job.status() is JobState.CANCELLED
    with pytest.raises(JobCancelled):
        job.result(timeout=20)
    assert not job.cancel()


def test_hundreds_of_jobs_are_awaited_over_two_connections(
    fleet: Fleet, llm: FakeLLM, redis_client: redis.Redis
) -> None:
    llm.script(latency=0.01)
    fleet.submit(caller, calls=1, model="small").result(timeout=20)  # both connections are open from here on
    before = len(redis_client.client_list())
    jobs = fleet.submit_many([caller.job(calls=1, model="small") for _ in range(MANY)])
    most = 0
    seen = set()
    for number, job in enumerate(fleet.as_completed(jobs, timeout=40)):
        seen.add(job.id)
        if number % 100 == 0:
            most = max(most, len(redis_client.client_list()))
    assert seen == {job.id for job in jobs}
    assert most <= before


def test_a_wide_gather_is_not_read_again_for_each_of_its_branches(
    fleet: Fleet, llm: FakeLLM, redis_server: EmbeddedRedis
) -> None:
    """Its program is one for a worker and follows the journal: each reading would be 100 kB."""
    branches = 200
    with redis.Redis.from_url(redis_server.url) as client:
        before = client.info("stats")["total_net_output_bytes"]
        assert len(fleet.submit(fan_out, branches=branches).result(timeout=60)) == branches
        sent = client.info("stats")["total_net_output_bytes"] - before
    assert sent < 2_000_000
