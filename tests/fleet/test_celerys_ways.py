"""A worker started and steered by Celery's own command and by Flower: what cannot be, takes no work."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import Fleet
from aios_dist.broker.app import make_app
from aios_dist.config import Config, ModelConfig, PoolConfig
from aios_dist.journal import Journal
from aios_dist.local.machine import LocalFleet
from aios_dist.testing import FakeLLM
from tests.fleet.agents import caller
from tests.fleet.celerys import Celery, Worker
from tests.fleet.conftest import fleet_config
from tests.fleet.reading import called, wait_for

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.fleet

ELSEWHERE = "redis://127.0.0.1:1/0"
OF_ANOTHER = {
    "CELERY_BROKER_URL": ELSEWHERE,
    "CELERY_BROKER_READ_URL": ELSEWHERE,
    "CELERY_BROKER_WRITE_URL": ELSEWHERE,
    "CELERY_RESULT_BACKEND": ELSEWHERE,
    "CELERY_CONFIG_MODULE": "settings_of_another",
    "CELERY_LOADER": "celery.loaders.default:Loader",
    "CELERY_WORKER_POOL": "threads",
    "CELERY_WORKER_CONCURRENCY": "1",
    "CELERY_WORKER_TIME_LIMIT": "1",
    "CELERY_WORKER_DISABLE_PREFETCH": "false",
    "CELERY_WORKER_QUEUES": "celery",
    "CELERY_WORKER_AUTOSCALE": "9,1",
    "CELERY_WORKER_INCLUDE": "tasks_of_another",
    "CELERY_WORKER_BEAT": "1",
    "REMAP_SIGTERM": "SIGQUIT",
}
"""What the environment of a machine may hold for another application."""


@pytest.fixture(scope="module")
def made(
    redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Celery]:
    """Makes a fleet of its own, with a pool for models and one for turns."""

    def make() -> Celery:
        config = Config(
            fleet=fleet_config(
                fleets.new_name(), redis_server.url, lease=60.0, renew=1.0, shutdown_grace=60.0
            ),
            models={"small": ModelConfig(base_url=fake_llm.url)},
            pools={
                "llm": PoolConfig(lanes=["llm"], slots=4),
                "turns": PoolConfig(lanes=["turns"], slots=2),
            },
        )
        folder = tmp_path_factory.mktemp("celery")
        (folder / "settings_of_another.py").write_text(
            f'broker_url = "{ELSEWHERE}"\nworker_direct = True\ntask_always_eager = True\n'
        )
        return Celery(folder, config)

    return make


@pytest.fixture(scope="module")
def celery(made: Callable[[], Celery]) -> Celery:
    """A fleet whose workers each test starts for itself."""
    return made()


@pytest.fixture(scope="module")
def steered(made: Callable[[], Celery]) -> Celery:
    """A fleet with the workers of ``both``."""
    return made()


@pytest.fixture
def started() -> Iterator[list[Worker]]:
    """Workers of a test, which end with it."""
    workers: list[Worker] = []
    yield workers
    for worker in workers:
        worker.stop()


@pytest.fixture(scope="module")
def both(steered: Celery) -> Iterator[dict[str, Worker]]:
    """A worker of each pool."""
    workers = {pool: steered.worker(pool, f"a-{pool}") for pool in ("llm", "turns")}
    for worker in workers.values():
        worker.ready()
    yield workers
    for worker in workers.values():
        worker.stop()


def slots_of(celery: Celery, worker: Worker) -> int | None:
    """What the registry says of it."""

    async def look(journal: Journal) -> int | None:
        found = (await journal.registry()).workers
        return next((w.slots for w in found if w.id.startswith(f"{worker.name}:")), None)

    return LocalFleet(celery.config, embedded_redis=False).ask(look)


# How it is started ------------------------------------------------------------------------------------


def test_a_worker_follows_its_fleet_and_not_the_settings_of_another_application(
    celery: Celery, started: list[Worker], llm: FakeLLM
) -> None:
    llm.script(latency=2.0)
    worker = celery.worker("llm", "pinned", **OF_ANOTHER)
    started.append(worker.ready())
    assert slots_of(celery, worker) == 4
    with Fleet(celery.config) as fleet:
        jobs = [fleet.submit(caller, calls=1, model="small") for _ in range(4)]
        llm.wait_until(lambda: llm.in_flight == 4, 60.0)
        worker.send(signal.SIGTERM)  # REMAP_SIGTERM would make this a cold end
        assert worker.ended() == 0
        assert [len(job.steps()) and job.steps()[0].state for job in jobs] == ["done"] * 4
        assert set(called(llm, *jobs).values()) == {1}
    for name in OF_ANOTHER:
        assert name in worker.wrote
    assert worker.wrote.count("Not followed") == 1


REFUSED = [
    (["-P", "threads"], "takes no other (thread): leave out -P"),
    (["-P", "solo"], "takes no other (solo): leave out -P"),
    (["-P", "processes"], "takes no other (prefork): leave out -P"),
    (["--autoscale", "10,1"], "--autoscale has no effect here: set `slots` in [pools.llm]"),
    (["--time-limit", "5"], "--time-limit has no effect here: give the model a `timeout`"),
    (["--soft-time-limit", "5"], "--soft-time-limit has no effect here: give the model a `timeout`"),
    (["--max-tasks-per-child", "5"], "--max-tasks-per-child has no effect here: set `memory_limit`"),
    (["--max-memory-per-child", "5"], "--max-memory-per-child has no effect here: set `memory_limit`"),
    (["-Q", "turns"], "--queues would give this worker other lanes than its pool has (llm)"),
    (["-X", "llm"], "--exclude-queues would give this worker other lanes than its pool has (llm)"),
    (["--", "broker.url=redis://127.0.0.1:1/0"], "takes no settings of Celery's (broker.url="),
]


@pytest.fixture(scope="module")
def refusals(celery: Celery) -> list[subprocess.CompletedProcess[str]]:
    """Workers with each of those options: the first as a user starts it."""

    def words(place: int) -> list[str]:
        return ["worker", "-n", f"refused-{place}@here", "-f", "of-%n.log", *REFUSED[place][0]]

    rest = [words(place) for place in range(1, len(REFUSED))]
    return [celery.run("llm", *words(0)), *celery.each("llm", *rest)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("place", range(len(REFUSED)), ids=[" ".join(o) for o, _ in REFUSED])
def test_what_would_make_another_worker_of_it_is_refused_at_the_start(
    celery: Celery, refusals: list[subprocess.CompletedProcess[str]], place: int
) -> None:
    done, (_, sentence) = refusals[place], REFUSED[place]
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("aios-dist: ")]
    assert sentence in line
    assert "Traceback" not in done.stderr
    # In the log file too: one that is detached (`-D`, `celery multi`) has no other place that is read.
    log = celery.folder / f"of-refused-{place}.log"
    assert log.read_text(encoding="utf-8").endswith(f"{line}\n")


def test_a_file_that_changes_the_fleets_settings_makes_no_worker(celery: Celery) -> None:
    own = (celery.folder / "llm_app.py").read_text()
    for name, line, sentence in (
        ("queues", "app.conf.task_queues = []", "are the fleet's (task_queues): leave them out"),
        ("auto", "app.conf.worker_concurrency = 'auto'", "a worker has from 1 to 100,000 slots, not auto."),
    ):
        (celery.folder / f"{name}_app.py").write_text(f"{own}\n{line}\n")
        done = celery.run(name, "worker", "-n", "refused@here")
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
        assert sentence in done.stderr


def test_its_own_lanes_and_slots_may_be_said_again(celery: Celery, started: list[Worker]) -> None:
    worker = celery.worker("llm", "said", "-Q", "llm", "-c", "3", "-P", "prefork")
    started.append(worker.ready())
    assert slots_of(celery, worker) == 3


# How it is steered ----------------------------------------------------------------------------------------


def test_what_would_have_no_effect_is_no_success(steered: Celery, both: dict[str, Worker]) -> None:
    llm, asked = both["llm"], steered.ask
    refusals = {
        "rate_limit": asked(llm, "rate_limit", task_name="aios.step", rate_limit="1/m"),
        "time_limit": asked(llm, "time_limit", task_name="aios.step", soft=1, hard=2),
        "revoke": asked(llm, "revoke", task_id=["none-such"]),
        "terminate": asked(llm, "terminate", task_id=["none-such"], signal="KILL"),
        "stamped": asked(llm, "revoke_by_stamped_headers", headers={"a": "b"}),
        "autoscale": asked(llm, "autoscale", max=9, min=1),
        "pool_restart": asked(llm, "pool_restart"),
        "add_consumer": asked(llm, "add_consumer", queue="turns"),
        "unknown lane": asked(llm, "add_consumer", queue="nowhere"),
        "cancel_consumer": asked(llm, "cancel_consumer", queue="turns"),
    }
    assert {kind for kind, _ in refusals.values()} == {"error"}
    instead = {
        "rate_limit": "aios-dist model set NAME --requests-per-minute",
        "time_limit": "tool_timeout",
        "revoke": "aios-dist job cancel ID",
        "terminate": "aios-dist job cancel ID",
        "stamped": "aios-dist job cancel ID",
        "autoscale": "pool_grow",
        "pool_restart": "SIGTERM",
        "add_consumer": "`lanes` of [pools.llm]",
        "unknown lane": "`lanes` of [pools.llm]",
        "cancel_consumer": "serves llm",
    }
    assert {name for name, (_, said) in refusals.items() if instead[name] not in said} == set()
    assert "Traceback" not in llm.wrote


def test_celerys_own_command_line_shows_the_sentence(steered: Celery, both: dict[str, Worker]) -> None:
    kind, said = steered.control(both["llm"], "rate_limit", "aios.step", "1/m")
    assert (kind, "--requests-per-minute" in said) == ("error", True)


def test_a_ticket_that_is_to_be_ended_names_its_job_and_goes_on(
    steered: Celery, both: dict[str, Worker], llm: FakeLLM
) -> None:
    llm.script(latency=3.0)
    with Fleet(steered.config) as fleet:
        job = fleet.submit(caller, calls=1, model="small")
        llm.wait_until(lambda: llm.in_flight == 1, 60.0)
        app = make_app(steered.config)
        ((ticket,),) = [
            [request["id"] for request in requests] for requests in app.control.inspect(
                destination=[both["llm"].name], timeout=60.0
            ).active().values()
        ]  # fmt: skip
        app.close()
        for command in ("revoke", "terminate"):
            kind, said = steered.ask(both["llm"], command, task_id=[ticket], signal="KILL")
            assert (kind, f"serves job {job.id}" in said) == ("error", True)
        job.result(timeout=60)
        assert set(called(llm, job).values()) == {1}


def test_slots_that_are_grown_and_shrunk_are_seen_and_used(
    steered: Celery, both: dict[str, Worker], llm: FakeLLM
) -> None:
    worker = both["llm"]
    assert steered.ask(worker, "pool_grow", n=3)[0] == "ok"
    wait_for(lambda: slots_of(steered, worker) == 7)
    llm.script(latency=2.0)
    with Fleet(steered.config) as fleet:
        jobs = [fleet.submit(caller, calls=1, model="small") for _ in range(9)]
        llm.wait_until(lambda: llm.in_flight == 7, 60.0)
        assert steered.ask(worker, "pool_shrink", n=5)[0] == "ok"
        wait_for(lambda: slots_of(steered, worker) == 2)
        for job in jobs:
            job.result(timeout=60)
        assert llm.max_in_flight == 7
        llm.reset()
        jobs = [fleet.submit(caller, calls=1, model="small") for _ in range(4)]
        for job in jobs:
            job.result(timeout=60)
        assert llm.max_in_flight == 2
    for command, n in (
        ("pool_shrink", 2),
        ("pool_grow", 0),
        ("pool_grow", -1),
        ("pool_grow", "x"),
        ("pool_grow", 10**9),
    ):
        assert steered.ask(worker, command, n=n)[0] == "error"
    assert steered.ask(worker, "pool_grow", n=2)[0] == "ok"
    wait_for(lambda: slots_of(steered, worker) == 4)


def test_a_lane_of_the_pool_is_cancelled_and_added_again(
    steered: Celery, both: dict[str, Worker], llm: FakeLLM
) -> None:
    worker = both["llm"]
    assert steered.ask(worker, "cancel_consumer", queue="llm") == ("ok", "no longer consuming from llm")
    with Fleet(steered.config) as fleet:
        job = fleet.submit(caller, calls=1, model="small")
        assert steered.ask(worker, "ping") == ("ok", "pong")
        assert llm.count == 0
        assert steered.ask(worker, "add_consumer", queue="llm") == ("ok", "add consumer llm")
        job.result(timeout=60)


def test_sigusr2_ends_nothing_and_sigusr1_shows_the_threads(steered: Celery, both: dict[str, Worker]) -> None:
    worker = both["turns"]
    for _ in range(3):
        worker.send(signal.SIGUSR2)
    wait_for(lambda: "SIGUSR2 does nothing here" in worker.wrote)
    worker.send(signal.SIGUSR1)
    wait_for(lambda: "aios-loop" in worker.wrote)
    assert steered.ask(worker, "ping") == ("ok", "pong")


def test_sighup_begins_it_anew_and_cuts_nothing(celery: Celery, started: list[Worker], llm: FakeLLM) -> None:
    """Celery's own way did not find its command again: the worker was gone."""
    llm.script(latency=1.0)
    worker = celery.worker("llm", "anew")
    started.append(worker.ready())
    with Fleet(celery.config) as fleet:
        jobs = [fleet.submit(caller, calls=1, model="small") for _ in range(2)]
        llm.wait_until(lambda: llm.in_flight == 2, 60.0)
        worker.send(signal.SIGHUP)
        wait_for(lambda: worker.wrote.count(f"{worker.name} ready.") == 2, 60.0)
        jobs.append(fleet.submit(caller, calls=1, model="small"))
        wait_for(lambda: all(job.steps()[0].state == "done" for job in jobs))
        assert set(called(llm, *jobs).values()) == {1}
    assert "Traceback" not in worker.wrote


# How it ends ---------------------------------------------------------------------------------------------


def waits_for_the_pool(worker: Worker) -> bool:
    """Celery's own thread waits for what is in flight: SIGUSR1 shows it."""
    worker.send(signal.SIGUSR1)
    return "in on_stop" in worker.wrote


@pytest.mark.parametrize("signals", [["SIGINT", "SIGINT"], ["SIGTERM", "SIGQUIT"], ["SIGQUIT"]], ids=" ".join)
def test_told_again_a_worker_hands_back_at_once_what_is_in_flight(
    celery: Celery, started: list[Worker], llm: FakeLLM, signals: list[str]
) -> None:
    """The grace and a lease are a minute, and the calls take longer."""
    llm.script(latency=120.0)
    worker = celery.worker("llm", "told")
    started.append(worker.ready())
    with Fleet(celery.config) as fleet:
        jobs = [fleet.submit(caller, calls=1, model="small") for _ in range(3)]
        llm.wait_until(lambda: llm.in_flight == 3, 60.0)
        for number, name in enumerate(signals):
            worker.send(signal.Signals[name])
            if number == 0 and len(signals) > 1:
                wait_for(lambda: waits_for_the_pool(worker))
        with pytest.raises(subprocess.TimeoutExpired):
            worker.ended(0.0)
        assert worker.ended(30.0) in (0, 1), worker.wrote
        assert {job.steps()[0].state for job in jobs} == {"ready"}, worker.wrote
        assert "Traceback" not in worker.wrote
        for job in jobs:
            job.cancel()
