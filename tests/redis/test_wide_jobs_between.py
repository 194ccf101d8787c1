"""What comes between the slices in which a wide job's steps follow it, and verbs that were long."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from aios_dist.journal.heads import unpack_head
from aios_dist.model.jobs import Outcome, encode
from aios_dist.model.specs import Budget
from tests.redis.conftest import Hand
from tests.redis.test_wide_jobs import (
    AT_ONCE,
    MANY,
    Watched,
    cancel,
    finish,
    pause,
    rerank,
    resume,
    retry_any,
    states,
    walk,
    wide,
)
from tests.redis.test_wide_jobs import journal as journal
from tests.redis.test_wide_jobs import watched as watched


async def failed(hand: Hand, id: str, count: int) -> None:
    """A job that was cancelled when so many of its steps had failed."""
    await wide(hand, id, count=count)
    await cancel(hand, id)
    key, fields = hand.keys.job(id), list[Any]()
    for step in range(count):  # (so many commits take long)
        head = unpack_head(await hand.redis("HGET", key, f"h{step}"))
        head = msgspec.structs.replace(head, state="failed", order=step + 1)
        fields += [f"h{step}", msgspec.msgpack.encode(head), f"o{step}", encode(Outcome.failed(ValueError()))]
    await hand.redis("HSET", key, "v", count, *fields)


def longest(watched: Watched, *verbs: str) -> int:
    """Commands of the longest script of these verbs."""
    return max(commands for verb, commands in watched.scripts if verb in verbs)


async def test_many_failures_are_run_again_some_at_a_time(hand: Hand, watched: Watched) -> None:
    most = {}
    for id, count in (("few", AT_ONCE), ("j", MANY)):
        await failed(hand, id, count)
        basis = (await hand.journal.load(id)).basis
        watched.scripts.clear()
        _, tickets = await hand.journal.retry(id, basis=basis, undone=range(count))
        assert len(tickets) >= count
        most[id] = longest(watched, "retry", "redo")
        assert await states(hand, id) == {"ready": count}
        assert not (await hand.journal.load(id)).retried
        if id == "few":
            await cancel(hand, id)
    assert most["j"] <= 1.1 * most["few"] + 100


async def test_a_turn_says_the_failures_that_who_has_retried_did_not_come_to(
    hand: Hand, watched: Watched
) -> None:
    await failed(hand, "j", MANY)
    basis = (await hand.journal.load("j")).basis
    said = await watched._run("retry", job="j", salt="s", basis=basis, undone=[*range(AT_ONCE)], rest=1)
    assert said[0] == b"running"
    between = await hand.journal.load("j")
    assert between.retried
    assert between.view.outcomes == MANY - AT_ONCE
    turn = await hand.claim("turns")
    assert (await hand.journal.redo("j", "another", range(AT_ONCE, MANY)))[0] == "stale"
    assert (await hand.journal.redo("j", between.basis, range(AT_ONCE, MANY)))[0] == "redone"
    after = await hand.journal.load("j")
    assert (after.retried, after.view.outcomes) == (False, 0)
    await finish(hand)
    assert await states(hand) == {"ready": MANY}
    assert turn.job == "j"


async def test_a_claim_pauses_no_more_jobs_than_have_the_steps_of_a_slice(
    hand: Hand, watched: Watched
) -> None:
    jobs = [f"j{n}" for n in range(8)]
    for id in jobs:
        await wide(hand, id, count=AT_ONCE, budget=Budget(tokens=0))
    watched.scripts.clear()
    while "running" in await hand.states(*jobs):
        assert await hand.journal.claim("llm", "w") is None
    assert longest(watched, "claim") <= 1.3 * watched.scripts[-1][1] + 100
    assert len(watched.scripts) >= len(jobs)


async def test_steps_follow_their_job_also_where_redis_clock_has_jumped_back(
    hand: Hand, watched: Watched
) -> None:
    watched.patience = 0
    await wide(hand)
    await pause(hand, "j")
    await hand.redis("ZADD", hand.keys.prefix + "sweeps", int((time.time() + 3600) * 1e6), "j")
    await hand.journal.shift(-3600.0, 5.0, 0)
    while (await hand.journal.sweep())[2]:
        pass
    await hand.redis("ZINCRBY", hand.keys.prefix + "sweeps", -1e6, "j")  # (who has called had a moment)
    while (await hand.journal.sweep())[2]:
        pass
    assert await states(hand) == {"parked": MANY}


async def test_who_sends_a_signal_gets_the_tickets_of_the_steps_that_it_lets_follow(
    hand: Hand, watched: Watched
) -> None:
    await wide(hand)
    await pause(hand, "j")
    watched.patience = 0
    await resume(hand, "j")
    waited = (await states(hand))["parked"]
    status, tickets = await hand.journal.signal("j", "go", Outcome(value=1))
    assert (status, len(tickets)) == ("kept", waited)


async def tries(hand: Hand) -> set[int]:
    """How often any of the steps has failed since it was asked for."""
    facts = await hand.hash(hand.keys.job("j"))
    return {unpack_head(facts[f"h{step}"]).tries for step in range(MANY)}


async def test_tries_of_all_steps_begin_anew_where_an_end_is_undone_before_all_have_followed_it(
    hand: Hand, watched: Watched
) -> None:
    await wide(hand)
    for step in (0, MANY - 1):
        await hand.redis("ZADD", hand.keys.ready("llm"), 0, f"j/{step}")
        await hand.fail(await hand.claim())
    assert await tries(hand) == {0, 1}
    watched.patience = 0
    await cancel(hand, "j")
    await retry_any(hand, "j")
    await finish(hand)
    assert await tries(hand) == {0}


async def test_a_priority_that_comes_while_a_broken_verb_is_put_right_reaches_all_steps(
    hand: Hand, watched: Watched
) -> None:
    await hand.journal.set_lane("llm", policy="priority")
    await wide(hand, policy="priority")
    watched.patience = 0
    await hand.redis("ZADD", hand.keys.dirty, 1, "j")
    await walk(hand)
    await rerank(hand, "j")
    await finish(hand)
    heads = [unpack_head(v) for f, v in (await hand.hash(hand.keys.job("j"))).items() if f[0] == "h"]
    assert {h.rank - h.base - h.ready for h in heads} == {-5 * 6e7}
    scores = await hand.redis("ZRANGE", hand.keys.ready("llm"), 0, -1, "WITHSCORES")
    assert sorted(h.rank for h in heads) == sorted(float(s) for _, s in scores)
