"""What a call took counts: without a reported usage, where it comes too late, below a millionth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState
from aios_dist.model.specs import Budget
from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    from aios_dist.journal import Claim
    from tests.redis.conftest import Hand

NONE = Usage(0, 0, 1)
"""What a provider says that reports no usage."""


async def spent(hand: Hand, tenant: str = "default") -> tuple[int, float]:
    """Tokens and money of a tenant's today."""
    (view,) = await hand.journal.tenant_views([tenant], ["llm"])
    return view.tokens_today, view.money_today


async def overtaken(hand: Hand, **more: int) -> tuple[Claim, Claim]:
    """A worker that lost its lease, and the one that has the step now."""
    await hand.submit(starts("j", "x", **more))
    late = await hand.claim()
    await hand.lose(late)
    return late, await hand.claim(worker="w2")


# No usage reported --------------------------------------------------------------------------------------


async def test_where_no_usage_is_reported_the_estimate_binds_a_models_limit(hand: Hand) -> None:
    await hand.limit(tpm=1000)
    await hand.submit(*(starts(f"j{i}", "x", tokens=900) for i in range(3)))
    await hand.commit(await hand.claim(), usage=NONE)
    await hand.look()
    assert await hand.drain() == []


async def test_where_no_usage_is_reported_the_estimate_is_what_job_and_tenant_have_spent(hand: Hand) -> None:
    await hand.journal.set_tenant("default", tokens_per_day=1000)
    await hand.submit(starts("j", "x", tokens=900, budget=Budget(tokens=500)), starts("k", "x", tokens=900))
    await hand.commit(await hand.claim(), usage=NONE, decision=decides(1, 1, "y"))
    view = (await hand.journal.load("j")).view
    assert (view.usage.total_tokens, view.usage.calls, view.estimated) == (900, 1, 900)
    assert (await spent(hand))[0] == 900
    await hand.commit(await hand.claim(), usage=Usage(450, 450, 1), decision=decides(1, 1, "y"))
    assert (await hand.journal.load("k")).view.estimated == 0, "what is reported is no estimate"
    assert await hand.drain() == []
    reasons = [(await hand.journal.load(job)).view.why for job in "jk"]
    assert reasons == ["budget of the job used up", "budget of the tenant used up"]


async def test_an_answer_that_says_not_even_that_it_was_a_call_was_one(hand: Hand) -> None:
    await hand.submit(starts("j", "x", tokens=900))
    await hand.commit(await hand.claim(), usage=Usage())
    assert (await hand.journal.load("j")).view.usage.calls == 1


async def test_a_claim_knows_what_its_answer_is_taken_to_cost(hand: Hand) -> None:
    await hand.submit(starts("j", "x", tokens=900))
    claim = await hand.claim()
    assert (claim.estimated.total_tokens, claim.estimated.calls) == (900, 1)
    await hand.commit(claim, usage=NONE)
    usage = (await hand.journal.load("j")).view.usage
    assert usage == claim.estimated, "the worker's price and the journal's count are of the same tokens"


async def test_a_model_says_how_many_of_its_answers_brought_no_usage(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i}", "x", tokens=10) for i in range(4)))
    for usage in (Usage(1, 1, 1), NONE, NONE, Usage(1, 1, 1)):
        await hand.commit(await hand.claim(), usage=usage)
    (view,) = await hand.journal.model_views(["small"])
    assert (view.answers, view.without_usage) == (3, 2), "counted from the first that brought none"


async def test_a_failed_call_without_usage_has_taken_nothing(hand: Hand) -> None:
    await hand.submit(starts("j", "x", tokens=900))
    await hand.commit(await hand.claim(), ok=False, usage=Usage())
    assert (await hand.journal.load("j")).view.usage == Usage()


async def test_an_estimate_below_nothing_is_nothing(hand: Hand) -> None:
    await hand.limit(tpm=1000)
    await hand.submit(starts("j", "x", tokens=-1_000_000), starts("k", "x", tokens=900))
    assert [c.job for c in await hand.drain()] == ["j", "k"]
    await hand.submit(starts("l", "x", tokens=900))
    assert await hand.drain() == [], "it has lifted nobody's limit"


# Paid twice, or too late --------------------------------------------------------------------------------


async def test_an_answer_that_is_fenced_counts_once_however_often_it_is_sent(hand: Hand) -> None:
    await hand.journal.set_tenant("default", tokens_per_day=10**6)
    late, now = await overtaken(hand)
    for _ in range(3):
        done = await hand.commit(late, usage=Usage(100, 20, 1), money=0.5)
        assert done.status == "fenced"
    assert (await hand.commit(now, usage=Usage(7, 3, 1), money=0.25)).status == "turn"
    assert (await hand.commit(now, usage=Usage(7, 3, 1), money=0.25)).status == "mine"
    view = (await hand.journal.load("j")).view
    assert (view.usage, view.money) == (Usage(107, 23, 2), 0.75)
    assert await spent(hand) == (130, 0.75)


async def test_an_answer_to_a_step_that_another_has_answered_counts_once(hand: Hand) -> None:
    late, now = await overtaken(hand)
    await hand.commit(now, usage=Usage(7, 3, 1))
    for _ in range(2):
        assert (await hand.commit(late, usage=Usage(100, 20, 1))).status == "written"
    assert (await hand.journal.load("j")).view.usage == Usage(107, 23, 2)


async def test_a_fenced_answer_without_usage_counts_as_its_estimate(hand: Hand) -> None:
    late, _ = await overtaken(hand, tokens=900)
    await hand.commit(late, usage=NONE)
    view = (await hand.journal.load("j")).view
    assert (view.usage.total_tokens, view.estimated) == (900, 900)


async def test_an_answer_that_was_fenced_and_is_kept_after_all_counts_once(hand: Hand) -> None:
    late, now = await overtaken(hand)
    assert (await hand.commit(late, usage=Usage(100, 20, 1))).status == "fenced"
    await hand.lose(now)
    assert (await hand.commit(late, usage=Usage(100, 20, 1))).status == "turn", "nobody has the step any more"
    assert (await hand.journal.load("j")).view.usage == Usage(100, 20, 1)


async def test_a_paid_failure_that_a_retry_has_undone_does_not_count_again(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    end = decides(1, 1, ends=JobState.FAILED)
    await hand.commit(claim, ok=False, usage=Usage(100, 20, 1), decision=end)
    basis = (await hand.hash(hand.keys.job("j")))["dg"].decode()
    assert (await hand.journal.retry("j", basis=basis, undone=[0]))[0] == "running"
    assert (await hand.commit(claim, ok=False, usage=Usage(100, 20, 1))).status == "fenced"
    assert (await hand.journal.load("j")).view.usage == Usage(100, 20, 1)


async def test_an_answer_to_an_earlier_job_of_the_same_id_is_not_this_jobs(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    late = await hand.claim()
    await hand.journal.cancel("j")
    await hand.redis("DEL", hand.keys.job("j"), hand.keys.events("j"))  # it has expired
    await hand.redis("ZREM", hand.keys.leases, late.lease)
    await hand.redis("ZREM", hand.keys.ended, "j")
    await hand.submit(starts("j", "x"))
    await hand.claim()
    assert (await hand.commit(late, usage=Usage(100, 20, 1))).status == "fenced"
    assert (await hand.journal.load("j")).view.usage == Usage()


# Money below a millionth --------------------------------------------------------------------------------


async def test_money_below_a_millionth_a_call_adds_up(hand: Hand) -> None:
    await hand.journal.set_tenant("default", money_per_day=1.0)
    await hand.submit(*(starts(f"j{i}", "x", "y") for i in range(5)))
    for claim in await hand.drain():
        await hand.commit(claim, money=1e-7)
    views = [(await hand.journal.load(f"j{i}")).view for i in range(5)]
    assert [view.money for view in views] == [pytest.approx(2e-7)] * 5
    assert (await spent(hand))[1] == pytest.approx(1e-6)


@pytest.mark.parametrize("whose", ["job", "tenant"])
async def test_ten_tenths_of_a_millionth_use_up_a_budget_of_a_millionth(hand: Hand, whose: str) -> None:
    budget = Budget(money=1e-6) if whose == "job" else None
    if whose == "tenant":
        await hand.journal.set_tenant("default", money_per_day=1e-6)
    await hand.submit(starts("j", "x", budget=budget))
    for done in range(10):
        claim = await hand.claim()
        await hand.commit(claim, money=1e-7, decision=decides(done + 1, done + 1, "x"))
    assert await hand.drain() == []
    assert await hand.state("j") == "paused"


async def test_a_budget_below_a_millionth_is_one(hand: Hand) -> None:
    await hand.submit(starts("j", "x", budget=Budget(money=3e-7)))
    for done in range(3):
        claim = await hand.claim()
        await hand.commit(claim, money=1e-7, decision=decides(done + 1, done + 1, "x"))
    assert await hand.drain() == []


async def test_what_was_counted_in_whole_millionths_reads_on(hand: Hand) -> None:
    await hand.journal.set_tenant("default", money_per_day=1.0)
    await hand.submit(starts("j", "x", budget=Budget(money=500e-6)))
    claim = await hand.claim()
    day = int(await hand.journal.now()) // 86400
    await hand.redis("HSET", hand.keys.job("j"), "um", 400, "bm", 500)  # as an earlier version wrote them
    await hand.redis("HSET", hand.keys.spend("default", day), "mic", 400)
    await hand.commit(claim, money=50.5e-6, decision=decides(1, 1, "y"))
    assert (await hand.journal.load("j")).view.money == pytest.approx(450.5e-6)
    assert (await spent(hand))[1] == pytest.approx(450.5e-6)
    assert len(await hand.drain()) == 1
