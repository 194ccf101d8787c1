"""Invariant 10: no end is missed by who waits for it, whenever he began to wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aios_dist.config import FleetConfig
from aios_dist.errors import JournalError
from aios_dist.journal import Journal
from aios_dist.model.jobs import JobState
from tests.redis.conftest import Hand, again, starts

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis


async def collect(journal: Journal, after: str, most: int, idle: float = 5.0) -> list[str]:
    """The next ends, until there are enough."""
    found: list[str] = []
    ends = journal.ends(after, idle)
    async for ids in ends:
        found += ids
        if len(found) >= most:
            break
    await ends.aclose()  # type: ignore[attr-defined]
    return found


async def test_an_end_between_looking_and_waiting_is_not_missed(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    after = await hand.journal.ends_now()  # the waiter first notes where the stream stands,
    assert await hand.state("j") == "running"  # then looks,
    await hand.finish(await hand.claim())  # then the job ends,
    assert await collect(hand.journal, after, 1) == ["j"]  # and only then does he wait


async def test_on_an_empty_stream_the_first_end_of_all_is_seen(hand: Hand) -> None:
    after = await hand.journal.ends_now()
    assert after == "0-0"
    await hand.submit(starts("j", ends=JobState.DONE))
    assert await collect(hand.journal, after, 1) == ["j"]


async def test_what_ended_before_is_not_told_again(hand: Hand) -> None:
    await hand.submit(starts("old", ends=JobState.DONE))
    after = await hand.journal.ends_now()
    await hand.submit(starts("new", ends=JobState.DONE))
    assert await collect(hand.journal, after, 1) == ["new"]


async def test_who_waits_already_is_told_as_it_happens(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    waiter = asyncio.create_task(collect(hand.journal, await hand.journal.ends_now(), 1, idle=30))
    await asyncio.sleep(0)
    await hand.finish(await hand.claim())
    assert await asyncio.wait_for(waiter, 20) == ["j"]


@pytest.mark.parametrize("end", ["done", "failed", "cancelled", "dropped", "lost"])
async def test_every_kind_of_end_is_told(hand: Hand, end: str) -> None:
    after = await hand.journal.ends_now()
    job = "j"
    if end == "dropped":
        await hand.plan("p", ("fixed", "stop", "first", "j"))
        await hand.run(fails=["first"])
    elif end == "lost":
        await hand.submit(starts("j"))
        for _ in range(hand.config.attempts):
            await hand.lose(await hand.claim("turns"))
    else:
        await hand.submit(starts("j", "one"))
        if end == "cancelled":
            await hand.journal.cancel("j")
        else:
            await hand.finish(await hand.claim(), JobState(end))
    assert job in await collect(hand.journal, after, 1)


async def test_without_news_the_waiter_gets_an_empty_answer(hand: Hand) -> None:
    ends = hand.journal.ends("0-0", idle=0.01)
    assert await anext(ends) == []
    await ends.aclose()  # type: ignore[attr-defined]


async def test_thousands_of_ends_are_told_each_once(hand: Hand) -> None:
    after = await hand.journal.ends_now()
    ids = [f"j{i:04}" for i in range(2500)]
    for i in range(0, 2500, 500):
        await hand.journal.submit([starts(id, ends=JobState.DONE) for id in ids[i : i + 500]])
    assert await collect(hand.journal, after, 2500) == ids


async def test_the_ends_of_plans_are_not_taken_for_jobs(hand: Hand) -> None:
    after = await hand.journal.ends_now()
    await hand.plan("p", ("fixed", "stop", "a", "b"))
    await hand.run()
    await hand.submit(starts("z", ends=JobState.DONE))
    assert await collect(hand.journal, after, 3) == ["a", "b", "z"]


async def test_ends_before_during_and_after_a_restart_of_redis_are_told(
    own_server: EmbeddedRedis,
) -> None:
    config = FleetConfig(name="ends", redis_url=own_server.url)
    journal = Journal(config)
    hand = Hand(journal, config)
    ends = journal.ends(await journal.ends_now(), idle=5)
    try:
        await hand.submit(starts("before", ends=JobState.DONE))
        assert await anext(ends) == ["before"]
        waiting = asyncio.ensure_future(anext(ends))
        await asyncio.sleep(0)
        own_server.kill()
        assert await asyncio.wait_for(waiting, 20) == []  # a gap: the caller may look by himself
        own_server.restart()
        await again(lambda: hand.submit(starts("after", ends=JobState.DONE)))
        found: list[str] = []
        while "after" not in found:
            found += await asyncio.wait_for(anext(ends), 20)
        assert found == ["after"]
    finally:
        await ends.aclose()  # type: ignore[attr-defined]
        await journal.close()


async def test_a_record_whose_state_cannot_be_read_keeps_nobody_elses_end_away(hand: Hand) -> None:
    await hand.submit(starts("j", "one"), starts("k", "two"))
    await hand.redis("HSET", hand.keys.job("k"), "st", "runn")
    assert await hand.journal.states(["j", "k"]) == [JobState.RUNNING, None]
    with pytest.raises(JournalError, match="cannot be read"):
        await hand.journal.state("k")
    await hand.redis("HSET", hand.keys.job("k"), "st", "running")


async def test_a_name_that_is_no_text_keeps_no_other_end_away(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    after = await hand.journal.ends_now()
    await hand.redis("XADD", hand.keys.ends, "*", "job", b"\xff", "state", "done")
    await hand.redis("ZADD", hand.keys.open, 1, b"\xff")
    assert [view.id for view in await hand.journal.list_jobs()] == ["j"]
    await hand.finish(await hand.claim())
    assert "j" in await collect(hand.journal, after, 2)
    await hand.redis("ZREM", hand.keys.open, b"\xff")
