"""Budgets of jobs and tenants, deadlines: what they stop, in every state of the job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aios_dist.errors import BudgetReached, DeadlineExceeded
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState, Outcome, decode
from aios_dist.model.specs import Budget
from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand

TOKENS = Budget(tokens=100)
MONEY = Budget(money=0.01)


async def spend(hand: Hand, job: str, *, tokens: int = 0, money: float = 0.0, more: str = "next") -> None:
    """The job's step is answered at this price, and the program asks for another."""
    claim = await hand.claim()
    assert claim.job == job
    view = (await hand.journal.load(job)).view
    decision = decides(view.outcomes + 1, view.steps, more)
    done = await hand.commit(claim, usage=Usage(tokens, 0, 1), money=money, decision=decision)
    assert done.status == "advanced"


@pytest.mark.parametrize("budget", [TOKENS, MONEY])
async def test_a_job_that_has_spent_its_budget_is_paused_and_says_why(hand: Hand, budget: Budget) -> None:
    await hand.submit(starts("j", "x", budget=budget))
    await spend(hand, "j", tokens=99, money=0.009)
    await spend(hand, "j", tokens=1, money=0.001)
    assert await hand.drain() == []
    view = (await hand.journal.load("j")).view
    assert (view.state, view.why, view.spent) == (JobState.PAUSED, "budget of the job used up", "job")
    assert view.money == pytest.approx(0.01)
    await hand.look()


async def test_a_job_with_a_higher_budget_goes_on_where_it_stood(hand: Hand) -> None:
    await hand.submit(starts("j", "x", budget=TOKENS))
    await spend(hand, "j", tokens=100)
    assert await hand.drain() == []
    status, tickets = await hand.journal.resume("j")
    assert (status, len(tickets)) == ("running", 1)
    assert await hand.drain() == [], "resumed without a budget: paused again"
    assert await hand.state("j") == "paused"
    await hand.journal.resume("j", Budget(tokens=200))
    await spend(hand, "j", tokens=99)
    assert len(await hand.drain()) == 1


async def test_a_running_job_can_be_given_another_budget(hand: Hand) -> None:
    await hand.submit(starts("j", "x", budget=TOKENS))
    assert (await hand.journal.resume("j", Budget(tokens=5)))[0] == "running"
    await spend(hand, "j", tokens=5)
    assert await hand.drain() == []


async def test_a_job_that_is_to_fail_on_its_budget_fails_with_that_reason(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "y", budget=Budget(tokens=10, on_budget="fail")))
    await spend(hand, "j", tokens=10)
    assert await hand.drain() == []
    state, result = await hand.journal.state("j")
    assert state is JobState.FAILED
    with pytest.raises(BudgetReached):
        decode(result, Outcome).result()


async def test_a_job_that_fails_on_its_budget_makes_way_for_the_next_of_its_plan(hand: Hand) -> None:
    budget = Budget(tokens=0, on_budget="fail")
    await hand.plan("p", ("fixed", "continue", "j", "k"), [starts("j", "x", budget=budget)])
    assert (await hand.claim()).job == "k"


async def test_a_budget_stops_no_call_that_is_in_flight(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "y", "z", budget=Budget(tokens=5)))
    one, two = await hand.claim(), await hand.claim()
    await hand.commit(one)
    assert await hand.drain() == []
    assert (await hand.commit(two)).status == "paused"
    assert (await hand.journal.load("j")).view.usage == Usage(6, 4, 2)


async def test_a_spent_job_is_no_obstacle_to_others(hand: Hand) -> None:
    await hand.submit(starts("j", "x", budget=Budget(tokens=0)), starts("k", "x"))
    assert [c.job for c in await hand.drain()] == ["k"]


async def test_tools_sleeps_and_signals_need_no_budget(hand: Hand) -> None:
    await hand.submit(starts("j", "sleep:5", "signal:go", budget=Budget(tokens=0)))
    await hand.ring()
    await hand.reap()
    assert (await hand.claim("turns")).is_turn
    assert await hand.state("j") == "running"


@pytest.mark.parametrize(("tokens", "money"), [(10, 0.0), (0, 0.01)])
async def test_the_budget_of_a_tenant_holds_for_the_day_and_all_its_jobs(
    hand: Hand, tokens: int, money: float
) -> None:
    await hand.journal.set_tenant("acme", tokens_per_day=tokens, money_per_day=money)
    await hand.submit(starts("a", "x", tenant="acme"), starts("b", "x", tenant="acme"), starts("c", "x"))
    await spend(hand, "a", tokens=10, money=0.01)
    assert [c.job for c in await hand.drain()] == ["c"]
    paused = (await hand.journal.load("b")).view
    assert (paused.why, paused.spent) == ("budget of the tenant used up", "tenant")
    assert await hand.states("a", "b", "c") == ["paused", "paused", "running"]
    day = int(await hand.journal.now() // 86400)
    key = hand.keys.spend("acme", day)
    assert 0 < await hand.redis("PTTL", key) <= 3 * 86400 * 1000
    await hand.redis("RENAME", key, hand.keys.spend("acme", day - 1))  # a new day
    await hand.journal.resume("b")
    assert [c.job for c in await hand.drain()] == ["b"]


async def test_a_tenant_without_a_budget_costs_no_key(hand: Hand) -> None:
    await hand.submit(starts("a", "x", tenant="acme"))
    await spend(hand, "a", tokens=10, money=1)
    assert await hand.redis("KEYS", hand.keys.prefix + "spend:*") == []


async def test_the_budget_of_a_tenant_can_be_taken_away(hand: Hand) -> None:
    await hand.journal.set_tenant("acme", tokens_per_day=1, money_per_day=1)
    await hand.journal.set_tenant("acme", tokens_per_day=0, money_per_day=0)
    assert await hand.redis("HMGET", hand.keys.tenant("acme"), "l_tok", "l_mic") == [None, None]


async def test_an_answer_is_paid_for_once_however_often_it_is_written(hand: Hand) -> None:
    await hand.journal.set_tenant("acme", tokens_per_day=1000, money_per_day=0)
    await hand.submit(starts("a", "x", tenant="acme", budget=TOKENS))
    claim = await hand.claim()
    for _ in range(3):
        await hand.commit(claim, money=0.5)
    view = (await hand.journal.load("a")).view
    assert (view.usage, view.money) == (Usage(3, 2, 1), 0.5)
    day = int(await hand.journal.now() // 86400)
    assert (await hand.hash(hand.keys.spend("acme", day)))["tok"] == b"5"


async def test_an_answer_that_comes_after_the_end_is_paid_for_too(hand: Hand) -> None:
    await hand.submit(starts("a", "x"))
    claim = await hand.claim()
    await hand.journal.cancel("a")
    assert (await hand.commit(claim, money=0.5)).status == "ended"
    assert (await hand.journal.load("a")).view.money == 0.5


# Deadlines ---------------------------------------------------------------------------------------------


async def late(hand: Hand) -> int:
    for member in await hand.members(hand.keys.deadlines):
        await hand.redis("ZADD", hand.keys.deadlines, "XX", 1, member)
    return (await hand.reap()).moved


@pytest.mark.parametrize("where", ["ready", "in flight", "paused", "asleep", "for a signal", "held", "turn"])
async def test_a_job_past_its_deadline_fails_wherever_it_is(hand: Hand, where: str) -> None:
    prompts = {"asleep": ["sleep:60"], "for a signal": ["signal:go"], "turn": []}.get(where, ["x"])
    if where == "held":
        await hand.limit(flight=1)
        await hand.submit(starts("other", "x"))
    await hand.submit(starts("j", *prompts, deadline=60))
    claims = await hand.drain() if where in ("in flight", "held") else []
    if where == "paused":
        await hand.journal.pause("j")
    await hand.look()
    assert (await hand.reap()).moved == 0
    assert await late(hand) == 1
    state, result = await hand.journal.state("j")
    assert state is JobState.FAILED
    with pytest.raises(DeadlineExceeded):
        decode(result, Outcome).result()
    await hand.look()
    if where == "in flight":
        assert (await hand.commit(claims[0])).status == "ended"
    assert await hand.members(hand.keys.deadlines) == set()


async def test_a_member_past_its_deadline_before_its_turn_fails_and_its_plan_goes_on_or_stops(
    hand: Hand,
) -> None:
    for plan, on_failure, expected in (("p", "continue", "running"), ("q", "stop", "cancelled")):
        jobs = [f"{plan}{i}" for i in range(3)]
        given = [starts(jobs[1], "x", deadline=60)]
        await hand.plan(plan, ("fixed", on_failure, *jobs), given)
        assert await late(hand) == 1
        assert await hand.states(*jobs) == ["running", "failed", "waiting"]
        await hand.finish(await hand.claim())
        assert await hand.states(*jobs) == ["done", "failed", expected]
        await hand.look()
        for claim in await hand.drain():
            await hand.finish(claim)


async def test_a_deadline_ends_with_the_job(hand: Hand) -> None:
    await hand.submit(starts("j", "x", deadline=60), starts("k", ends=JobState.DONE, deadline=60))
    assert await hand.members(hand.keys.deadlines) == {"j"}
    await hand.finish(await hand.claim())
    assert await hand.members(hand.keys.deadlines) == set()


async def test_submitting_again_sets_no_second_deadline(hand: Hand) -> None:
    job = starts("j", "x", deadline=60)
    await hand.submit(job)
    before = await hand.redis("ZSCORE", hand.keys.deadlines, "j")
    assert (await hand.journal.submit([job])).status == "new"
    assert await hand.redis("ZSCORE", hand.keys.deadlines, "j") == before


async def test_the_reconciler_is_told_of_the_next_deadline(hand: Hand) -> None:
    await hand.submit(starts("j", "x", deadline=60))
    next_s = (await hand.reap()).next_s
    assert next_s is not None
    assert 50 < next_s - await hand.journal.now() <= 60
