"""Priorities that change while steps wait; agent-first plans; what is known of agents."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aios_dist.model.jobs import JobState
from aios_dist.model.plans import agent_first, fifo, fixed, shape
from aios_dist.policies import Past, Rank
from aios_dist.program.agents import prompts
from aios_dist.simulate.agent_first import agent_first as place_rank
from tests.redis.conftest import Hand, decides, ranked, starts

PRIORITY = Rank(per_priority=6e7)


# Priorities that change ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["ready", "held", "paused", "leased", "waits for its plan"])
async def test_a_priority_can_be_changed_wherever_the_step_is(hand: Hand, where: str) -> None:
    await hand.journal.set_lane("llm", policy="priority")
    if where == "waits for its plan":
        await hand.plan("p", ("fixed", "stop", "first", "late"), [ranked("late", PRIORITY, "priority")])
        first = await hand.claim()
    else:
        await hand.submit(ranked("late", PRIORITY, "priority"))
    await hand.submit(ranked("soon", PRIORITY, "priority", priority=5))
    if where == "held":
        await hand.limit("small", flight=1)
        await hand.submit(ranked("busy", PRIORITY, "priority", priority=9))
        first = await hand.claim()
        assert await hand.journal.claim("llm", "w1") is None
    if where == "paused":
        await hand.journal.pause("late")
    if where == "leased":
        await hand.submit(ranked("top", PRIORITY, "priority", priority=9))
        assert (await hand.claim()).job == "top"
        assert (await hand.claim()).job == "soon"
        lost = await hand.claim()
    state, _ = await hand.journal.rerank("late", 9)
    assert state in ("running", "paused", "waiting")
    if where in ("held", "waits for its plan"):
        await hand.finish(first)
    if where == "paused":
        await hand.journal.resume("late")
    if where == "leased":
        await hand.submit(ranked("next", PRIORITY, "priority", priority=8))
        await hand.lose(lost)
    await hand.look()
    assert (await hand.claim()).job == "late"


async def test_the_steps_to_come_have_the_new_priority_too(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="priority")
    await hand.submit(ranked("j", PRIORITY, "priority"))
    claim = await hand.claim()
    await hand.journal.rerank("j", 9)
    await hand.submit(ranked("other", PRIORITY, "priority", priority=5))
    await hand.commit(claim, decision=decides(1, 1, "y", rank=PRIORITY, policy="priority"))
    assert (await hand.claim()).job == "j"


async def test_a_priority_means_nothing_where_the_policy_does_not_look_at_it(hand: Hand) -> None:
    await hand.submit(ranked("a", Rank()), ranked("b", Rank()))
    assert await hand.journal.rerank("b", 9) == ("running", 0)
    assert await hand.journal.rerank("nobody", 9) == ("unknown", 0)
    assert (await hand.journal.views(["b"]))[0].priority == 9  # type: ignore[union-attr]
    assert await hand.order() == ["a", "b"]


async def test_a_job_that_has_ended_keeps_its_priority(hand: Hand) -> None:
    await hand.submit(ranked("a", PRIORITY))
    await hand.run()
    before = await hand.whole()
    assert await hand.journal.rerank("a", 9) == ("done", 0)
    assert await hand.whole() == before


# Agent-first plans -----------------------------------------------------------------------------------


async def submit_plan(hand: Hand, plan: Any, **prompts_of: int) -> None:
    ids = [spec.id for spec in plan.jobs()]
    layout, owners = shape(plan, "p", ids)
    jobs = [starts(id, *"xyz"[: prompts_of.get(id, 1)], policy="fifo") for id in ids]
    new = [
        msgspec.structs.replace(job, node=node, place=place)
        for job, node, place in zip(jobs, owners, layout.places, strict=True)
    ]
    assert (await hand.journal.submit(new, layout)).status == "new"


ONE = prompts("one", ["say {input}"], model="small")


def job(id: str) -> Any:
    return ONE.job("x", id=id)


async def test_agent_first_is_the_order_of_the_plan_and_no_slot_stands_idle(hand: Hand) -> None:
    await hand.submit(ranked("before", Rank(), "fifo"))
    await submit_plan(hand, agent_first([job("b"), job("a"), job("c")]), a=2)
    await hand.submit(ranked("after", Rank(), "fifo"))
    first = [await hand.claim() for _ in range(3)]
    assert [claim.job for claim in first] == ["before", "b", "a"]
    await hand.commit(first[1], decision=decides(1, 1, "more", policy="fifo"))
    assert await hand.order() == ["b", "a", "c", "after"]


async def test_groups_of_an_agent_first_plan_share_a_place_and_are_fifo_inside(hand: Hand) -> None:
    await submit_plan(hand, agent_first([fifo([job("b"), job("a")]), fifo([job("d"), job("c")])]))
    claim = await hand.claim()
    assert claim.job == "b"
    await hand.commit(claim, decision=decides(1, 1, "more", policy="fifo"))
    assert await hand.order() == ["a", "b", "d", "c"]


async def test_the_rank_is_that_of_the_plain_function(hand: Hand) -> None:
    await submit_plan(hand, agent_first([job("a"), job("b"), job("c")]))
    admitted = int((await hand.hash(hand.keys.plan("p")))["a0"])
    ranks = [(await hand.journal.load(id)).steps[0].rank for id in "abc"]
    assert ranks == [place_rank(admitted, n, 3, 0) for n in range(3)]


async def test_what_extends_an_agent_first_plan_goes_behind_it(hand: Hand) -> None:
    await submit_plan(hand, agent_first([job("a"), job("b")]), a=2)
    await hand.journal.extend("p", [starts("c", "x", policy="fifo"), starts("d", "x", policy="fifo")])
    await hand.submit(ranked("other", Rank(), "fifo"))
    await hand.look()
    first = [await hand.claim() for _ in range(4)]
    assert [claim.job for claim in first] == ["a", "a", "b", "c"]
    await hand.commit(first[3], decision=decides(1, 1, "more", policy="fifo"))
    assert [job for job in await hand.order() if job != "other"] == ["c", "d"], "each has a place of its own"


async def test_a_strict_order_within_an_agent_first_plan_stays_strict(hand: Hand) -> None:
    await submit_plan(hand, agent_first([fixed([job("a"), job("b")]), job("c")]))
    claims = await hand.drain()
    assert [claim.job for claim in claims] == ["a", "c"]
    await hand.finish(claims[0])
    assert await hand.order() == ["b"]


# What is known of agents -----------------------------------------------------------------------------


async def test_a_run_that_succeeded_is_remembered_of_its_agent(hand: Hand) -> None:
    await hand.submit(starts("good", "x", agent="planner"), starts("bad", "x", agent="planner"))
    good, bad = await hand.claim(), await hand.claim()
    await hand.finish(good)
    await hand.finish(bad, JobState.FAILED)
    past = await hand.journal.pasts(["planner", "stranger"])
    assert past.keys() == {"planner"}
    assert past["planner"].steps == 1
    served = (await hand.journal.load("good")).view.served
    assert past["planner"] == Past((served,), 1)
    assert 0 < served < 60


async def test_only_the_last_runs_are_remembered(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{n}", "x", agent="planner") for n in range(205)))
    await hand.run(most=300)
    assert len((await hand.journal.pasts(["planner"]))["planner"].totals) == 200
