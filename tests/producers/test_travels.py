"""What goes to another process and comes back, in the pools that programs use."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pickle
from typing import Any

import pytest

from aios_dist import Fleet, JobSpec, agent, agent_first, fifo
from aios_dist.config import Config
from aios_dist.errors import JobConflict, JobFailed, ResultTimeout
from tests.producers.agents import ask, echo

WAIT_S = 30.0


@agent
async def fails_in_its_first_turn() -> None:
    raise KeyError("on purpose")


def result(config: Config, id: str) -> Any:
    """In another process."""
    with Fleet(config) as fleet:
        return fleet.job(id).result(WAIT_S)


def submitted(config: Config, specs: list[JobSpec]) -> list[JobSpec]:
    """In another process, too."""
    with Fleet(config) as fleet:
        fleet.submit_many(specs)
    return specs


def test_a_job_that_failed_breaks_no_pool_of_processes_and_specs_come_back_whole(fleet: Fleet) -> None:
    config, (bad, good) = fleet.config, fleet.submit_many([fails_in_its_first_turn.job(), echo.job(value=1)])
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as executor, spawn.Pool(1) as pool:
        for raised in (
            lambda: executor.submit(result, config, bad.id).result(WAIT_S),
            lambda: pool.apply_async(result, (config, bad.id)).get(WAIT_S),
        ):
            with pytest.raises(JobFailed, match="on purpose") as failed:
                raised()
            assert (failed.value.job_id, type(failed.value.error).__name__) == (bad.id, "StepError")
        assert executor.submit(result, config, good.id).result(WAIT_S) == 1
        specs = pool.apply(submitted, (config, [echo.job(value=2, id="there")]))
    assert fleet.job("there").result(WAIT_S) == 2
    assert [(spec.agent, spec.id, spec.program is not None) for spec in specs] == [("echo", "there", True)]


def test_what_a_fleet_tells_travels_and_so_do_the_errors_that_it_raises(fleet: Fleet) -> None:
    job, plan = fleet.submit(ask, text="x"), fleet.submit_plan(fifo([echo.job(value=1)]))
    plan.extend_with([])
    told = [
        *(job.view(), job.steps(), job.usage, job.status(), next(job.events()), plan.view()),
        *(fleet.jobs(), fleet.registry(), fleet.lanes(), fleet.tenants(), fleet.dead_letters()),
        *(fleet.set_lane("llm", policy="las"), fleet.config),
    ]
    for one in told:
        assert pickle.loads(pickle.dumps(one)) == one
    back = pickle.loads(pickle.dumps(agent_first([echo.job(value=1)])))
    assert [spec.program is not None for spec in back.jobs()] == [True]
    with pytest.raises(JobConflict) as taken:
        fleet.submit_many([echo.job(value=n, id=f"j{min(n, 60)}") for n in range(62)])
    with pytest.raises(ResultTimeout) as late:
        job.result(0)
    for error in (taken.value, late.value):
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), back.ids) == (type(error), str(error), error.ids)
    assert taken.value.ids
