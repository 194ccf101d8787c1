"""Invariant 8: steps are claimed in the order in which they became ready, on Redis' clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aios_dist.journal import Decision, Journal, NewJob
from aios_dist.model.jobs import JobRecord, JobState
from aios_dist.policies import Rank
from tests.redis.conftest import asks, decides, starts

if TYPE_CHECKING:
    from tests.redis.conftest import Hand


async def test_steps_are_claimed_in_the_order_of_becoming_ready(hand: Hand) -> None:
    """The three agents of the seed, without a pause of C's own."""
    await hand.submit(starts("A", "A1"), starts("B", "B1"), starts("C", "C1"))
    left = {"A": 3, "B": 2, "C": 2}
    order = []
    for _ in range(7):
        claim = await hand.claim()
        order.append(f"{claim.job}{int(claim.step) + 1}")
        number = int(claim.step) + 1
        if number == left[claim.job]:
            await hand.finish(claim)
        else:
            await hand.commit(claim, decision=decides(number, number, "next"))
    assert " ".join(order) == "A1 B1 C1 A2 B2 C2 A3"


async def test_an_agent_that_computes_for_long_comes_behind_those_that_did_not(hand: Hand) -> None:
    """The three agents of the seed, C working between C1 and C2: A1 B1 C1 A2 B2 A3 C2."""
    await hand.submit(starts("A", "A1"), starts("B", "B1"), starts("C", "C1"))
    for _ in range(3):
        claim = await hand.claim()
        if claim.job != "C":
            await hand.commit(claim, decision=decides(1, 1, "next"))
        else:
            await hand.commit(claim)
    assert await hand.names() == ["A/0", "B/0"] or await hand.names() == ["A/1", "B/1"]
    a2 = await hand.claim()
    await hand.commit(a2, decision=decides(2, 2, "A3"))
    await hand.journal.advance("C", decides(1, 1, "C2"))
    assert await hand.names() == ["B/1", "A/2", "C/1"]


async def test_steps_made_ready_in_one_call_keep_the_order_in_which_they_are_written(hand: Hand) -> None:
    prompts = [f"p{i}" for i in range(30)]
    await hand.submit(starts("j", *prompts), starts("i", "x"))
    steps = (await hand.journal.load("j")).steps
    assert await hand.names() == [*(f"j/{i}" for i in range(30)), "i/0"]
    ranks = [s.rank for s in steps]
    assert ranks == sorted(set(ranks))


async def test_the_order_is_one_across_connections(hand: Hand) -> None:
    other = Journal(hand.config)
    try:
        for i in range(20):
            journal = (hand.journal, other)[i % 2]
            await journal.submit([starts(f"j{i:02}", "x")])
    finally:
        await other.close()
    assert await hand.names() == [f"j{i:02}/0" for i in range(20)]


async def test_no_two_moments_are_the_same_however_many_journals_write(hand: Hand) -> None:
    others = [Journal(hand.config) for _ in range(3)]
    journals = [hand.journal, *others]
    try:
        await asyncio.gather(*(journals[i % 4].submit([starts(f"j{i:03}", "x", "y")]) for i in range(100)))
    finally:
        await asyncio.gather(*(journal.close() for journal in others))
    scores = await hand.redis("ZRANGE", hand.keys.ready("llm"), 0, -1, "WITHSCORES")
    flat = [float(s[1]) for s in scores] if isinstance(scores[0], list) else list(map(float, scores[1::2]))
    assert len(set(flat)) == 200


async def test_time_never_goes_back_where_redis_clock_does(hand: Hand) -> None:
    ahead = int((await hand.journal.now() + 3600) * 1e6)
    await hand.redis("SET", hand.keys.prefix + "clock", ahead)
    await hand.submit(starts("a", "x"), starts("b", "x"))
    assert await hand.names() == ["a/0", "b/0"]
    assert int(await hand.redis("GET", hand.keys.prefix + "clock")) > ahead


async def test_the_lowest_rank_runs_first_and_equal_bases_in_order_of_time(hand: Hand) -> None:
    jobs = {
        "late": Rank(5.0, "round", group="late"),
        "soon": Rank(-1.5, "round", group="soon"),
        "fifo": Rank(),
        "boosted": Rank(-1e12),
    }
    await hand.submit(
        *(NewJob(id, JobRecord("a", {}), Decision(0, 0, asks("x", rank=rank))) for id, rank in jobs.items())
    )
    assert [m.split("/")[0] for m in await hand.names()] == ["soon", "late", "boosted", "fifo"]
    for _ in range(4):
        await hand.claim()
    await hand.lapse()
    await hand.reap()
    assert [m.split("/")[0] for m in await hand.names()] == ["soon", "late", "boosted", "fifo"]


@pytest.mark.parametrize("how", ["released", "lost", "timer"])
async def test_a_step_that_comes_back_is_as_old_as_it_was(hand: Hand, how: str) -> None:
    await hand.submit(starts("a", "x"))
    claim = await hand.claim()
    await hand.submit(starts("b", "x"))
    if how == "released":
        await hand.journal.release(claim, "shutdown")
    elif how == "lost":
        await hand.lose(claim)
    else:
        await hand.journal.release(claim, "429", after=60)
        await hand.ring()
        await hand.reap()
    await hand.submit(starts("c", "x"))
    assert await hand.names() == ["a/0", "b/0", "c/0"]


async def test_lanes_do_not_see_each_other(hand: Hand) -> None:
    await hand.submit(starts("a", "x", lane="small"), starts("b", "x", lane="big:one"))
    assert await hand.journal.claim("llm", "w") is None
    assert (await hand.claim("big:one")).job == "b"
    assert (await hand.claim("small")).job == "a"


@pytest.mark.parametrize(
    "id", ["a.b_c:d-e", "t", "0", "ev:job", "x" * 128, "-", "a:b:c", "node0", "A/".strip("/")]
)
async def test_every_id_that_is_allowed_works(hand: Hand, id: str) -> None:
    await hand.submit(starts(id, "x"))
    claim = await hand.claim()
    assert (claim.job, claim.step) == (id, "0")
    await hand.lose(claim)
    claim = await hand.claim()
    await hand.journal.release(claim, "429", after=1)
    await hand.ring()
    await hand.reap()
    claim = await hand.claim()
    await hand.commit(claim)
    await hand.ring()
    await hand.reap()
    turn = await hand.claim("turns")
    assert turn.job == id
    done = await hand.journal.advance(id, decides(1, 1, ends=JobState.DONE), token=turn.token)
    assert done.status == "advanced"
    assert await hand.state(id) == "done"


async def test_ids_of_a_plan_and_of_its_job_may_be_the_same(hand: Hand) -> None:
    await hand.plan("n0", ("fixed", "stop", "n0", "n1"))
    assert await hand.run() == ["n0", "n1"]
    assert (await hand.journal.plan("n0")).state == "done"


async def test_a_claim_carries_all_that_the_call_needs(hand: Hand) -> None:
    await hand.submit(starts("j", "hello"))
    claim = await hand.claim(worker="w7")
    step = (await hand.journal.load("j")).steps[0]
    assert (claim.label, claim.version, claim.attempt, claim.is_turn) == ("small", 0, 1, False)
    assert claim.record == JobRecord("a", {"id": "j"})
    assert claim.ready_us == round(step.ready_at * 1e6)
    assert claim.started_us == round(step.started_at * 1e6)
    assert claim.ready_us < claim.started_us
    assert step.worker == "w7"
    assert [e.what for e in await hand.journal.events("j")] == ["submitted", "ready", "started"]
    assert [(e.what, e.detail) for e in await hand.journal.events("j", after=1)] == [("started", "w7")]
