"""What claims and leases carry in numbers: how long a job was served, how long a lease lasts, who is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aios_dist.journal import Decision, RankedStep
from aios_dist.model.calls import ToolRequest
from aios_dist.model.jobs import JobState, Kind, NewStep, encode
from aios_dist.policies import Rank
from tests.redis.conftest import decides, ranked, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand


async def test_a_claim_says_how_long_its_job_has_been_served(hand: Hand) -> None:
    """The policies that go by service know nothing else."""
    await hand.submit(starts("j", "x"))
    first = await hand.claim()
    await hand.commit(first, decision=decides(1, 1, "y"))
    second = await hand.claim()
    assert (first.served, second.served) == (0.0, (await hand.journal.load("j")).view.served)
    assert 0 < second.served < 60


async def test_the_time_of_a_tool_is_no_service_of_a_model(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    tool = RankedStep(NewStep(Kind.TOOL, "llm", encode(ToolRequest("t", [], {})), "d-tool", "tool"), Rank())
    await hand.commit(await hand.claim(), decision=Decision(1, 1, [tool]))
    served = (await hand.journal.load("j")).view.served
    await hand.commit(await hand.claim())
    assert (await hand.journal.load("j")).view.served == served


async def left(hand: Hand, lease: str) -> float:
    """Seconds until a lease ends."""
    return float(await hand.redis("ZSCORE", hand.keys.leases, lease)) / 1e6 - await hand.journal.now()


@pytest.mark.parametrize("how", ["claimed", "renewed", "regained"])
async def test_a_lease_lasts_as_long_however_it_was_got(hand: Hand, how: str) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    if how == "regained":
        await hand.lose(claim)
    elif how == "renewed":
        await hand.lapse(claim)
    if how != "claimed":
        assert await hand.renew(claim) == []
    assert await left(hand, claim.lease) == pytest.approx(hand.config.lease, abs=hand.config.lease / 10)


async def test_a_worker_that_stalls_and_comes_back_again_and_again_has_not_been_lost(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    for _ in range(hand.config.attempts + 1):
        await hand.lose(claim)
        assert await hand.renew(claim) == []
    await hand.lose(claim)
    assert await hand.journal.dead_letters() == []
    assert (await hand.claim()).job == "j"


async def test_dead_letters_go_after_the_retention(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    for _ in range(hand.config.attempts):
        await hand.lose(await hand.claim())
    now, kept = await hand.journal.now(), hand.config.retention
    for ago, there in ((kept - 60, 1), (kept + 60, 0)):
        await hand.redis("ZADD", hand.keys.dead, f"{(now - ago) * 1e6:.0f}", "j/0")
        await hand.reap()
        assert len(await hand.journal.dead_letters()) == there


async def test_the_list_of_ends_has_a_bound(hand: Hand) -> None:
    many = "for _ = 1, 100300 do redis.call('XADD', KEYS[1], '*', 'job', 'x', 'state', 'done') end"
    await hand.redis("EVAL", many, 1, hand.keys.ends)
    await hand.submit(starts("j", ends=JobState.DONE))
    assert await hand.redis("XLEN", hand.keys.ends) <= 100_200, "(whole nodes of it go)"


async def test_what_a_fork_did_before_it_began_is_no_past_of_its_agent(hand: Hand) -> None:
    await hand.submit(starts("j", "x", agent="planner"))
    await hand.commit(await hand.claim(), decision=decides(1, 1, "y"))
    await hand.journal.fork("j", "f", 1)
    await hand.journal.cancel("j")
    turn = await hand.claim("turns")
    await hand.journal.advance("f", decides(1, 1, "y"), token=turn.token)
    await hand.finish(await hand.claim())
    assert await hand.state("f") == "done"
    assert await hand.journal.pasts(["planner"]) == {}


async def test_rounds_are_forgotten_also_where_shares_change_before_they_are_dispatched(hand: Hand) -> None:
    rounds = Rank(since="round", group="g")
    await hand.journal.set_lane("llm", policy="round-robin", fair="tenant")
    await hand.submit(*(ranked(f"j{n}", rounds, "round-robin") for n in range(3)))
    await hand.journal.set_lane("llm", fair="")
    assert len(await hand.drain()) == 3
    keys = await hand.redis("KEYS", hand.keys.rounds("*"))
    assert len(keys) == 2
    assert all([await hand.redis("PTTL", key) > 0 for key in keys])
