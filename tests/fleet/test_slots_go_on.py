"""Slots that go on without a ticket, in real workers: what Celery shows and tells, and who gets the work."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import Fleet, prompts
from aios_dist.broker.app import make_app
from aios_dist.config import Config, ModelConfig, PoolConfig
from aios_dist.testing import FakeLLM
from tests.fleet.celerys import Celery, Worker
from tests.fleet.conftest import fleet_config
from tests.fleet.reading import wait_for

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.fleet

SLOTS = 20
HEARS = """
import json, os, sys
from celery import signals
from aios_dist.runtime import worker_app
app = worker_app("llm")
if os.environ.get("HEARS"):
    def hear(what):
        def heard(sender=None, task_id=None, request=None, **more):
            id = task_id or (request or sender.request).id
            print(json.dumps([what, id, sender.request.id]), file=open(os.environ["HEARS"], "a"), flush=True)
        return heard
    ears = [hear(what) for what in ("prerun", "postrun", "success", "failure", "retry")]
    for what, ear in zip(("prerun", "postrun", "success", "failure", "retry"), ears):
        getattr(signals, f"task_{what}").connect(ear, weak=False)
"""


@pytest.fixture(scope="module")
def celery(
    redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM, tmp_path_factory: pytest.TempPathFactory
) -> Celery:
    """A fleet of two workers, one of which tells a file of what Celery's signals say."""
    config = Config(
        fleet=fleet_config(fleets.new_name(), redis_server.url, renew=0.2),
        models={"small": ModelConfig(base_url=fake_llm.url, attempts=3)},
        pools={"llm": PoolConfig(lanes=["llm", "turns"], slots=SLOTS)},
    )
    made = Celery(tmp_path_factory.mktemp("slots"), config)
    (made.folder / "llm_app.py").write_text(HEARS, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def heard(celery: Celery) -> Path:
    return celery.folder / "heard"


@pytest.fixture(scope="module")
def workers(celery: Celery, heard: Path) -> Iterator[list[Worker]]:
    both = [celery.worker("llm", "quiet"), celery.worker("llm", "hears", HEARS=str(heard))]
    for worker in both:
        worker.ready()
    yield both
    for worker in both:
        worker.stop()


def lanes(celery: Celery, worker: Worker, command: str) -> None:
    """``cancel_consumer`` or ``add_consumer``, of all."""
    for lane in ("llm", "turns"):
        assert celery.ask(worker, command, queue=lane)[0] == "ok"


def inspected(celery: Celery, worker: Worker) -> tuple[list[dict[str, Any]], int]:
    """What is active there, and how many tasks it has had in all."""
    app = make_app(celery.config)
    try:
        found = app.control.inspect(destination=[worker.name], timeout=60.0)
        active, stats = found.active()[worker.name], found.stats()[worker.name]
    finally:
        app.close()
    return active, stats["total"].get("aios.step", 0)


def chat(steps: int) -> Any:
    return prompts("chat", [f"{{input}}: question {m}" for m in range(steps)])


def test_who_listens_to_celerys_signals_hears_of_each_step(
    celery: Celery, workers: list[Worker], heard: Path, llm: FakeLLM
) -> None:
    quiet, _ = workers
    lanes(celery, quiet, "cancel_consumer")
    llm.script(latency=0.05, faults="400@3, 503@7")
    with Fleet(celery.config) as fleet:
        jobs = [fleet.submit(chat(3), input=str(n)) for n in range(SLOTS + 5)]
        states = Counter(str(ended.view().state) for ended in fleet.as_completed(jobs, timeout=60))
        steps = {f"{job.id}.{step.number}." for job in jobs for step in job.steps() if step.attempt}
    lanes(celery, quiet, "add_consumer")
    assert states == {"done": SLOTS + 4, "failed": 1}
    said = [json.loads(line) for line in heard.read_text().splitlines()]
    by = {what: Counter(id for its, id, _ in said if its == what) for what, *_ in said}
    assert by["postrun"] == by["prerun"]
    assert by["success"] + by["failure"] + by["retry"] == by["prerun"], "each has one end"
    assert (sum(by["failure"].values()), sum(by["retry"].values())) == (1, 1)
    assert all(id == sender for _, id, sender in said), "each in its own context"
    carried = {id: count for id, count in by["prerun"].items() if id.startswith(tuple(steps))}
    assert len(carried) > len(jobs), "and most of them had no ticket"
    assert {*carried.values()} == {1}


def test_inspect_shows_the_steps_and_counts_each(celery: Celery, workers: list[Worker], llm: FakeLLM) -> None:
    quiet, hears = workers
    lanes(celery, hears, "cancel_consumer")
    llm.script(latency=1.0)
    _, before = inspected(celery, quiet)
    active: list[dict[str, Any]] = []

    def all_busy() -> bool:
        active[:] = inspected(celery, quiet)[0]
        return len(active) == SLOTS and all(isinstance(one["args"], str) for one in active)

    with Fleet(celery.config) as fleet:
        jobs = [fleet.submit(chat(4), input=str(n)) for n in range(SLOTS + 4)]
        llm.wait_until(lambda: llm.count >= SLOTS + 4, 60.0)
        wait_for(all_busy)
        for job in jobs:
            job.result(timeout=60)
        served = sum(step.attempt for job in jobs for step in job.steps())
    _, after = inspected(celery, quiet)
    lanes(celery, hears, "add_consumer")
    shown = {one["args"] for one in active}
    assert len(shown) == SLOTS
    assert shown <= {f"['{job.id}', '{n}']" for job in jobs for n in range(4)}
    assert all(one["hostname"] == quiet.name and one["acknowledged"] for one in active)
    assert max(one["time_start"] for one in active) - min(one["time_start"] for one in active) < 30
    assert after - before >= served == 4 * len(jobs)


def test_a_worker_with_room_gets_its_share_of_what_a_busy_one_began(
    celery: Celery, workers: list[Worker], llm: FakeLLM
) -> None:
    """Nothing waits, so nothing would ever come to it: the busy one leaves it what becomes ready."""
    quiet, hears = workers
    lanes(celery, hears, "cancel_consumer")
    llm.script(latency=0.1)
    with Fleet(celery.config) as fleet:
        jobs = [fleet.submit(chat(40), input=str(n)) for n in range(SLOTS - 2)]
        llm.wait_until(lambda: llm.count >= 3 * len(jobs), 60.0)
        lanes(celery, hears, "add_consumer")
        llm.wait_until(lambda: llm.count >= 30 * len(jobs), 60.0)
        for job in jobs:
            job.result(timeout=60)
        steps = sorted((s for job in jobs for s in job.steps()), key=lambda s: s.started_at)
    late = Counter(step.worker.partition(":")[0] for step in steps[-10 * len(jobs) :])
    assert late[hears.name] >= 0.2 * late.total(), late
    assert late[quiet.name] >= 0.2 * late.total(), late


def test_two_that_have_room_keep_their_jobs(celery: Celery, workers: list[Worker], llm: FakeLLM) -> None:
    """A job's program is where its last step was: it goes on there, as long as nobody lacks work."""
    llm.script(latency=0.02)
    with Fleet(celery.config) as fleet:
        jobs = [fleet.submit(chat(15), input=str(n)) for n in range(4)]
        for job in jobs:
            job.result(timeout=60)
        moved = 0
        for job in jobs:
            steps = sorted(job.steps(), key=lambda step: step.number)
            moved += sum(one.worker != next.worker for one, next in pairwise(steps))
    assert moved <= 6, "of 56"
