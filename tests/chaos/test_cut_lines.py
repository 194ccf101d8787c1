"""The gaps between a verb and what is sent behind it: the line breaks there, at every verb.

Several gaps that one could fear do not exist: one verb writes an outcome together with the next steps, and a
job's end together with what its plan admits. What is left is the tickets behind a verb, and its answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis

from aios_dist import Fleet, Job, fixed
from aios_dist.config import PoolConfig
from aios_dist.journal import scripts
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.model.specs import JobSpec
from aios_dist.testing import FakeLLM
from tests.chaos.agents import calling
from tests.chaos.conftest import LEASE_S, PERIOD_S, ROOT, SLACK_S, small_fleet
from tests.chaos.line import Line
from tests.fleet.reading import called
from tests.verbs import load_verbs

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.fleet
SOON_S = PERIOD_S + SLACK_S
"""What a lost ticket may cost."""
VERBS = scripts.load()


@pytest.fixture(scope="module")
def line(redis_server: EmbeddedRedis) -> Iterator[Line]:
    with Line(redis_server.port) as made, redis.Redis.from_url(redis_server.url) as client:
        load_verbs(client)
        yield made


@pytest.fixture(scope="module")
def machine(line: Line, fleets: Any, fake_llm: FakeLLM) -> Iterator[LocalFleet]:
    """One worker, and a producer, at the far end of the line."""
    pools = {"all": PoolConfig(lanes=["llm", "turns"], slots=4)}
    config = small_fleet(fleets.new_name(), line.url, fake_llm, pools)
    with LocalFleet(config, [WorkerSpec("far", "all")], embedded_redis=False, cwd=ROOT) as started:
        yield started


@pytest.fixture(scope="module")
def far(machine: LocalFleet) -> Iterator[Fleet]:
    with Fleet(machine.config) as opened:
        yield opened


@pytest.fixture
def near(machine: LocalFleet, redis_server: EmbeddedRedis) -> Iterator[Fleet]:
    """The same fleet, on a line that does not break."""
    pools = machine.config.pools
    straight = small_fleet(machine.config.fleet.name, redis_server.url, _Url(machine), pools)
    with Fleet(straight) as opened:
        yield opened


class _Url(FakeLLM):
    """Only the address: this producer calls nobody."""

    def __init__(self, machine: LocalFleet) -> None:
        self._url = machine.config.models["small"].base_url or ""

    @property
    def url(self) -> str:
        return self._url


def once_each(*jobs: Job) -> Counter[str]:
    return Counter({f"{job.id}/{step.number}": 1 for job in jobs for step in job.steps()})


def test_a_claim_whose_answer_is_lost_is_answered_once_more(near: Fleet, llm: FakeLLM, line: Line) -> None:
    line.cut_behind(VERBS["claim"])
    job = near.submit(calling, name="claim", calls=2, model="small")
    assert job.result(timeout=SOON_S) == 2
    assert line.cuts == 1
    assert [step.attempt for step in job.steps()] == [1, 1]
    assert called(llm, job) == once_each(job)


def test_a_commit_whose_answer_is_lost_repeats_no_call_and_its_slot_goes_on(
    near: Fleet, llm: FakeLLM, line: Line
) -> None:
    line.cut_behind(VERBS["onward"])
    job = near.submit(calling, name="commit", calls=3, model="small")
    assert job.result(timeout=SOON_S) == 3
    assert line.cuts == 1
    assert [step.attempt for step in job.steps()] == [1, 1, 1]
    assert called(llm, job) == once_each(job)


def test_a_turn_whose_tickets_and_answer_are_lost_asks_for_nothing_twice(
    near: Fleet, llm: FakeLLM, line: Line
) -> None:
    line.cut_behind(VERBS["advance"])
    by_name = JobSpec(agent=calling.name, input={"name": "turn", "calls": 2, "model": "small"})
    (job,) = near.submit_many([by_name])  # turn 0 is the worker's
    assert job.result(timeout=LEASE_S + SOON_S) == 2
    assert (line.cuts, line.lost[:1]) == (
        1,
        ["LPUSH"],
    )  # (what else the worker asked just then may be lost too)
    assert called(llm, job) == once_each(job)


def test_a_step_given_back_for_later_comes_back_though_the_answer_was_lost(
    near: Fleet, llm: FakeLLM, line: Line
) -> None:
    llm.script(faults="500@0")
    line.cut_behind(VERBS["release"])
    job = near.submit(calling, name="release", calls=2, model="small")
    assert job.result(timeout=SOON_S) == 2
    assert line.cuts == 1
    assert called(llm, job) == Counter({f"{job.id}/0": 2, f"{job.id}/1": 1})


def test_the_renewal_of_leases_may_be_lost_and_the_call_goes_on(
    near: Fleet, llm: FakeLLM, line: Line
) -> None:
    llm.script(latency=2.5 * LEASE_S)
    job = near.submit(calling, name="renew", calls=1, model="small")
    llm.wait_until(lambda: llm.in_flight == 1)
    line.cut_behind(VERBS["renew"])
    assert job.result(timeout=2.5 * LEASE_S + SOON_S) == 1
    assert line.cuts == 1
    assert [step.attempt for step in job.steps()] == [1]
    assert called(llm, job) == once_each(job)


def test_the_end_of_a_job_and_what_its_plan_admits_are_one_write(
    near: Fleet, llm: FakeLLM, line: Line
) -> None:
    line.cut_behind(VERBS["onward"], passage=2)  # the one that ends the first job
    first, second = (calling.job(name=n, calls=2, model="small") for n in ("one", "two"))
    jobs = near.submit_plan(fixed([first, second]))
    jobs[0].result(timeout=SOON_S)
    assert [step.state for step in jobs[1].steps()] != ["pending"]
    assert [job.result(timeout=2 * SOON_S) for job in jobs] == [2, 2]
    assert line.cuts == 1
    assert called(llm, *jobs) == once_each(*jobs)


def test_a_submission_whose_tickets_and_answer_are_lost_is_one_job(
    far: Fleet, llm: FakeLLM, line: Line
) -> None:
    far.lanes()  # the producer is connected
    line.cut_behind(VERBS["submit"])
    jobs = far.submit_many([calling.job(name=n, calls=2, model="small") for n in ("here", "there")])
    assert [job.result(timeout=2 * SOON_S) for job in jobs] == [2, 2]
    assert line.cuts == 1
    assert called(llm, *jobs) == once_each(*jobs)


def test_a_plan_whose_tickets_and_answer_are_lost_is_one_plan(far: Fleet, llm: FakeLLM, line: Line) -> None:
    far.lanes()
    line.cut_behind(VERBS["submit"])
    members = [calling.job(name=n, calls=1, model="small") for n in ("first", "second", "third")]
    jobs = far.submit_plan(fixed(members))
    assert [job.result(timeout=3 * SOON_S) for job in jobs] == [1, 1, 1]
    assert line.cuts == 1
    assert called(llm, *jobs) == once_each(*jobs)
