"""A provider that says "not now" is left in peace, by real workers: a fleet of four slots of its own."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import Fleet, Job
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.testing import Fault, Reply
from tests.fleet.agents import caller
from tests.fleet.reading import wait_for

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis
    from aios_dist.testing import Call, FakeLLM

SLOTS = 4
PATIENCE_S = 3.0
MODELS: dict[str, dict[str, Any]] = {
    "busy": {"attempts": 6, "backoff": 0.1},
    "dead": {"attempts": 1, "backoff": 0.1, "breaker": 3},
    "closed": {"attempts": 4, "backoff": 0.1},
    "away": {"attempts": 4, "backoff": 0.1, "fallback": ["spare"]},
    "broken": {"attempts": 1, "backoff": 0.1, "breaker": 2, "fallback": ["spare"]},
    "spare": {},
    "silent": {
        "tokens_per_minute": 1500,
        "input_price": 1.0,
        "output_price": 1.0,
        "stream": True,
        "options": {"stream_options": {"include_usage": False}},
    },
}


@pytest.fixture(scope="module")
def four_slots(redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM) -> Iterator[Fleet]:
    config = Config(
        fleet=FleetConfig(
            name=fleets.new_name(),
            redis_url=redis_server.url,
            modules=["tests.fleet.agents"],
            reconcile=0.5,
            step_deadline=PATIENCE_S,
        ),
        models={name: ModelConfig(base_url=fake_llm.url, **settings) for name, settings in MODELS.items()},
        pools={"llm": PoolConfig(lanes=["llm"], slots=SLOTS)},
    )
    root = Path(__file__).parents[2]
    with (
        LocalFleet(config, [WorkerSpec("four", "llm")], embedded_redis=False, cwd=root) as machine,
        Fleet(machine.config) as opened,
    ):
        yield opened


@pytest.fixture
def refusing(llm: FakeLLM) -> dict[str, Fault]:
    """What each model's provider answers now; nothing: a text."""
    faults: dict[str, Fault] = {}

    def reply(call: Call) -> Reply | Fault:
        return faults.get(call.model) or Reply(f"of {call.model}")

    llm.script(latency=0.02, reply=reply)
    return faults


def submit(fleet: Fleet, model: str, count: int) -> list[Job]:
    return fleet.submit_many([caller.job(calls=1, model=model) for _ in range(count)])


def states(jobs: list[Job]) -> Counter[str]:
    return Counter(job.status().value for job in jobs)


def held(fleet: Fleet, model: str) -> int:
    """Steps that wait for the model's limit."""

    return fleet._run(lambda there: there.journal.model_views([model]))[0].held


def test_a_backlog_that_is_older_than_its_patience_outlives_a_429(
    four_slots: Fleet, llm: FakeLLM, refusing: dict[str, Fault]
) -> None:
    llm.script(latency=0.3)
    jobs = submit(four_slots, "busy", 64)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > PATIENCE_S + 0.2)
    waiting, before = states(jobs)["running"], llm.count
    assert waiting > SLOTS, "no backlog is left: more jobs are needed here"
    refusing["busy"] = Fault("429", retry_after=1.0)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 1.5)
    assert llm.count - before <= SLOTS + 2 * (time.monotonic() - began)
    refusing.clear()
    for job in jobs:
        job.result(timeout=20)


def test_a_dead_provider_is_left_in_peace_also_by_steps_that_have_one_try(
    four_slots: Fleet, llm: FakeLLM, refusing: dict[str, Fault]
) -> None:
    refusing["dead"] = Fault("500")
    jobs = submit(four_slots, "dead", 40)
    wait_for(lambda: states(jobs)["failed"] >= 3)
    began, before = time.monotonic(), llm.count
    wait_for(lambda: time.monotonic() - began > 2.0)
    assert llm.count - before <= SLOTS + 2, "a probe after 1 s, and one after 2 more"
    assert states(jobs)["failed"] <= llm.count
    for job in jobs:
        job.cancel()


def test_a_wish_that_no_step_may_wait_for_holds_the_model_all_the_same(
    four_slots: Fleet, llm: FakeLLM, refusing: dict[str, Fault]
) -> None:
    refusing["closed"] = Fault("429", retry_after=7200.0)
    jobs = submit(four_slots, "closed", 40)
    wait_for(lambda: states(jobs)["failed"])
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 1.5)
    assert llm.count <= SLOTS
    assert states(jobs)["running"] >= 40 - SLOTS
    for job in jobs:
        job.cancel()


@pytest.mark.parametrize(
    ("model", "fault"), [("away", Fault("429", retry_after=3600.0)), ("broken", Fault("500"))]
)
def test_who_has_another_model_does_not_wait_for_one_that_says_not_now(
    four_slots: Fleet, llm: FakeLLM, refusing: dict[str, Fault], model: str, fault: Fault
) -> None:
    refusing[model] = fault
    jobs = submit(four_slots, model, 60)
    assert {job.result(timeout=20) for job in jobs} == {"of spare"}
    assert Counter(call.model for call in llm.calls)[model] <= SLOTS + 2


def test_a_provider_that_counts_nothing_is_held_to_estimates(
    four_slots: Fleet, llm: FakeLLM, refusing: dict[str, Fault]
) -> None:
    jobs = submit(four_slots, "silent", 6)
    wait_for(lambda: states(jobs)["done"] == 2)
    wait_for(lambda: held(four_slots, "silent") == 4)
    assert states(jobs)["done"] == 2, "about 500 tokens each, of 1,500 a minute"
    view = next(job.view() for job in jobs if job.status().value == "done")
    assert 500 <= view.estimated == view.usage.total_tokens < 600
    assert view.money == pytest.approx(view.estimated / 1e6)
    for job in jobs:
        job.cancel()
