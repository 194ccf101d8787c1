"""Workers that die in the gaps between two writes, each at its point of the program; another ends their jobs.

The points are ``point("…")`` in the runner. What has none cannot be hit: see ``test_cut_lines.py``.
All die side by side, each on a lane of its own, so that the whole takes as long as one.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aios_dist import Fleet, Job, JobFailed, JobState
from aios_dist.config import PoolConfig
from aios_dist.journal import Event
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.local.members import COMMAND, Launch, Member, environment
from aios_dist.model.specs import JobSpec
from aios_dist.testing import FakeLLM
from aios_dist.worker.faults import EXIT_CODE, VARIABLE
from tests.chaos.agents import calling
from tests.chaos.conftest import LEASE_S, PERIOD_S, ROOT, SLACK_S, small_fleet
from tests.fleet.reading import called
from tests.found import files

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.timeout(120)]

POISON = ("poison-1", "poison-2", "poison-3")
POINTS = ("popped", "claimed", "call", "reply", "committed", "turn", "ticket")
HOOKS = {
    name
    for file in files(ROOT / "aios_dist/worker", "*.py")
    for name in re.findall(r'^\s+point\("([a-z]+)"\)', file.read_text(encoding="utf-8"), re.MULTILINE)
}


@dataclass
class Ward:
    """What happened where workers were told to die. ``died``: Unix time by worker, within 10 ms."""

    fleet: Fleet
    llms: Mapping[str, FakeLLM]
    llm: FakeLLM
    jobs: dict[str, list[Job]]
    died: dict[str, float]
    codes: dict[str, int | None]
    heir_at: float

    def calls(self, point: str) -> Counter[str]:
        """How often each step of the point's jobs was called, as ``job place/step``."""
        places = {job.id: place for place, job in enumerate(self.jobs[point])}
        steps = called(self.llms.get(point, self.llm), *self.jobs[point])
        found = ((key.rsplit("/", 1), count) for key, count in steps.items())
        return Counter({f"{places[job]}/{step}": count for (job, step), count in found})

    def attempts(self, point: str) -> list[list[int]]:
        """The attempts of each step of each job."""
        return [[step.attempt for step in job.steps()] for job in self.jobs[point]]

    def finish(self, point: str) -> None:
        """All the point's jobs end soon, now that a worker is there."""
        assert self.codes[point] == EXIT_CODE
        for job in self.jobs[point]:
            left = self.heir_at + LEASE_S + 2 * PERIOD_S + SLACK_S - time.time()
            assert job.result(timeout=max(1.0, left)) == len(job.steps())

    def ready_again_s(self, point: str) -> float:
        """Seconds from the worker's death until the step that it had held was ready again."""
        (back,) = (e.at for e in self.events(point) if e.what == "released")
        return back - self.died[point]

    def events(self, point: str) -> list[Event]:
        """What happened to the point's first job."""
        return list(self.jobs[point][0].events(timeout=10))


@pytest.fixture(scope="module")
def ward(redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM) -> Iterator[Ward]:
    fake_llm.script(latency=0.05, faults="", reply=None)
    fake_llm.reset()
    with FakeLLM(latency=1.0, faults="500@0") as failing:
        yield from _ward(redis_server, fleets, fake_llm, failing)


def _ward(redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM, failing: FakeLLM) -> Iterator[Ward]:
    armed = {name: name for name in POINTS} | dict.fromkeys(POISON, "claimed")
    lanes = {name: name.partition("-")[0] for name in armed}
    pools = {name: PoolConfig(lanes=[lane], slots=1) for name, lane in lanes.items()}
    pools["turn"] = PoolConfig(lanes=["turn", "turns"], slots=1)
    pools["onlooker"] = PoolConfig(lanes=["nothing"], slots=1)
    pools["heir"] = PoolConfig(lanes=[*sorted(set(lanes.values()) - {"poison"}), "turns"], slots=8)
    config = small_fleet(fleets.new_name(), redis_server.url, fake_llm, pools)
    model = config.models["small"]
    models = {lane: msgspec.structs.replace(model, lane=lane) for lane in set(lanes.values())}
    # A ticket goes apart from its write where a call that failed makes room for another job's.
    models["ticket"] = msgspec.structs.replace(
        models["ticket"], base_url=failing.url, max_in_flight=1, breaker=0, backoff=1.0, backoff_max=1.0
    )
    pools["ticket"] = PoolConfig(lanes=["ticket"], slots=2)
    config = msgspec.structs.replace(config, models=models)
    with (
        LocalFleet(config, [WorkerSpec("onlooker", "onlooker")], embedded_redis=False, cwd=ROOT) as machine,
        Fleet(machine.config) as fleet,
    ):
        folder = machine.dir / "armed"
        folder.mkdir()
        launch = Launch(folder, environment(machine.config_path), ROOT)
        workers = {
            name: launch.start(name, [*COMMAND, "worker", name, "--name", f"{name}@%h"], **{VARIABLE: point})
            for name, point in armed.items()
        }
        try:
            _wait(lambda: all(member.is_ready for member in workers.values()), 60.0)
            jobs = {name: _submit(fleet, name) for name in {*POINTS, "poison"} & {*models}}
            died = _deaths({n: m for n, m in workers.items() if n not in POISON})
            machine.start_workers([WorkerSpec("heir", "heir")])
            heir_at = time.time()
            died |= _deaths({n: workers[n] for n in POISON})
            codes = {name: member.process.returncode for name, member in workers.items()}
            yield Ward(fleet, {"ticket": failing}, fake_llm, jobs, died, codes, heir_at)
        finally:
            for member in workers.values():
                member.kill()


def _submit(fleet: Fleet, point: str) -> list[Job]:
    if point == "ticket":
        return fleet.submit_many([calling.job(name=n, calls=1, model=point) for n in ("one", "two")])
    if point == "turn":  # a job that comes by name only: its turn 0 is a worker's
        return fleet.submit_many(
            [JobSpec(agent=calling.name, input={"name": "turn", "calls": 2, "model": point})]
        )
    return [fleet.submit(calling, name=point, calls=2, model=point)]


def _deaths(workers: Mapping[str, Member]) -> dict[str, float]:
    died: dict[str, float] = {}

    def look() -> bool:
        died.update({n: time.time() for n, m in workers.items() if m.ended and n not in died})
        return len(died) == len(workers)

    _wait(look, 3 * (LEASE_S + PERIOD_S) + 10.0)
    return died


def _wait(ready: Any, within: float) -> None:
    end = time.monotonic() + within
    while not ready():
        assert time.monotonic() < end, f"not within {within:g} s"
        time.sleep(0.01)


def test_the_worker_has_each_point() -> None:
    assert set(POINTS) == HOOKS


def test_a_worker_that_dies_between_the_ticket_and_the_claim_costs_nothing(ward: Ward) -> None:
    ward.finish("popped")
    assert ward.attempts("popped") == [[1, 1]]
    assert ward.calls("popped") == Counter({"0/0": 1, "0/1": 1})


@pytest.mark.parametrize("point", ["claimed", "call"])
def test_a_worker_that_dies_between_the_claim_and_the_call_costs_a_lease(ward: Ward, point: str) -> None:
    ward.finish(point)
    assert ward.attempts(point) == [[2, 1]]
    assert ward.calls(point) == Counter({"0/0": 1, "0/1": 1})
    assert ward.ready_again_s(point) < LEASE_S + PERIOD_S + SLACK_S


def test_a_worker_that_dies_between_the_reply_and_the_commit_costs_one_call(ward: Ward) -> None:
    ward.finish("reply")
    assert ward.attempts("reply") == [[2, 1]]
    assert ward.calls("reply") == Counter({"0/0": 2, "0/1": 1})
    assert ward.ready_again_s("reply") < LEASE_S + PERIOD_S + SLACK_S


def test_a_worker_that_dies_behind_its_commit_costs_a_lease_of_what_its_slot_was_to_go_on_with(
    ward: Ward,
) -> None:
    ward.finish("committed")
    assert ward.attempts("committed") == [[1, 2]]
    assert ward.calls("committed") == Counter({"0/0": 1, "0/1": 1})


def test_a_worker_that_dies_between_the_turn_and_its_steps_asks_for_nothing_twice(ward: Ward) -> None:
    ward.finish("turn")
    assert ward.attempts("turn") == [[1, 1]]
    assert ward.calls("turn") == Counter({"0/0": 1, "0/1": 1})
    assert ward.ready_again_s("turn") < LEASE_S + PERIOD_S + SLACK_S


def test_a_worker_that_dies_between_what_makes_room_and_the_ticket_of_who_gets_it_costs_nothing(
    ward: Ward,
) -> None:
    ward.finish("ticket")
    waited = ward.jobs["ticket"][1].events(timeout=10)
    # On a busy machine the reconciler's look may have given the ticket in between, to the slot beside it.
    taken = sum(event.what == "released" for event in waited)
    assert ward.attempts("ticket") == [[2], [1 + taken]]
    calls = ward.calls("ticket")
    assert calls["0/0"] == 2
    assert 1 <= calls["1/0"] <= 1 + taken


def test_a_step_that_kills_three_workers_is_given_up_and_its_job_says_so(ward: Ward) -> None:
    (job,) = ward.jobs["poison"]
    with pytest.raises(JobFailed, match="lost") as failed:
        job.result(timeout=LEASE_S + 2 * PERIOD_S + SLACK_S)
    assert type(failed.value.error).__name__ == "WorkerLost"
    assert job.status() is JobState.FAILED
    assert [ward.codes[name] for name in POISON] == [EXIT_CODE] * 3
    assert [letter.step for letter in ward.fleet.dead_letters() if letter.job == job.id] == ["0"]
    assert ward.calls("poison") == Counter()
