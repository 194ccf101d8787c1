"""Two machines on a network of our own, one of which is cut off while it calls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aios_dist import Fleet, Job
from aios_dist.config import Config, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.local.members import Member
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.testing import FakeLLM
from tests.fleet.agents import caller
from tests.fleet.conftest import fleet_config
from tests.fleet.hosts import Host, Network, NotAllowed, network
from tests.fleet.reading import called, calls

LEASE_S = 1.5
REPLY_S = 0.1
SLOTS = 2
AWAY = r"(Redis at .* (cannot be reached|does not answer))"
"""What a worker says of a Redis that is away."""
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Site:
    """A machine and the worker on it."""

    host: Host
    worker: Member
    id: str


@dataclass(frozen=True)
class Sites:
    """Both machines, the fake LLM and the fleet, seen from the producer's machine."""

    both: list[Site]
    machine: LocalFleet
    llm: FakeLLM
    fleet: Fleet

    def that_calls(self, job: Job) -> tuple[Site, Site]:
        """The site that has the job's step in flight, and the other one."""
        worker = calls(job)[0].worker
        here = [site for site in self.both if site.id == worker]
        assert here, f"{worker} is none of {[site.id for site in self.both]}"
        return here[0], next(site for site in self.both if site is not here[0])

    def answers(self, job: Job) -> Counter[str]:
        """How often each call of the job was sent to the LLM."""
        return called(self.llm, job)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Network]:
    try:
        with network(2) as made:
            yield made
    except NotAllowed as why:
        pytest.skip(f"no network namespaces on this machine: {why}")


@pytest.fixture
def sites(hosts: Network) -> Iterator[Sites]:
    """Redis and the fake LLM on the producer's side of the cables, a worker at each of the other ends."""
    bound = {"bind": f"127.0.0.1 {hosts.address}", "protected-mode": "no"}
    with EmbeddedRedis(settings=bound) as redis, FakeLLM(host=hosts.address, latency=REPLY_S) as llm:
        llm.script(reply=lambda call: f"answer {call.number}")
        config = Config(
            fleet=fleet_config(
                "hosts",
                f"redis://{hosts.address}:{redis.port}/0",
                LEASE_S,
                reconcile=0.3,
                shutdown_grace=2.0,
                redis_timeout=1.0,
            ),
            models={"small": ModelConfig(base_url=llm.url)},
            pools={"all": PoolConfig(lanes=["llm", "turns"], slots=SLOTS)},
        )
        with (
            LocalFleet(config, [], embedded_redis=False, cwd=ROOT) as machine,
            Fleet(machine.config) as fleet,
        ):
            both = []
            for number, host in enumerate(hosts.hosts):
                worker = host.start_worker(machine, WorkerSpec(f"site-{number}", "all"))
                both.append(Site(host, worker, machine.registered(worker.name).id))
            yield Sites(both, machine, llm, fleet)


@pytest.mark.timeout(90)
def test_a_step_of_a_machine_that_is_cut_off_is_taken_over_and_its_late_answer_is_fenced(
    sites: Sites,
) -> None:
    sites.llm.script(latency=4 * LEASE_S)
    job = sites.fleet.submit(caller, calls=1, model="small")
    sites.llm.wait_until(lambda: sites.llm.in_flight == 1)
    cut, other = sites.that_calls(job)
    sites.llm.script(latency=REPLY_S)
    with cut.host.unreachable():
        assert job.result(timeout=20) == "answer 1"
        assert calls(job)[0].worker == other.id
        sites.llm.wait_until(lambda: sites.llm.in_flight == 0, timeout=20)
        wait_for(lambda: cut.worker.wrote(AWAY), cut)
    wait_for(lambda: cut.worker.wrote(r"(The outcome of \S+ came too late)"), cut)
    assert job.result() == "answer 1"
    assert (calls(job)[0].worker, calls(job)[0].attempt) == (other.id, 2)
    assert job.usage.calls == 2  # (both were paid for)
    assert [event.what for event in job.events() if event.step == 0].count("done") == 1
    assert sites.answers(job) == {f"{job.id}/0": 2}
    takes_steps_again(sites, cut)
    reports_briefly(cut)


@pytest.mark.timeout(90)
def test_the_late_answer_of_a_machine_that_was_cut_off_is_kept_when_nobody_has_taken_the_step(
    sites: Sites,
) -> None:
    sites.llm.script(latency=2 * LEASE_S)
    job = sites.fleet.submit(caller, calls=2, model="small")
    sites.llm.wait_until(lambda: sites.llm.in_flight == 1)
    cut, other = sites.that_calls(job)
    sites.machine.stop_workers([other.worker], grace_s=20)
    sites.llm.script(latency=REPLY_S)
    with cut.host.unreachable():
        sites.llm.wait_until(lambda: sites.llm.in_flight == 0, timeout=20)
        wait_for(lambda: sites.machine.ask(lease_is_over), cut)
        wait_for(lambda: cut.worker.wrote(AWAY), cut)
    assert job.result(timeout=30) == "answer 1"
    assert sites.answers(job) == {f"{job.id}/0": 1, f"{job.id}/1": 1}
    first, second = calls(job)
    assert (first.worker, first.attempt, second.worker) == (cut.id, 1, cut.id)  # (the next claim may be lost)
    takes_steps_again(sites, cut)
    reports_briefly(cut)


async def lease_is_over(journal: object) -> bool:
    """No step is held by a lease that lasts."""
    from aios_dist.journal import Journal

    assert isinstance(journal, Journal)
    now = await journal.now()
    return not await journal.connection.command("ZCOUNT", journal.keys.leases, int(now * 1e6), "+inf")


def takes_steps_again(sites: Sites, site: Site) -> None:
    """Full load on all slots reaches this machine too, and it is still the same process."""
    sites.llm.script(latency=0.3)
    end = time.monotonic() + 30
    while True:
        jobs = [sites.fleet.submit(caller, calls=1, model="small") for _ in range(2 * SLOTS + 1)]
        assert len(list(sites.fleet.as_completed(jobs, timeout=20))) == len(jobs)
        if any(calls(job)[0].worker == site.id for job in jobs):
            break
        assert time.monotonic() < end, f"it takes no steps:\n{site.worker.last_words()}"
    assert not site.worker.ended
    controlled(sites, site)


def controlled(sites: Sites, site: Site) -> None:
    """Word of a cancelled job reaches this machine: its call is stopped, though it would take long."""
    sites.llm.script(latency=60.0)
    jobs = [sites.fleet.submit(caller, calls=1, model="small") for _ in range(2 * SLOTS)]
    workers = len(sites.machine.workers)
    sites.llm.wait_until(lambda: sites.llm.in_flight == workers * SLOTS, timeout=20)
    for job in jobs:
        job.cancel()
    sites.llm.wait_until(lambda: sites.llm.in_flight == 0, timeout=20)


def reports_briefly(site: Site) -> None:
    """No traceback, and no flood."""
    log = site.worker.log.read_text()
    assert "Traceback" not in log, log
    assert len(log.splitlines()) < 40, log


def wait_for(condition: Callable[[], object], site: Site, seconds: float = 30.0) -> None:
    """Look until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it never came to that:\n{site.worker.last_words()}"
        time.sleep(0.05)
