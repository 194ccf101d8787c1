"""The simulator dispatches as the journal does: any plan, one slot, the same order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aios_dist.agents import JobSpec
from aios_dist.jobs import JobState
from aios_dist.plans import Plan, agent_first, fifo, fixed, hybrid, shape
from aios_dist.simulate import Job, simulate
from tests.redis import command_line
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
    return order


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("fails", ["", "b", "ae"])
async def test_simulator_and_journal_dispatch_in_the_same_order(hand: Hand, name: str, fails: str) -> None:
    plan = PLANS[name]
    jobs = [Job(id, (1.0,) * count, fails=id in fails) for id, count in COUNTS.items()]
    run = simulate(jobs, 1, plan=plan)
    assert await order_of_the_journal(hand, plan, fails) == [dispatch.label for dispatch in run.log]
    cancelled = {job.name for job, end in zip(jobs, run.ends, strict=True) if end is None}
    states = dict(zip(COUNTS, await hand.states(*COUNTS), strict=True))
    assert {id for id, state in states.items() if state == "cancelled"} == cancelled


def test_an_empty_journal_is_said_and_nothing_is_written(cli: Any, folder: Any) -> None:
    for args in ((), ("--out", "export.jsonl")):
        done = cli("job", "export", *args)
        assert (done.code, done.out) == (2, "")
        assert "nothing to export" in done.err
    assert not (folder / "export.jsonl").exists()


async def test_what_has_run_is_exported_and_can_be_simulated(hand: Hand) -> None:
    from aios_dist.cli.job_export import calls_of

    plan = PLANS["fifo"]
    await order_of_the_journal(hand, plan, "")
    steps = calls_of(await hand.journal.load("d"))
    assert [(step.step, step.after, step.agent) for step in steps] == [(n, n, "d") for n in range(4)]
    assert all(0 <= step.seconds < 60 and 0 <= step.own_s < 60 for step in steps)
    assert (steps[0].prompt_tokens, steps[0].failed) == (0, False)
