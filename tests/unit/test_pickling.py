"""What travels to another process, and what says why it does not."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from typing import Any

import pytest

import aios_dist
from aios_dist import (
    AsyncFleet,
    AsyncJob,
    AsyncPlan,
    Budget,
    Fleet,
    Job,
    agent,
    errors,
    fifo,
    fixed,
    llm,
    prompts,
)
from aios_dist.config import Config, FleetConfig, ModelConfig
from aios_dist.errors import AiosError, InvalidInput, JobFailed, RateLimited, StepError, UnknownName
from aios_dist.producer.sync import PlanJobs
from aios_dist.program import agents


@agent
async def traveller(city: str, days: list[int]) -> str:
    return (await llm(f"{city} {days}", model="small")).text


def all_below(cls: type[BaseException]) -> set[type[BaseException]]:
    return {cls}.union(*map(all_below, cls.__subclasses__()))


def everywhere() -> list[type[BaseException]]:
    """Every error class of the package's producers' side."""
    for module in pkgutil.iter_modules(aios_dist.__path__, "aios_dist."):
        if not module.ispkg:
            importlib.import_module(module.name)
    # (tests have some, too)
    ours = [cls for cls in all_below(AiosError) if cls.__module__.startswith("aios_dist.")]
    return sorted(ours, key=lambda cls: cls.__qualname__)


def made(cls: type[BaseException]) -> BaseException:
    if issubclass(cls, JobFailed):
        return cls("j", RateLimited("slow down", status=429))
    error = cls("what it says", status=429) if issubclass(cls, StepError) else cls("what it says")
    return error


@pytest.mark.parametrize("cls", everywhere(), ids=lambda cls: cls.__name__)
def test_every_error_comes_out_of_a_pickle_as_it_went_in(cls: type[BaseException]) -> None:
    error = made(cls)
    error.add_note("seen in Lima")
    if isinstance(error, StepError):
        error.traceback = "a frame"
    for back in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(back) is cls
        assert (str(back), back.args) == (str(error), error.args)
        ours, theirs = dict(vars(back)), dict(vars(error))
        if isinstance(error, JobFailed):
            assert isinstance(back, JobFailed)
            inner = ours.pop("error")
            assert (type(inner), str(inner), vars(inner)) == (
                RateLimited,
                "slow down",
                vars(theirs.pop("error")),
            )
        assert ours == theirs


def test_jobs_and_plans_to_be_submitted_travel_with_their_agents() -> None:
    config = Config(fleet=FleetConfig(), models={"small": ModelConfig()})
    ask = prompts("ask", ["say {input}"], model="small")
    one = traveller.job(city="Lima", days=[1], id="one").within(budget=Budget(tokens=5), priority=3)
    plan = fixed([fifo([one, ask.job("x")]), traveller.job(city="Cusco", days=[])])
    for back in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        assert [(spec.agent, spec.input, spec.id) for spec in back.jobs()] == [
            (spec.agent, spec.input, spec.id) for spec in plan.jobs()
        ]
        for spec in back.jobs():
            spec.program().close()
    back = pickle.loads(pickle.dumps(one))
    assert (back.budget, back.priority) == (one.budget, 3)
    for same in (traveller, config):
        assert pickle.loads(pickle.dumps(same)) == same
    assert pickle.loads(pickle.dumps(traveller)) is traveller


def test_a_job_arrives_without_its_program_where_the_agents_code_is_not(monkeypatch: Any) -> None:
    sent, whole = pickle.dumps(traveller.job(city="Lima", days=[])), pickle.dumps(traveller)
    monkeypatch.delitem(agents._registry, "traveller")
    back = pickle.loads(sent)
    assert (back.agent, back.input, back.program) == ("traveller", {"city": "Lima", "days": []}, None)
    with pytest.raises(UnknownName, match="no agent 'traveller' in this process"):
        pickle.loads(whole)


def test_handles_say_in_one_sentence_why_they_stay_and_what_to_send() -> None:
    config = Config(fleet=FleetConfig(redis_url="redis://127.0.0.1:1/0"), models={})
    lines: Any = None
    other = AsyncFleet(config)
    with Fleet(config) as fleet:
        stay = [
            *(fleet, other, Job(fleet, "j"), AsyncJob(lines, "j")),
            *(PlanJobs(fleet, "p", [Job(fleet, "j")]), AsyncPlan(lines, "p", [])),
        ]
        for one in stay:
            with pytest.raises(
                InvalidInput, match=r"is bound to this process and cannot be pickled: (send|make)"
            ):
                pickle.dumps(one)
        job = Job(fleet, "j")
        assert copy.copy(job) is job
        assert copy.deepcopy({"job": job})["job"] is job


def test_errors_of_this_list_are_all_public() -> None:
    assert errors.JobFailed in everywhere()
