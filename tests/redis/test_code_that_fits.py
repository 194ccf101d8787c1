"""Which worker runs a job's program: one with the code that it began with, while there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aios_dist.journal import Claim, Need, Nothing, WorkerInfo
from aios_dist.journal.records import random_name
from aios_dist.policies import Rank
from tests.redis.breaking import begun, parks
from tests.redis.conftest import starts
from tests.redis.test_work_of_a_slice import counted

if TYPE_CHECKING:
    from tests.redis.conftest import Hand


async def worker(hand: Hand, id: str, code: str, lanes: str = "turns", ago: float = 0.0) -> WorkerInfo:
    """A worker that has this code of agent ``a``, as it said so long ago."""
    now = await hand.journal.now()
    info = WorkerInfo(
        id=id,
        host="h",
        pid=1,
        pool="p",
        lanes=lanes.split(),
        slots=1,
        agents=["a"],
        codes={"a": code},
        started_at=now,
        seen_at=now - ago,
    )
    await hand.journal.announce(info, {})
    return info


async def leaves(hand: Hand, info: WorkerInfo) -> None:
    """It is told to end."""
    await hand.journal.announce(msgspec.structs.replace(info, codes={}), {})
    await hand.journal.let_codes_go(info.code_needs())


async def take(
    hand: Hand, code: str | None, lane: str = "turns", unsought: int | None = None
) -> Claim | Nothing:
    """What a worker with this code of ``a`` gets; None: of a release that knows none."""
    codes = None if code is None else {"a": code}
    served: dict[str, Any] = {"models": ["small"], "agents": ["a"], "codes": codes}
    return await hand.journal.take(lane, "w", random_name(), **served, unsought=unsought)


async def a_turn_waits(hand: Hand, id: str = "j") -> None:
    await hand.submit(begun(id, "x"))
    await hand.commit(await hand.claim(), turn_here=False)


async def test_a_turn_waits_for_the_code_that_its_job_began_with(hand: Hand) -> None:
    await worker(hand, "old", "old")
    await a_turn_waits(hand)
    got = await take(hand, "new")
    assert isinstance(got, Nothing)
    assert got.elsewhere, "its ticket belongs to the other"
    assert isinstance(await take(hand, "new"), Nothing)
    await hand.look()
    assert await hand.journal.needs(["turns"]) == [Need("turns", "code/a@old", 1, True)]
    got = await take(hand, "old")
    assert isinstance(got, Claim)
    assert (got.job, got.step, got.code, got.fits) == ("j", "t", "old", True)
    assert await hand.journal.needs(["turns"]) == []
    await hand.look()


async def test_what_is_behind_it_goes_on_meanwhile(hand: Hand) -> None:
    await worker(hand, "old", "old")
    await a_turn_waits(hand)
    await hand.submit(starts("k"))
    got = await take(hand, "new")
    assert isinstance(got, Claim)
    assert (got.job, got.code) == ("k", "")


async def test_a_worker_that_ends_says_so_at_once_and_who_is_left_tries(hand: Hand) -> None:
    one, other = await worker(hand, "one", "old"), await worker(hand, "other", "old")
    await a_turn_waits(hand)
    await leaves(hand, one)
    assert isinstance(await take(hand, "new"), Nothing), "the other has it"
    await leaves(hand, other)
    got = await take(hand, "new")
    assert isinstance(got, Claim)
    assert (got.job, got.step) == ("j", "t")
    assert got.fits
    await hand.look()
    assert isinstance(await take(hand, "new"), Nothing)
    assert await hand.redis("EXISTS", hand.keys.wanted("turns"), hand.keys.held("?code/a@old")) == 0
    assert await hand.redis("ZRANGE", hand.keys.prefix + "holds:turns", 0, -1) == []


async def test_one_that_was_lost_is_waited_for_as_long_as_a_lease(hand: Hand) -> None:
    lease = hand.config.lease
    await worker(hand, "old", "old", ago=lease - 2.0)
    await a_turn_waits(hand)
    assert isinstance(await take(hand, "new"), Nothing)
    await hand.redis("DEL", hand.keys.serving)
    await worker(hand, "old", "old", ago=lease + 0.1)
    assert isinstance(await take(hand, "new"), Claim)


async def test_the_code_of_a_worker_that_runs_no_turns_is_not_waited_for(hand: Hand) -> None:
    await worker(hand, "old", "old", lanes="llm")
    await a_turn_waits(hand)
    assert isinstance(await take(hand, "new"), Claim)


async def test_a_call_is_anybodys_and_its_turn_is_not(hand: Hand) -> None:
    await worker(hand, "old", "old")
    await hand.submit(begun("j", "x"), begun("k", "x"))
    for code, fits in (("new", False), ("old", True)):
        got = await take(hand, code, "llm")
        assert isinstance(got, Claim)
        assert (got.code, got.fits) == ("old", fits)


async def test_a_release_that_knows_no_codes_takes_what_there_is(hand: Hand) -> None:
    await worker(hand, "old", "old")
    await a_turn_waits(hand)
    assert isinstance(await take(hand, "new"), Nothing)
    got = await take(hand, None)
    assert isinstance(got, Claim)
    assert got.job == "j"


OLD = [f"c{n:02}" for n in range(65)]
"""Codes of deploys before; a claim looks at 30."""
MOST = 600
"""Commands of a claim: 2 to 4 ms."""


async def turns_wait_for(hand: Hand, codes: list[str]) -> None:
    """A job for each, and a worker that has the code; one that has none of them leaves all to others."""
    await hand.submit(*(starts(f"j{code}") for code in codes))
    until = await hand.journal.now() * 1e6 + 6e7
    for code in codes:
        await hand.redis("HSET", hand.keys.job(f"j{code}"), "ch", code)
        await hand.redis("ZADD", hand.keys.serving, until, f"has/a@{code}")
    await hand.warm()
    async with counted(hand.journal) as seen:
        while isinstance(got := await take(hand, "new"), Nothing) and got.again:
            pass
    assert max(commands for _, commands in seen) <= MOST
    assert len(seen) > 1
    assert await hand.redis("ZCARD", hand.keys.wanted("turns")) == len(codes)


async def asked(hand: Hand, code: str, most: int = MOST // 2) -> tuple[Claim | Nothing, int]:
    """What a worker with that code gets that asks on for as long as it is told to, and how often it has."""
    async with counted(hand.journal) as seen:
        got = await take(hand, code)
        while isinstance(got, Nothing) and got.again:
            got = await take(hand, code, unsought=got.unsought)
    assert max(commands for _, commands in seen) <= most
    return got, len(seen)


async def test_however_many_codes_are_waited_for_a_claim_is_short_and_comes_to_its_own(hand: Hand) -> None:
    await turns_wait_for(hand, OLD)
    for code in (OLD[40], OLD[3]):
        got, claims = await asked(hand, code)
        assert isinstance(got, Claim)
        assert got.job == f"j{code}"
        assert claims <= 3
    got, claims = await asked(hand, "new")
    assert isinstance(got, Nothing)
    assert claims == 3, "it has looked at all of them"
    await hand.look()


async def test_one_behind_many_codes_is_come_to_also_where_the_lane_is_never_empty(hand: Hand) -> None:
    await turns_wait_for(hand, OLD)
    await hand.submit(*(starts(f"k{n}") for n in range(4)))
    got = [await take(hand, OLD[-1]) for _ in range(3)]
    assert f"j{OLD[-1]}" in [claim.job for claim in got if isinstance(claim, Claim)]


async def test_however_many_codes_nobody_has_any_more_a_claim_tries_some_of_them(hand: Hand) -> None:
    await turns_wait_for(hand, OLD)
    await hand.redis("DEL", hand.keys.serving)
    got = set[str]()
    for _ in OLD:
        claim, claims = await asked(hand, "new")
        assert isinstance(claim, Claim)
        assert claims == 1
        got.add(claim.job)
    assert len(got) == len(OLD)
    assert isinstance(await take(hand, "new"), Nothing)
    assert await hand.redis("EXISTS", hand.keys.wanted("turns")) == 0
    await hand.look()


@pytest.mark.parametrize("verb", ["cancel", "pause"])
async def test_a_job_whose_turn_waits_for_code_leaves_nothing_behind(hand: Hand, verb: str) -> None:
    await worker(hand, "old", "old")
    await a_turn_waits(hand)
    await take(hand, "new")
    await getattr(hand.journal, verb)("j")
    assert await hand.redis("EXISTS", hand.keys.held("?code/a@old")) == 0
    await hand.look()
    if verb == "pause":
        await hand.journal.resume("j")
        assert isinstance(await take(hand, "old"), Claim)


async def test_where_another_has_the_code_its_turn_is_that_ones_and_nothing_is_parked(hand: Hand) -> None:
    await hand.submit(begun("j", "x"))
    await worker(hand, "old", "old")
    claim = await hand.claim()
    done = await hand.commit(claim, decision=parks(1, 1))
    assert done.status == "advanced"
    (view,) = await hand.journal.views(["j"])
    assert view is not None
    assert view.state == "running"
    assert isinstance(await take(hand, "new"), Nothing)
    got = await take(hand, "old")
    assert isinstance(got, Claim)
    assert got.is_turn


async def test_those_with_other_code_stay_parked_when_one_comes_back(hand: Hand) -> None:
    for id, code in (("j", "old"), ("k", "older"), ("l", "old")):
        job = begun(id, "x")
        assert job.decision is not None
        await hand.submit(job)
        await hand.redis("HSET", hand.keys.job(id), "ch", code)
        await hand.journal.advance(id, parks(0, 1))
    assert (await hand.journal.unpark())[0] == 0
    await worker(hand, "back", "old")
    assert (await hand.journal.unpark())[0] == 2
    views = await hand.journal.views(["j", "k", "l"])
    assert [view.state for view in views if view] == ["running", "paused", "running"]
    await hand.look()
    await hand.journal.resume("k")
    assert await hand.redis("EXISTS", hand.keys.prefix + "parked") == 0


async def test_many_parked_jobs_go_on_some_at_a_time(hand: Hand) -> None:
    for n in range(45):
        await hand.submit(begun(f"j{n}", "x"))
        await hand.journal.advance(f"j{n}", parks(0, 1))
    await worker(hand, "back", "old")
    went_on, more = [], True
    while more:
        count, _, more, _ = await hand.journal.unpark()
        went_on.append(count)
    assert sum(went_on) == 45
    assert max(went_on) <= 20
    await hand.look()


async def test_jobs_behind_hundreds_of_codes_that_nobody_has_go_on_too(hand: Hand) -> None:
    await hand.submit(begun("j", "x"))
    await hand.redis("HSET", hand.keys.job("j"), "ch", "z")
    await hand.journal.advance("j", parks(0, 1))
    others = [part for n in range(450) for part in (0, f"code/a@c{n}|k{n}")]
    await hand.redis("ZADD", hand.keys.parked, *others)
    for n in range(450):
        await hand.redis("HSET", hand.keys.job(f"k{n}"), "st", "paused", "pk", f"code/a@c{n}")
    await worker(hand, "back", "z")
    looks, at, more = 0, b"-", True
    while more:
        _, _, more, at = await hand.journal.unpark(at)
        looks += 1
    assert await hand.state("j") == "running"
    assert looks == 3
    for n in range(450):  # (they are no jobs)
        await hand.redis("DEL", hand.keys.job(f"k{n}"))
    assert (await hand.journal.unpark())[0] == 0


async def test_a_fork_waits_for_the_code_that_made_its_history(hand: Hand) -> None:
    await worker(hand, "old", "old")
    await a_turn_waits(hand)
    await hand.claim("turns")
    await hand.journal.fork("j", "f", 1)
    history = await hand.journal.load("f")
    assert (history.code, history.of_code) == ("old", 1)
    assert isinstance(await take(hand, "new"), Nothing)
    got = await take(hand, "old")
    assert isinstance(got, Claim)
    assert (got.job, got.code) == ("f", "old")


async def test_a_job_that_is_paused_besides_stays_parked(hand: Hand) -> None:
    await hand.submit(begun("j", "x"))
    await hand.journal.advance("j", parks(0, 1))
    assert await hand.journal.pause("j") == "paused"
    await worker(hand, "back", "old")
    assert (await hand.journal.unpark())[0] == 0
    (view,) = await hand.journal.views(["j"])
    assert view is not None
    assert (view.state, view.parked, view.parked_for) == ("paused", True, "")
    await hand.journal.resume("j")
    assert await hand.state("j") == "running"
    assert await hand.redis("EXISTS", hand.keys.parked, hand.keys.parked_in) == 0
    await hand.look()


async def test_a_job_that_is_set_aside_is_parked_no_more(hand: Hand) -> None:
    for id in "jk":
        await hand.submit(begun(id, "x"))
        await hand.journal.advance(id, parks(0, 1))
    await hand.redis("HSET", hand.keys.job("k"), "h0", b"\xc1")
    await hand.journal.walk("0", page=100)
    assert await hand.state("k") == "failed"
    assert await hand.members(hand.keys.parked) == {"code/a@old|j"}
    await hand.redis("DEL", hand.keys.job("k"), hand.keys.events("k"))
    await hand.redis("ZREM", hand.keys.ended, "k")


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
async def test_a_jump_of_redis_clock_keeps_nobody_waiting_for_code_that_is_gone(
    hand: Hand, jump: float
) -> None:
    """A worker said so before the clock jumped, and was lost since."""
    await worker(hand, "old", "old", ago=jump)
    await hand.journal.shift(jump, 5.0, 0)
    until = float(await hand.redis("ZSCORE", hand.keys.serving, "has/a@old")) / 1e6
    now = await hand.journal.now()
    assert now < until <= now + hand.config.lease


async def test_what_a_claim_leaves_to_others_keeps_it_from_nothing_that_it_can_serve(hand: Hand) -> None:
    await hand.submit(*(starts(job, "x", model="m0") for job in "abc"))
    assert isinstance(await hand.journal.take("llm", "w2", "t0", models=["m1"], agents=[]), Nothing)
    await hand.limit("m0", flight=1)
    await hand.submit(starts("busy", "x", model="m0", rank=Rank(base=-1e9)))
    busy = await hand.journal.take("llm", "w1", "t1", models=["m0"], agents=[])
    assert isinstance(busy, Claim)
    assert busy.job == "busy"
    assert (await hand.by_model("held"))["?model/m0"] == ["b/0", "c/0"]
    await hand.submit(starts("other", "x", model="m1", rank=Rank(base=-1e9)))
    got = await hand.journal.take("llm", "w1", "t2", models=["m0"], agents=[])
    assert isinstance(got, Nothing)
    held = await hand.by_model("held")
    assert (held["m0"], held["?model/m1"]) == (["a/0", "b/0", "c/0"], ["other/0"])
    assert "?model/m0" not in held
    assert isinstance(await hand.journal.take("llm", "w2", "t3", models=["m1"], agents=[]), Claim)
