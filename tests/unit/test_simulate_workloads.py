"""Where the simulator's jobs come from: samples, files, and what the fleet exports."""

from __future__ import annotations

import re
from importlib import resources
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import msgspec
import pytest

from aios_dist.cli.job import calls_of
from aios_dist.errors import InvalidInput
from aios_dist.journal import History, JobView
from aios_dist.model import estimates
from aios_dist.model.calls import LLMResponse, Usage
from aios_dist.model.jobs import JobRecord, JobState, Kind, Outcome, Step, StepState
from aios_dist.model.specs import JobSpec
from aios_dist.program import turns
from aios_dist.simulate import files, generators, latency, simulate
from aios_dist.simulate.choices import arrange, of_plan, of_policy
from aios_dist.simulate.latency import Latency
from aios_dist.simulate.pasts import MOST
from aios_dist.simulate.work import SimulatedJob
from aios_dist.simulate.workloads import JOBS, Workload

TOKENS = """agent,step,prompt_tokens,output_tokens,calls_tool
0,0,1500,33,1
0,1,3000,66,0
b,1,0,33,0
b,0,15000,0,0
"""
LATENCY = Latency(ttft=0.5, prefill=15_000, decode=33, tool=2.0)


def table(folder: Path, text: str = TOKENS, name: str = "agents.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


# Tables of tokens ------------------------------------------------------------------------------------------


def test_tokens_become_seconds_by_the_stated_model(tmp_path: Path) -> None:
    found = files.read(table(tmp_path), LATENCY)
    one, two = found.whole
    assert one.steps == pytest.approx((1.6, 2.7))
    assert (one.gaps, one.costs, one.estimates) == ((0.0, 2.0), (1566.0, 3132.0), (2500.0, 4000.0))
    assert two.steps == pytest.approx((1.5, 1.5))
    assert (two.gaps, two.costs) == ((0.0, 0.0), (15000.0, 66.0))
    assert [(job.name, job.owner, job.judged_by) for job in found.whole] == [
        ("0", "0", "agents"),
        ("b", "b", "agents"),
    ]
    assert not found.recorded


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lacks the columns agent, step, prompt_tokens, output_tokens, calls_tool"),
        ("agent,step,prompt_tokens\n", "lacks the columns output_tokens, calls_tool"),
        (TOKENS.splitlines()[0] + "\n", "is empty: it needs at least one step"),
        (TOKENS + "0,1,1,1,0\n", "has a step of '0' twice"),
        (TOKENS + "c,0,1,-1,0\n", "line 6: .*output_tokens"),
        (TOKENS + "c,0,many,1,0\n", "line 6: .*prompt_tokens"),
        (TOKENS + "c,0\n", "line 6: .*prompt_tokens"),
        ("{", "line 1, is not JSON"),
        ('{"job": "j"}\n', "line 1: .*missing required field"),
    ],
)
def test_a_file_that_is_no_workload_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        files.read(table(tmp_path, text), LATENCY)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="Cannot read the workload"):
        files.read(str(tmp_path / "nowhere.csv"), LATENCY)
    with pytest.raises(InvalidInput, match="Cannot read the workload"):
        files.read(str(tmp_path), LATENCY)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="Cannot read the workload"):
        files.read(str(tmp_path / "binary"), LATENCY)


@pytest.mark.parametrize(
    "wrong", [{"ttft": -1.0}, {"prefill": 0.0}, {"decode": -3.0}, {"tool": float("inf")}]
)
def test_a_model_of_latency_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        Latency(**wrong)


def test_what_the_simulator_charges_and_remembers_is_what_the_fleet_does() -> None:
    ours = (latency.INPUT_COST, latency.OUTPUT_COST, latency.OUTPUT_GUESS)
    assert ours == (turns.INPUT_COST, turns.OUTPUT_COST, estimates.OUTPUT_GUESS)
    lua = resources.files("aios_dist.journal").joinpath("lua/_order.lua").read_text("utf-8")
    assert re.search(r"MOST_PAST = (\d+)", lua)[1] == str(MOST)  # type: ignore[index]


# Samples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", generators.names())
def test_the_same_seed_is_the_same_sample(name: str) -> None:
    found = generators.find(name, LATENCY)
    one, same, other = (found.sample(seed, 8, 0.9, 50, "flood") for seed in (1, 1, 2))
    assert one == same != other
    assert found.pasts(1) == found.pasts(1) != found.pasts(2)
    assert {job.tenant for job in one} == {"flood", "small"}


@pytest.mark.parametrize("load", [0.5, 0.9, 1.5])
def test_the_load_is_the_work_that_arrives_over_what_the_slots_can_do(load: float) -> None:
    jobs = generators.find("light", LATENCY).sample(0, 4, load, 4000)
    arrivals = [job.arrival for job in jobs]
    assert arrivals == sorted(arrivals)
    assert sum(job.service for job in jobs) / arrivals[-1] / 4 == pytest.approx(load, rel=0.05)


def test_poisson_arrivals_vary_as_much_as_their_mean_and_bursts_three_times_as_much() -> None:
    def variation(name: str) -> float:
        arrivals = [job.arrival for job in generators.find(name, LATENCY).sample(0, 8, 0.7, 6000)]
        between = [b - a for a, b in pairwise(arrivals)]
        return pstdev(between) / fmean(between)

    assert variation("light") == pytest.approx(1.0, abs=0.1)
    assert variation("azure") == pytest.approx(3.0, abs=0.4)


def test_the_workloads_are_as_heavy_as_they_say() -> None:
    heavy, light = (
        generators.find(name, LATENCY).sample(0, 8, None, 4000) for name in ("heavy-tail", "light")
    )
    counts = sorted(len(job.steps) for job in heavy)
    assert (counts[0], counts[2000]) == (2, 3)
    assert 100 < counts[-1] <= 300
    assert fmean(counts) == pytest.approx(7.0, rel=0.1)
    assert {len(job.steps) for job in light} == {9, 10, 11}
    azure = generators.find("azure", LATENCY).sample(0, 8, None, 2000)
    assert {job.agent for job in azure} == {"chat", "coder"}


def test_without_a_load_all_of_a_file_comes_at_once_in_an_order_of_the_seed(tmp_path: Path) -> None:
    found = files.read(table(tmp_path), LATENCY)
    samples = [found.sample(seed, 8) for seed in range(8)]
    assert {tuple(job.name for job in jobs) for jobs in samples} == {("0", "b"), ("b", "0")}
    assert all(job.arrival == 0 for jobs in samples for job in jobs)
    more = found.sample(0, 8, 0.9)
    assert len(more) == len({job.name for job in more}) == JOBS
    assert {job.agent for job in more} == {"0", "b"}


def test_jobs_get_priorities_and_deadlines_that_can_be_met() -> None:
    jobs = generators.find("light", LATENCY).sample(0, 8, None, 200)
    assert {job.priority for job in jobs} == set(range(10))
    assert all(2 * job.alone <= (job.deadline or 0) <= 10 * job.alone for job in jobs)


@pytest.mark.parametrize("tenants", ["many", "0", "-1", "1e3", "10001"])
def test_tenants_that_cannot_be_are_refused(tenants: str) -> None:
    with pytest.raises(InvalidInput, match="'flood' or a number"):
        generators.find("light", LATENCY).sample(0, 8, None, 3, tenants)


@pytest.mark.parametrize("load", [0.0, -1.0, float("nan"), float("inf")])
def test_a_load_that_cannot_be_is_refused(load: float) -> None:
    with pytest.raises(InvalidInput, match="more than 0"):
        generators.find("light", LATENCY).sample(0, 8, load, 3)


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no workload 'heavy'"):
        generators.find("heavy", LATENCY)


# Choices ---------------------------------------------------------------------------------------------------


def test_a_policy_is_written_with_its_modifiers() -> None:
    choice = of_policy("las+fair+oldest_every=20")
    assert (choice.policy, choice.fair, choice.oldest_every) == ("las", True, 20)
    assert of_policy("remaining").oldest_every is None
    assert of_policy("oracle").policy == "oracle"


@pytest.mark.parametrize(
    "text", ["las+", "las+fare", "las+oldest_every=1", "las+oldest_every=x", "las+fair=1"]
)
def test_an_unknown_modifier_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"behind \+ goes"):
        of_policy(text)


@pytest.mark.parametrize("text", ["", "hybrid", "hybrid:0", "hybrid:x", "fixed:2", "lifo"])
def test_an_unknown_plan_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no plan"):
        of_plan(text)


def test_plans_are_arranged_in_the_order_of_arrival() -> None:
    jobs = [SimulatedJob(name, (1.0,), arrival=at) for name, at in (("c", 3.0), ("a", 1.0), ("b", 2.0))]

    def shown(member: Any) -> Any:
        return member.id if isinstance(member, JobSpec) else (member.mode, *map(shown, member.members))

    assert shown(arrange("fixed", jobs)) == ("fixed", "a", "b", "c")
    assert shown(arrange("hybrid:2", jobs)) == ("fixed", ("fifo", "a", "b"), ("fifo", "c"))
    assert shown(arrange("agent-first:2", jobs)) == ("agent-first", ("fifo", "a", "b"), ("fifo", "c"))
    assert shown(arrange("fifo", jobs)) == ("fifo", "a", "b", "c")


# What the fleet exports ------------------------------------------------------------------------------------


def call(number: int, ready: float, start: float, end: float, kind: Kind = Kind.LLM, **more: Any) -> Step:
    outcome = (
        Outcome(response=LLMResponse("SECRET", usage=Usage(10, 2, 1))) if kind is Kind.LLM else Outcome()
    )
    fields = {"outcome": outcome, "state": StepState.DONE, **more}
    return Step(
        job="j",
        number=number,
        kind=kind,
        lane="llm",
        ready_at=ready,
        started_at=start,
        ended_at=end,
        **fields,
    )


def history(*steps: Step, plan: str | None = None, state: JobState = JobState.DONE) -> History:
    view = JobView(
        id="j",
        state=state,
        agent="trip",
        tenant="t",
        plan=plan,
        priority=3,
        submitted_at=100.0,
        ended_at=200.0,
    )
    record = JobRecord("trip", {"city": "SECRET"}, "t", deadline=60.0, expected_steps=4)
    return History(view, record, list(steps))


PAST = history(
    call(0, 101.0, 103.0, 104.0),  # asked for a second after the submission
    call(1, 104.0, 104.0, 106.0, Kind.TOOL),
    call(2, 106.5, 107.0, 109.0),  # gathered, with step 3
    call(3, 106.5, 108.0, 110.0),
    call(4, 110.0, 111.0, 112.0),
)


def test_an_export_has_times_and_tokens_and_no_texts() -> None:
    steps = calls_of(PAST)
    assert [(s.step, s.after, s.own_s, s.seconds) for s in steps] == [
        (0, 0, 1.0, 1.0),
        (1, 1, 2.5, 2.0),  # the tool's time is the agent's own
        (2, 1, 2.5, 2.0),
        (3, 3, 0.0, 1.0),
    ]
    assert {(s.job, s.agent, s.tenant, s.submitted_at, s.priority) for s in steps} == {
        ("j", "trip", "t", 100.0, 3)
    }
    assert (steps[0].prompt_tokens, steps[0].output_tokens, steps[0].deadline_s) == (10, 2, 60.0)
    assert b"SECRET" not in b"".join(map(msgspec.json.encode, steps))


def test_jobs_without_a_call_are_not_exported_and_failures_are_said() -> None:
    assert calls_of(history()) == []
    assert calls_of(history(call(0, 100.0, 100.0, 101.0, Kind.TOOL))) == []
    assert calls_of(history(call(0, 100.0, 0.0, 0.0, outcome=None, state=StepState.DROPPED))) == []
    [step] = calls_of(history(call(0, 100.0, 100.0, 101.0), state=JobState.CANCELLED))
    assert step.failed


def test_the_time_before_a_plan_admits_a_job_is_not_its_agents() -> None:
    [step] = calls_of(history(call(0, 150.0, 151.0, 152.0), plan="p"))
    assert (step.submitted_at, step.own_s) == (150.0, 0.0)


def exported(folder: Path, *jobs: History) -> Workload:
    lines = [msgspec.json.encode(step).decode() for job in jobs for step in calls_of(job)]
    return files.read(table(folder, "\n".join(lines) + "\n", "export.jsonl"), LATENCY)


def test_an_export_is_a_workload_that_keeps_its_arrivals_tenants_and_shape(tmp_path: Path) -> None:
    found = exported(tmp_path, PAST)
    [job] = found.sample(0, 8)
    assert (job.agent, job.tenant, job.priority, job.deadline, job.arrival) == ("trip", "t", 3, 60.0, 0.0)
    assert (job.after, job.gaps, job.expected_steps) == ((0, 1, 1, 3), (1.0, 2.5, 2.5, 0.0), 4)
    run = simulate([job], 8)
    assert [(d.start, d.end) for d in run.log] == [(1.0, 2.0), (4.5, 6.5), (4.5, 6.5), (6.5, 7.5)]
    loaded = found.sample(0, 8, 0.9, 20)
    assert [job.agent for job in loaded] == ["trip"] * 20
    assert loaded[-1].arrival > 0


def test_a_step_that_was_retried_later_does_not_spoil_the_order(tmp_path: Path) -> None:
    steps = [call(0, 100.0, 100.0, 101.0), call(1, 130.0, 130.0, 131.0), call(2, 101.0, 101.0, 103.0)]
    [job] = exported(tmp_path, history(*steps)).whole
    assert job.after == (0, 1, 1)
