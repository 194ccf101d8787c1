"""Deadlines as ranks: to the microsecond, through changes of rules, and anew from a retry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aios_dist.journal import Stray
from aios_dist.model.jobs import JobState
from aios_dist.policies import Rank, Waiting
from aios_dist.policies.deadline import rank as says
from aios_dist.program import turns
from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    from aios_dist.journal import NewJob
    from tests.redis.conftest import Hand

CATALOG = turns.Catalog({"small": "llm"}, "small", 1, 1, {"llm": "deadline"})


def due(id: str, seconds: float) -> NewJob:
    """A job with that deadline and one step, ranked by it."""
    return starts(id, "x", deadline=seconds, rank=says(Waiting("a", deadline=seconds)), policy="deadline")


async def rank_anew(hand: Hand) -> None:
    async def rank(strays: list[Stray]) -> list[tuple[Rank, str]]:
        return [turns.rank(stray.kind, "llm", stray.waiting, CATALOG) for stray in strays]

    await hand.journal.rank_strays("llm", rank)


@pytest.mark.parametrize(
    ("late", "soon"), [(1_000_004.0, 1_000_000.0), (86_400.25, 86_400.0), (3e8 + 1, 3e8)]
)
async def test_deadlines_keep_their_order_when_a_lane_is_set_there_and_back(
    hand: Hand, late: float, soon: float
) -> None:
    await hand.journal.set_lane("llm", policy="deadline")
    await hand.submit(due("late", late))
    await hand.submit(due("soon", soon))
    before = await hand.redis("ZRANGE", hand.keys.ready("llm"), 0, -1, "WITHSCORES")
    await hand.journal.set_lane("llm", policy="fifo")
    await hand.journal.set_lane("llm", policy="deadline")
    await rank_anew(hand)
    assert await hand.names() == ["soon/0", "late/0"]
    assert await hand.redis("ZRANGE", hand.keys.ready("llm"), 0, -1, "WITHSCORES") == before


async def test_a_retried_job_has_its_whole_deadline_again_and_ranks_by_that(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="deadline")
    await hand.submit(due("missed", 30.0))
    await hand.redis("ZADD", hand.keys.deadlines, 1, "missed")
    await hand.reap()
    assert await hand.state("missed") == "failed"
    await hand.redis("HINCRBY", hand.keys.job("missed"), "t0", -3_600_000_000)  # it was an hour ago
    await hand.submit(due("urgent", 20.0), due("later", 40.0))
    now = await hand.journal.now()
    assert (await hand.journal.retry("missed"))[0] == "running"
    assert await hand.redis("ZSCORE", hand.keys.deadlines, "missed") == pytest.approx(
        (now + 30) * 1e6, abs=5e6
    )
    assert await hand.names() == ["urgent/0", "missed/0", "later/0"]
    await hand.journal.set_lane("llm", policy="fifo")
    await hand.journal.set_lane("llm", policy="deadline")
    await rank_anew(hand)
    assert await hand.names() == ["urgent/0", "missed/0", "later/0"]


async def test_a_call_that_outlives_a_retry_comes_back_with_the_new_rank(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="deadline")
    await hand.submit(due("j", 30.0))
    await hand.redis("HINCRBY", hand.keys.job("j"), "t0", -3_600_000_000)
    claim = await hand.claim()
    await hand.journal.cancel("j")
    await hand.submit(due("urgent", 20.0))
    await hand.journal.retry("j")
    await hand.journal.release(claim, "given back")
    assert await hand.names() == ["urgent/0", "j/0"]
    assert await hand.order() == ["urgent", "j"]


async def test_a_job_without_a_deadline_has_none_after_a_retry(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    await hand.commit(await hand.claim(), ok=False, decision=decides(1, 1, ends=JobState.FAILED))
    assert (await hand.journal.retry("j"))[0] == "running"
    assert await hand.redis("ZSCORE", hand.keys.deadlines, "j") is None
