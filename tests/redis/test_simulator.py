"""The simulator dispatches as the journal does: any plan, one slot, the same order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from aios_dist.cli.job import calls_of
from aios_dist.config import FleetConfig
from aios_dist.journal import Journal
from aios_dist.model.calls import LLMResponse, Usage
from aios_dist.model.jobs import JobState, Outcome, encode
from aios_dist.model.plans import Plan, agent_first, fifo, fixed, hybrid, shape
from aios_dist.model.specs import JobSpec
from aios_dist.simulate import SimulatedJob, simulate
from tests.redis import command_line
from tests.redis.command_line import Done
from tests.redis.conftest import Hand, decides, starts

cli, folder = command_line.cli, command_line.folder

COUNTS = {"a": 3, "b": 1, "c": 2, "d": 4, "e": 2}
A, B, C, D, E = (JobSpec(agent=name, input={}, id=name) for name in COUNTS)

PLANS = {
    "fifo": fifo([A, B, C, D, E]),
    "fixed": fixed([D, A, C, E, B]),
    "fixed-continue": fixed([A, B, C, D, E], on_failure="continue"),
    "hybrid": hybrid([[A, B], [C, D, E]], on_failure="continue"),
    "chains-side-by-side": fifo([fixed([A, B]), C, fixed([D, E])]),
    "agent-first": agent_first([C, A, D, B, E]),
    "agent-first-of-groups": agent_first([fifo([A, C]), fifo([B, D]), E]),
    "fixed-in-agent-first": agent_first([fixed([A, B, C]), fixed([D, E])]),
    "agent-first-in-fixed": fixed([agent_first([B, A]), agent_first([E, D, C])], on_failure="continue"),
    "deep": fixed([fifo([fixed([A, B]), C], on_failure="stop"), fixed([fifo([D, E])])]),
}


async def order_of_the_journal(hand: Hand, plan: Plan, fails: str) -> list[str]:
    """Run the plan on the real journal, one claim at a time."""
    ids = [str(spec.id) for spec in plan.jobs()]
    layout, owners = shape(plan, "p", ids)
    jobs = [
        msgspec.structs.replace(starts(id, "x", agent=id, policy="fifo"), node=node, place=place)
        for id, node, place in zip(ids, owners, layout.places, strict=True)
    ]
    await hand.journal.submit(jobs, layout)
    order = []
    while (claim := await hand.journal.claim("llm", "w")) is not None:
        number = int(claim.step) + 1
        order.append(f"{claim.job}{number}")
        if number < COUNTS[claim.job]:
            await hand.commit(claim, decision=decides(number, number, "next", policy="fifo"))
        else:
            await hand.finish(claim, JobState.FAILED if claim.job in fails else JobState.DONE)
    await hand.go_on()  # what a worker's commit has left of a plan's end
    return order


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("fails", ["", "b", "ae"])
async def test_simulator_and_journal_dispatch_in_the_same_order(hand: Hand, name: str, fails: str) -> None:
    plan = PLANS[name]
    jobs = [SimulatedJob(id, (1.0,) * count, fails=id in fails) for id, count in COUNTS.items()]
    run = simulate(jobs, 1, plan=plan)
    assert await order_of_the_journal(hand, plan, fails) == [dispatch.label for dispatch in run.log]
    cancelled = {job.name for job, end in zip(jobs, run.ends, strict=True) if end is None}
    states = dict(zip(COUNTS, await hand.states(*COUNTS), strict=True))
    assert {id for id, state in states.items() if state == "cancelled"} == cancelled


def test_an_empty_journal_is_said_and_nothing_is_written(cli: Callable[..., Done], folder: Path) -> None:
    for args in ((), ("--out", "export.jsonl")):
        done = cli("job", "export", *args)
        assert (done.code, done.out) == (2, "")
        assert "nothing to export" in done.err
    assert not (folder / "export.jsonl").exists()


async def test_what_has_run_one_by_one_is_exported_so(hand: Hand) -> None:
    await order_of_the_journal(hand, PLANS["fifo"], "")
    steps = calls_of(await hand.journal.load("d"))
    assert [(step.step, step.after, step.agent) for step in steps] == [(n, n, "d") for n in range(4)]
    assert all(0 <= step.seconds < 60 and 0 <= step.own_s < 60 for step in steps)
    assert not any(step.failed for step in steps)


def test_a_journal_is_exported_without_its_texts_and_simulated(
    cli: Callable[..., Done], folder: Path, redis_url: str, fleet_name: str
) -> None:
    for id in ("j1", "j2"):
        cli("submit", "--prompt", "SECRET {input}", "--input", '"word"', "--id", id)
        answer(redis_url, fleet_name)
        cli("job", "cancel", id)
    done = cli("job", "export", "--out", "export.jsonl")
    assert (done.code, done.out, done.err) == (0, "", "2 jobs, 2 calls: export.jsonl\n")
    text = (folder / "export.jsonl").read_text("utf-8")
    assert cli("job", "export").out == text
    said = cli("job", "export", "--out", "export.jsonl", "--json").json
    assert said == {"file": "export.jsonl", "jobs": 2, "calls": 2}
    assert "SECRET" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["job"], line["prompt_tokens"], line["failed"]) for line in lines] == [
        ("j1", 60, True),
        ("j2", 60, True),
    ]
    assert [json.loads(line)["job"] for line in cli("job", "export", "--limit", "1").out.splitlines()] == [
        "j2"
    ]
    refused = cli("job", "export", "--out", "no/such/folder/x")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    rows = json.loads(cli("simulate", "--workload", "export.jsonl", "--policy", "remaining", "--json").out)
    assert [row["jobs"] for row in rows] == [2, 2]


def answer(redis_url: str, fleet_name: str) -> None:
    """A worker takes the first step of the lane and answers it."""

    async def work() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        claim = await journal.claim("llm", "w")
        assert claim is not None
        usage = Usage(prompt_tokens=60, output_tokens=40, calls=1)
        outcome = Outcome(response=LLMResponse("SECRET", usage=usage))
        await journal.commit(claim, encode(outcome), ok=True, usage=usage, turn_here=False)
        await journal.close()

    asyncio.run(work())
