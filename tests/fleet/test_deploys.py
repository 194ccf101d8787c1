"""Deploys: the code of agents changes while their jobs are open, and nothing is lost or paid for twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import Fleet, Job, JobParked
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.journal import Wanted
from aios_dist.local.config_file import write_config
from aios_dist.local.machine import WorkerSpec
from aios_dist.local.members import Launch, Member, environment
from aios_dist.testing import FakeLLM
from tests.fleet.reading import wait_for
from tests.releases import settings, settled, unpacked

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.fleet

CODE = """
from aios_dist import agent, llm, signal, tool

def count(text):
    return len(text)

@agent(name="deployed-trip")
async def trip(number: int) -> str:
    await llm(f"Plan trip {number}.", model="small")
    await tool(count, f"{number}")
    await llm(f"Shorten trip {number}.", model="small")
    await signal("go")
    return (await llm(f"Translate trip {number}.", model="small")).text
"""
CHANGED = CODE.replace("Plan trip", "Plan the trip")
MANY = 150
"""Of 500 the same is true (25 s on a quiet machine)."""


class Deployed:
    """A fleet whose workers have the agents' code of a folder each."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.members: list[Member] = []
        self._folder = folder
        self._path = folder / "aios.toml"
        write_config(config, self._path)

    def start(
        self, name: str, code: str, pool: str = "all", config: Path | None = None, **env: str
    ) -> Member:
        """A worker with this code of the agents, and with a configuration of its own where there is one."""
        folder = self._folder / name
        folder.mkdir()
        (folder / "deployed_agents.py").write_text(code, encoding="utf-8")
        launch = Launch(folder, {**environment(config or self._path), **env}, folder)
        member = launch.worker(WorkerSpec(name, pool))
        self.members.append(member)
        wait_for(lambda: (member.check(), member.is_ready)[1])
        return member

    def stop(self, *members: Member) -> None:
        """A warm shutdown, as of a deploy."""
        for member in members:
            member.process.terminate()
        for member in members:
            member.stop(20.0)
            self.members.remove(member)


@pytest.fixture
def deployed(redis_server: EmbeddedRedis, fleets: Any, llm: FakeLLM, tmp_path: Path) -> Iterator[Deployed]:
    config = Config(
        fleet=FleetConfig(
            name=fleets.new_name(),
            redis_url=redis_server.url,
            modules=["deployed_agents"],
            lease=2.0,
            renew=0.5,
            reconcile=0.5,
            shutdown_grace=10.0,
        ),
        models={"small": ModelConfig(base_url=llm.url)},
        pools={"all": PoolConfig(lanes=["llm", "turns"], slots=32)},
    )
    llm.script(latency=0.02)
    made = Deployed(config, tmp_path)
    yield made
    made.stop(*made.members)


@pytest.fixture
def producer(deployed: Deployed) -> Iterator[Fleet]:
    """Somebody who has no code of the agents."""
    fleet = Config(**{**_fields(deployed.config), "fleet": _without_modules(deployed.config.fleet)})
    with Fleet(fleet) as opened:
        yield opened


def _fields(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__struct_fields__}


def _without_modules(fleet: FleetConfig) -> FleetConfig:
    return FleetConfig(**{n: getattr(fleet, n) for n in fleet.__struct_fields__} | {"modules": []})


def submit(producer: Fleet, count: int) -> list[Job]:
    return [producer.submit("deployed-trip", number=number) for number in range(count)]


def parked(producer: Fleet) -> list[str]:
    """Their ids."""
    views = producer._run(lambda fleet: fleet.journal.find_jobs(Wanted(states=("parked",))))
    return [view.id for view in views]


def paid(llm: FakeLLM) -> Counter[str]:
    return Counter(call.messages[-1]["content"] for call in llm.calls)


def states(producer: Fleet, jobs: Sequence[Job]) -> Counter[str]:
    return Counter(view.state.value for view in producer.jobs(len(jobs) + 1))


def wait_long(condition: Callable[[], object]) -> None:
    """As ``wait_for``, of what takes long and costs something to look at."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.5)


def go(jobs: Sequence[Job]) -> None:
    """They wait for it before their last call: none ends before that."""
    for job in jobs:
        job.signal("go")


def begun(producer: Fleet, jobs: Sequence[Job]) -> bool:
    """Each has run its first turn."""
    views = producer.jobs(len(jobs) + 1)
    return len(views) == len(jobs) and all(view.steps for view in views)


@pytest.mark.timeout(240)
def test_of_many_open_jobs_whose_prompt_has_changed_none_fails_and_no_call_is_made_twice(
    deployed: Deployed, producer: Fleet, llm: FakeLLM
) -> None:
    before = deployed.start("before", CODE)
    jobs = submit(producer, MANY)
    wait_long(lambda: llm.count > MANY / 2 and begun(producer, jobs))
    deployed.stop(before)
    assert states(producer, jobs) == {"running": MANY}
    after = deployed.start("after", CHANGED)
    go(jobs)
    wait_long(lambda: len(parked(producer)) == MANY)
    assert states(producer, jobs) == {"paused": MANY}
    assert set(paid(llm).values()) == {1}
    with pytest.raises(JobParked, match=r"the agent's code changed .* \(\w+ → \w+\): step 0 was"):
        jobs[7].result(timeout=5)
    deployed.stop(after)
    deployed.start("again", CODE)
    wait_long(lambda: states(producer, jobs) == {"done": MANY})
    assert paid(llm) == Counter(
        f"{what} trip {number}." for what in ("Plan", "Shorten", "Translate") for number in range(MANY)
    )


@pytest.mark.timeout(120)
def test_old_and_new_code_run_side_by_side_and_each_job_ends_with_what_it_began_with(
    deployed: Deployed, producer: Fleet, llm: FakeLLM
) -> None:
    old = deployed.start("old", CODE)
    first = submit(producer, 40)
    wait_for(lambda: begun(producer, first))
    deployed.start("new", CHANGED)
    second = [producer.submit("deployed-trip", number=number) for number in range(100, 140)]
    go([*first, *second])
    for job in producer.as_completed([*first, *second], 60):
        job.result(timeout=5)
    assert parked(producer) == []
    called = paid(llm)
    assert set(called.values()) == {1}
    assert all(called[f"Plan trip {number}."] for number in range(40))
    deployed.stop(old)
    last = producer.submit("deployed-trip", number=7)
    last.signal("go")
    last.result(timeout=30)
    assert paid(llm)["Plan the trip 7."] == 1


@pytest.mark.timeout(120)
def test_where_the_last_worker_with_the_code_was_killed_its_jobs_are_parked_in_a_moment(
    deployed: Deployed, producer: Fleet, llm: FakeLLM
) -> None:
    old = deployed.start("old", CODE)
    jobs = submit(producer, 5)
    wait_for(lambda: begun(producer, jobs))
    old.kill()
    deployed.members.remove(old)
    deployed.start("new", CHANGED)
    go(jobs)
    for job in jobs:
        with pytest.raises(JobParked):
            job.result(timeout=60)
    assert states(producer, jobs) == {"paused": 5}
    llm.reset()
    assert [job.resume(from_step=0) for job in jobs] == [True] * 5
    go(jobs)
    for job in jobs:
        job.result(timeout=30)
    assert all(paid(llm)[f"Plan the trip {number}."] == 1 for number in range(5))


@pytest.fixture
def before(deployed: Deployed, tmp_path: Path) -> Before:
    """The release before this one, from the repository's history."""
    return Before(deployed, unpacked(tmp_path / "before"), tmp_path)


class Before:
    """The release before this one, with a configuration that it knows."""

    def __init__(self, deployed: Deployed, release: Path, folder: Path) -> None:
        self._deployed = deployed
        self._release = release
        self._config = settings(deployed.config, folder / "release.toml")

    def start(self, name: str, code: str) -> Member:
        """A worker of it."""
        path = settled(self._release, self._config)["PYTHONPATH"]
        return self._deployed.start(name, code, config=self._config, PYTHONPATH=path)


@pytest.mark.timeout(120)
def test_a_release_before_this_one_serves_the_same_jobs_beside_it_and_after_it(
    deployed: Deployed, producer: Fleet, llm: FakeLLM, before: Before
) -> None:
    old = before.start("release", CODE)
    jobs = submit(producer, 40)
    wait_for(lambda: begun(producer, jobs))
    assert not any(view.code for view in producer.jobs(40)), "that one knows no codes"
    new = deployed.start("new", CODE)
    jobs += [producer.submit("deployed-trip", number=number) for number in range(40, 80)]
    go(jobs[:60])
    for job in producer.as_completed(jobs[:60], 60):
        job.result(timeout=5)
    deployed.stop(old)
    go(jobs[60:])
    for job in producer.as_completed(jobs, 60):
        job.result(timeout=5)
    assert states(producer, jobs) == {"done": 80}
    assert set(paid(llm).values()) == {1}
    workers = {step.worker for job in jobs for step in job.steps() if step.worker}
    assert len(workers) == 2
    jobs += [producer.submit("deployed-trip", number=number) for number in range(80, 100)]
    wait_for(lambda: begun(producer, jobs))
    deployed.stop(new)
    before.start("back", CODE)
    go(jobs[80:])
    for job in producer.as_completed(jobs[80:], 60):
        job.result(timeout=5)
    assert states(producer, jobs) == {"done": 100}
    assert set(paid(llm).values()) == {1}
