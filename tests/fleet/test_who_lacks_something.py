"""Workers that lack a model, the agent's code, or a policy that a newer version has: what they lack waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import redis

from aios_dist import Fleet, JobFailed
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.journal import Journal
from aios_dist.journal.keys import Keys
from aios_dist.local.config_file import write_config
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.local.members import Launch, Member, environment
from aios_dist.testing import FakeLLM
from tests.fleet.odd import plain_tool, says, two_models
from tests.fleet.reading import called, wait_for

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.fleet

ROOT = Path(__file__).parents[2]


class Versions:
    """A fleet whose machines have different versions of aios.toml."""

    def __init__(self, local: LocalFleet, folder: Path) -> None:
        self.local = local
        self._folder = folder

    def start(self, name: str, pool: str, config: Config) -> Member:
        """A worker with a configuration of its own."""
        path = self._folder / f"{name}.toml"
        write_config(config, path)
        member = Launch(self._folder, environment(path), ROOT).worker(WorkerSpec(name, pool))
        self.local.members.append(member)
        wait_for(lambda: (member.check(), member.is_ready)[1])
        return member


@pytest.fixture(scope="module")
def old(redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM) -> Config:
    return Config(
        fleet=FleetConfig(
            name=fleets.new_name(),
            redis_url=redis_server.url,
            modules=["tests.fleet.odd"],
            default_model="small",
            lease=1.5,
            renew=0.4,
            reconcile=0.3,
            shutdown_grace=2.0,
        ),
        models={"small": ModelConfig(base_url=fake_llm.url)},
        pools={"llm": PoolConfig(lanes=["llm"], slots=4), "turns": PoolConfig(lanes=["turns"], slots=2)},
    )


@pytest.fixture(scope="module")
def new(old: Config, fake_llm: FakeLLM) -> Config:
    """With a model more on the same lane, and one on a lane of its own."""
    more = {
        "newer": ModelConfig(base_url=fake_llm.url),
        "big": ModelConfig(base_url=fake_llm.url, lane="big"),
    }
    pools = {**old.pools, "big": PoolConfig(lanes=["big"], slots=2)}
    return msgspec.structs.replace(old, models={**old.models, **more}, pools=pools)


@pytest.fixture(scope="module")
def versions(old: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    bare = msgspec.structs.replace(old, fleet=msgspec.structs.replace(old.fleet, modules=[]))
    with LocalFleet(old, [WorkerSpec("old", "llm")], embedded_redis=False, cwd=ROOT) as local:
        made = Versions(local, tmp_path_factory.mktemp("versions"))
        made.start("no-code", "turns", bare)
        yield made


@pytest.fixture
def fleet_of_new(versions: Versions, new: Config, llm: FakeLLM) -> Iterator[Fleet]:
    llm.script(latency=0.02)
    with Fleet(new) as opened:
        yield opened


def test_a_tool_waits_for_a_worker_with_its_code_and_no_loop_gets_hot(
    fleet_of_new: Fleet, versions: Versions, old: Config, tmp_path: Path
) -> None:
    jobs = [fleet_of_new.submit(plain_tool, path=str(tmp_path / f"t{n}")) for n in range(4)]
    wait_for(lambda: all(job.steps()[0].state == "ready" for job in jobs))
    with redis.Redis.from_url(old.fleet.redis_url) as client:
        verbs = lambda: int(client.info("commandstats")["cmdstat_fcall"]["calls"])  # noqa: E731
        before = verbs()
        time.sleep(1.0)  # what the worker without the code does meanwhile
        assert verbs() - before < 200
    assert [job.steps()[0].attempt for job in jobs] == [0] * 4
    versions.start("with-code", "turns", old)
    assert [job.result(timeout=20) for job in jobs] == [1] * 4
    assert [job.steps()[0].attempt for job in jobs] == [1] * 4


def test_what_nobody_understands_in_the_registry_and_in_a_lanes_rules_stops_nobody(
    fleet_of_new: Fleet, versions: Versions, old: Config, llm: FakeLLM
) -> None:
    keys = Keys(old.fleet.name)
    odd = {
        "worker/new@host:1": '{"id":"new"}',
        "worker/": "",
        "gateway/x": "v2",
        "model/odd": b"\xff",
        "agent/a": "{",
    }
    rules = {"oldest": "often", "fair": b"\xff\xfe", "hand": "perhaps"}
    with redis.Redis.from_url(old.fleet.redis_url) as client:
        before = client.hmget(keys.lane("llm"), *rules)
        client.hset(keys.registry, mapping=odd)
        client.hset(keys.lane("llm"), mapping=rules)
        try:
            llm.script(latency=2.0)  # longer than a lease: they are renewed
            jobs = [fleet_of_new.submit(says, text=f"beside {n}") for n in range(3)]
            beside = versions.start("beside", "llm", old)
            with Fleet(old) as producer:
                jobs.append(producer.submit(says, text="of a new producer"))
                for job in jobs:
                    job.result(timeout=20)
                assert set(called(llm, *jobs).values()) == {1}
                assert {job.steps()[0].attempt for job in jobs} == {1}
            assert versions.local.stop_workers([beside], grace_s=10.0)
        finally:
            client.hdel(keys.registry, *odd)
            client.hset(keys.lane("llm"), mapping=dict(zip(rules, before, strict=True)))
    for member in (versions.local.worker("old"), beside):
        log = member.log.read_text()
        assert "Traceback" not in log
        assert " broke" not in log


def test_a_step_waits_for_a_worker_that_has_its_model(
    fleet_of_new: Fleet, versions: Versions, new: Config, llm: FakeLLM
) -> None:
    jobs = [fleet_of_new.submit(says, text=f"to the newer {n}", model="newer") for n in range(6)]
    behind = fleet_of_new.submit(says, text="behind them")
    behind.result(timeout=20)
    assert {job.steps()[0].state for job in jobs} == {"ready"}
    versions.start("new", "llm", new)
    for job in jobs:
        job.result(timeout=20)
    assert set(called(llm, *jobs).values()) == {1}
    assert {job.steps()[0].attempt for job in jobs} == {1}
    # Both are there now: the tickets find their way to who can serve them.
    mixed = fleet_of_new.submit_many(
        [says.job(text=f"mixed {n}", model=("newer", "small")[n % 2]) for n in range(20)]
    )
    assert len(list(fleet_of_new.as_completed(mixed, timeout=30))) == 20


def test_a_turn_of_an_older_worker_knows_a_model_that_a_newer_pool_serves(
    fleet_of_new: Fleet, versions: Versions, new: Config
) -> None:
    versions.start("big", "big", new)
    jobs = [fleet_of_new.submit(two_models, first="small", second="big") for _ in range(4)]
    for job in jobs:
        assert isinstance(job.result(timeout=20), str)


def test_a_model_that_nobody_knows_is_refused_as_ever(fleet_of_new: Fleet) -> None:
    job = fleet_of_new.submit(two_models, first="small", second="none-such")
    with pytest.raises(JobFailed, match="There is no model 'none-such'"):
        job.result(timeout=20)


def test_a_policy_of_a_newer_version_fails_no_job_and_is_named_once(
    fleet_of_new: Fleet, versions: Versions, old: Config
) -> None:
    key = f"{Keys(old.fleet.name).prefix}lane:llm"
    with redis.Redis.from_url(old.fleet.redis_url) as client:
        client.hset(key, "policy", "of-tomorrow")
        member = versions.local.worker("old")
        wait_for(lambda: "does not know" in member.log.read_text())
        jobs = [fleet_of_new.submit(two_models, first="small", second="small") for _ in range(6)]
        for job in jobs:
            job.result(timeout=20)
        client.hset(key, "policy", "fifo")
    assert member.log.read_text().count("has the policy 'of-tomorrow'") == 1


def test_a_background_task_that_breaks_is_said_begun_anew_and_stops_no_renewal(
    fleet_of_new: Fleet, versions: Versions, old: Config, llm: FakeLLM
) -> None:
    registry = Keys(old.fleet.name).registry
    member = versions.local.worker("old")
    llm.script(latency=0.5)  # … and waits: it hears of ends, and need not look who is there
    fleet_of_new.submit(says, text="once, so that the producer knows the models").result(timeout=20)
    with redis.Redis.from_url(old.fleet.redis_url) as client:
        client.rename(registry, f"{registry}-aside")
        client.set(registry, "not what it should be")
        try:
            wait_for(lambda: "The task 'announcing' of this worker broke" in member.log.read_text())
            wait_for(lambda: "The task 'reading rules' of this worker broke" in member.log.read_text())
            llm.script(latency=3.0)  # two leases
            jobs = [fleet_of_new.submit(says, text=f"long {n}") for n in range(3)]
            for job in jobs:
                job.result(timeout=20)
        finally:
            client.rename(f"{registry}-aside", registry)
    assert set(called(llm, *jobs).values()) == {1}
    assert {job.steps()[0].attempt for job in jobs} == {1}
    since = versions.local.ask(Journal.now)
    wait_for(lambda: all(w.seen_at > since for w in versions.local.ask(Journal.registry).workers))
    assert member.log.read_text().count("The task 'announcing' of this worker broke") == 1


def test_what_aios_toml_says_is_said_again_after_redis_has_lost_it(versions: Versions, old: Config) -> None:
    async def known(journal: Journal) -> bool:
        return bool(await journal.connection.command("EXISTS", journal.keys.rules))

    assert versions.local.ask(known)
    with redis.Redis.from_url(old.fleet.redis_url) as client:
        client.delete(Keys(old.fleet.name).rules)
    wait_for(lambda: versions.local.ask(known), seconds=10)
