"""Invariant 9: every key has a time to live or is on the list of permanent keys."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

import pytest

from aios_dist.errors import UnknownName
from aios_dist.journal import Journal, keys
from aios_dist.journal.keys import PERMANENT
from aios_dist.model.jobs import JobState
from tests.redis.conftest import decides, starts

if TYPE_CHECKING:
    from aios_dist.config import FleetConfig
    from tests.redis.conftest import Hand


async def immortal(hand: Hand) -> set[str]:
    """Keys without a time to live, but for the permanent ones."""
    names = [k.decode() for k in await hand.redis("KEYS", hand.keys.prefix + "*")]
    return {
        name.removeprefix(hand.keys.prefix)
        for name in names
        if await hand.redis("PTTL", name) == -1
        and not any(fnmatch.fnmatchcase(name.removeprefix(hand.keys.prefix), p) for p in PERMANENT)
    }


@pytest.mark.parametrize("end", ["done", "failed", "cancelled", "lost"])
async def test_a_job_that_has_ended_expires_whole(hand: Hand, end: str) -> None:
    await hand.submit(starts("j") if end == "lost" else starts("j", "one", "two"))
    assert await immortal(hand) == {"job:j"}
    if end == "cancelled":
        await hand.journal.cancel("j")
    elif end == "lost":
        for _ in range(hand.config.attempts):
            await hand.lose(await hand.claim("turns"))
    else:
        await hand.finish(await hand.claim(), JobState(end))
    assert await immortal(hand) == set()
    left = await hand.redis("PTTL", hand.keys.job("j"))
    assert 0 < left <= hand.config.retention * 1000


async def test_nothing_that_comes_after_the_end_makes_a_key_that_stays(hand: Hand) -> None:
    await hand.submit(starts("j", "one", "two", "three"))
    one, two, three = [await hand.claim() for _ in range(3)]
    await hand.journal.cancel("j")
    await hand.commit(one)
    await hand.journal.release(two, "429", after=10)
    await hand.lose(three)
    await hand.journal.advance("j", decides(1, 3, "four"))
    await hand.journal.cancel("j")
    await hand.reap()
    assert await immortal(hand) == set()


async def test_what_comes_after_the_retention_makes_no_key(hand: Hand) -> None:
    await hand.submit(starts("j", "one", "two"))
    one, two = await hand.claim(), await hand.claim()
    await hand.journal.cancel("j")
    await hand.redis("UNLINK", hand.keys.job("j"), hand.keys.events("j"))
    await hand.commit(one)
    await hand.journal.release(two, "late")
    await hand.journal.renew([one.lease, two.lease])
    await hand.journal.advance("j", decides(0, 0, "x"), token=one.token)
    await hand.lapse()
    await hand.reap()
    names = {
        k.decode().removeprefix(hand.keys.prefix) for k in await hand.redis("KEYS", hand.keys.prefix + "*")
    }
    assert names <= {"beat", "clock", "ended", "ends", "lanes"}


async def test_a_plan_expires_when_it_has_ended_and_not_before(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b"))
    await hand.finish(await hand.claim())
    assert await immortal(hand) == {"plan:p", "job:b", "ev:b"}
    await hand.finish(await hand.claim())
    assert await immortal(hand) == set()


async def test_a_plan_that_is_extended_after_its_end_lives_again(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a"))
    await hand.run()
    assert await immortal(hand) == set()
    await hand.journal.extend("p", [starts("b", "b")])
    assert await immortal(hand) == {"plan:p", "job:b", "ev:b"}
    await hand.run()
    assert await immortal(hand) == set()


async def test_the_jobs_that_a_stopped_plan_cancelled_expire(hand: Hand) -> None:
    await hand.plan("p", ("fixed", "stop", "a", "b", ("fifo", "stop", "c", "d")))
    await hand.run(fails=["a"])
    assert await immortal(hand) == set()


async def test_the_list_of_ended_jobs_forgets_those_that_have_expired(hand: Hand) -> None:
    await hand.submit(starts("old", ends=JobState.DONE), starts("new", ends=JobState.DONE))
    await hand.redis("ZADD", hand.keys.ended, "XX", 1, "old")
    await hand.reap()
    assert await hand.members(hand.keys.ended) == {"new"}


async def test_an_open_job_whose_hash_is_gone_is_forgotten(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    await hand.redis("UNLINK", hand.keys.job("j"), hand.keys.events("j"))
    await hand.reap()
    assert await hand.members(hand.keys.open) == set()
    assert await hand.journal.claim("llm", "w") is None


async def test_a_journal_of_another_format_is_not_seen_and_not_touched(
    hand: Hand, config: FleetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "FORMAT", keys.FORMAT - 1)
    older = Journal(config)
    monkeypatch.undo()
    await older.submit([starts("j", "x")])
    written = set(await hand.redis("KEYS", older.keys.prefix + "*"))
    await hand.submit(starts("k", "x"))
    assert await hand.names() == ["k/0"]
    with pytest.raises(UnknownName):
        await hand.journal.state("j")
    await hand.journal.walk()
    await hand.reap()
    assert set(await hand.redis("KEYS", older.keys.prefix + "*")) == written
    await older.close()
    await hand.redis("UNLINK", *written)


async def test_fleets_on_one_redis_do_not_see_each_other(hand: Hand) -> None:
    from aios_dist.journal import Keys

    await hand.submit(starts("j", "one"))
    names = [k.decode() for k in await hand.redis("KEYS", "*")]
    mine = [n for n in names if n.startswith(hand.keys.prefix)]
    assert {n.split("{", 1)[1].split("}", 1)[0] for n in mine} == {hand.config.name}
    assert not any(n.startswith(Keys(hand.config.name[:-1]).prefix) for n in mine)
