"""Limits of a model over the whole fleet: never more at any time, and never idle below them."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist.journal import Claim, Nothing
from aios_dist.model.calls import Usage
from aios_dist.policies import Rank
from tests.redis.conftest import starts

if TYPE_CHECKING:
    from aios_dist.journal import Ticket
    from tests.redis.conftest import Hand


async def test_no_more_calls_are_in_flight_than_the_limit(hand: Hand) -> None:
    await hand.limit(flight=2)
    await hand.submit(*(starts(f"j{i}", "x") for i in range(5)))
    flying = await hand.drain()
    assert [c.job for c in flying] == ["j0", "j1"]
    done = await hand.finish(flying[0])
    assert [(t.lane, t.job) for t in done.tickets] == [("llm", "j2")], "who waits is called, not polled for"
    assert [c.job for c in await hand.drain()] == ["j2"]


async def test_models_without_a_limit_share_the_lane_with_one_that_has_one(hand: Hand) -> None:
    await hand.limit(flight=1)
    jobs = [starts(f"j{i}", "x", model="small" if i % 2 else "big") for i in range(6)]
    await hand.submit(*jobs)
    assert [c.job for c in await hand.drain()] == ["j0", "j1", "j2", "j4"]


@pytest.mark.parametrize("way", ["fails", "is handed back", "is lost", "is refused"])
async def test_a_place_becomes_free_however_the_call_ends(hand: Hand, way: str) -> None:
    await hand.limit(flight=1)
    await hand.submit(starts("a", "x"), starts("b", "x"))
    flying = await hand.drain()
    assert len(flying) == 1
    if way == "fails":
        await hand.fail(flying[0], after=60)
    elif way == "is handed back":
        await hand.journal.release(flying[0], "shutdown", 60)
    elif way == "is lost":
        await hand.lose(flying[0])
    else:
        await hand.refuse(flying[0], 60)
        await hand.end_hold()
    await hand.look()
    assert len(await hand.drain()) == 1


async def test_a_call_in_flight_holds_its_place_when_its_job_ends_or_is_paused(hand: Hand) -> None:
    await hand.limit(flight=2)
    await hand.submit(*(starts(j, "x") for j in "abcd"))
    one, two = await hand.drain()
    await hand.journal.cancel("a")
    await hand.journal.pause("b")
    assert await hand.drain() == []
    await hand.commit(one)
    await hand.commit(two)
    assert [c.job for c in await hand.drain()] == ["c", "d"]


@pytest.mark.parametrize("away", ["cancel", "pause"])
async def test_a_step_that_was_let_in_and_goes_away_makes_room_for_the_next(hand: Hand, away: str) -> None:
    await hand.limit(flight=1)
    await hand.submit(*(starts(j, "x") for j in "abcdef"))
    flying = await hand.drain()
    await hand.finish(flying[0])
    for job in "bcde":
        await (hand.journal.cancel if away == "cancel" else hand.journal.pause)(job)
        await hand.look()
    assert (await hand.claim()).job == "f"


async def test_a_late_answer_for_a_step_that_was_let_in_makes_room_for_the_next(hand: Hand) -> None:
    await hand.limit(flight=1)
    await hand.submit(starts("a", "x"), starts("b", "x"))
    late = (await hand.drain())[0]
    await hand.lose(late)
    assert await hand.names() == ["a/0"], "the other one waits for room"
    await hand.commit(late)
    await hand.look()
    assert (await hand.claim()).job == "b"


async def test_a_pass_counts_the_step_that_it_lets_in(hand: Hand) -> None:
    """Else it takes that one's ticket for a spare one."""
    await hand.limit(flight=1)
    await hand.reap()  # has seen the new limit
    await hand.submit(starts("a", "x"), starts("b", "x"))
    claim = await hand.claim()
    await hand.journal.cancel("a")
    await hand.lapse(claim)
    assert (await hand.reap()).ready["llm"] == 1


async def test_a_limit_that_becomes_wider_lets_in_what_it_held(hand: Hand) -> None:
    await hand.limit(flight=1)
    await hand.submit(*(starts(f"j{i}", "x") for i in range(5)))
    assert len(await hand.drain()) == 1
    await hand.limit(flight=4)
    await hand.reap()
    assert len(await hand.drain()) == 3


async def test_a_limit_that_is_taken_away_lets_in_all(hand: Hand) -> None:
    await hand.limit(flight=1)
    await hand.submit(*(starts(f"j{i}", "x") for i in range(5)))
    await hand.drain()
    await hand.limit()
    await hand.reap()
    assert len(await hand.drain()) == 4


@pytest.mark.parametrize("wider", [{}, {"rpm": 9, "tpm": 9000}], ids=["none", "wider"])
@pytest.mark.parametrize("limit", [{"rpm": 2}, {"tpm": 1000}], ids=["requests", "tokens"])
async def test_a_limit_a_minute_that_becomes_wider_is_seen_by_the_next_look(
    hand: Hand, limit: dict[str, int], wider: dict[str, int]
) -> None:
    await hand.limit(**limit)
    await hand.reap()
    await hand.submit(*(starts(f"j{i}", "x", tokens=450) for i in range(5)))
    assert len(await hand.drain()) == 2
    await hand.limit(**wider)
    await hand.reap()
    assert len(await hand.drain()) == 3


async def test_a_limit_that_is_taken_away_in_a_hold_waits_for_its_end(hand: Hand) -> None:
    await hand.limit(flight=1)
    await hand.submit(*(starts(f"j{i}", "x") for i in range(3)))
    await hand.refuse((await hand.drain())[0], 30)
    await hand.limit()
    await hand.reap()
    assert await hand.drain() == []
    await hand.end_hold()
    assert len(await hand.drain()) == 1, "one at a time, as after each hold"


# What held the others leaves -----------------------------------------------------------------------------


async def behind_a_large_one(hand: Hand, **more: Any) -> None:
    """700 of 1,000 tokens are free; a held step of 900, passed for long enough, keeps five of 10 waiting."""
    await hand.limit(tpm=1000)
    await hand.reap()
    await hand.submit(starts("first", "x", tokens=300))
    await hand.commit(await hand.claim(), usage=Usage(300, 0, 1))
    await hand.submit(starts("large", "x", tokens=900, **more))
    assert await hand.drain() == []
    await hand.passed_long_ago("large")
    await hand.submit(*(starts(f"s{i}", "x", tokens=10, **more) for i in range(5)))
    assert await hand.drain() == []
    assert len((await hand.by_model("held"))["small"]) == 6


@pytest.mark.parametrize("away", ["cancel", "pause", "fails"])
async def test_the_first_of_the_held_goes_away_and_the_next_that_has_room_goes(hand: Hand, away: str) -> None:
    await behind_a_large_one(hand)
    if away == "fails":
        await hand.redis("ZADD", hand.keys.deadlines, 1, "large")
        await hand.reap()
    else:
        await (hand.journal.cancel if away == "cancel" else hand.journal.pause)("large")
    assert [c.job for c in await hand.drain()] == [f"s{i}" for i in range(5)]


async def test_one_that_gets_before_the_first_of_the_held_goes_if_it_has_room(hand: Hand) -> None:
    await hand.journal.set_lane("llm", policy="priority")
    await behind_a_large_one(hand, rank=Rank(per_priority=6e7), policy="priority")
    await hand.journal.rerank("s3", 9)
    assert [c.job for c in await hand.drain()] == ["s3"]
    await hand.journal.rerank("large", -9)
    assert [c.job for c in await hand.drain()] == ["s0", "s1", "s2", "s4"]


@pytest.mark.parametrize("away", ["cancel", "pause"])
async def test_a_step_that_its_tenant_holds_goes_away_and_the_others_go_on(hand: Hand, away: str) -> None:
    await hand.journal.set_tenant("acme", max_in_flight=1)
    await hand.submit(*(starts(j, "x", tenant="acme") for j in "abcd"))
    (flying,) = await hand.drain()
    await (hand.journal.cancel if away == "cancel" else hand.journal.pause)("b")
    await hand.look()
    await hand.finish(flying)
    assert [c.job for c in await hand.drain()] == ["c"]


async def test_a_step_that_its_tenants_cap_holds_gives_its_models_room_to_the_next(hand: Hand) -> None:
    await hand.limit(flight=1)
    await hand.journal.set_tenant("acme", max_in_flight=2)
    await hand.submit(starts("flies", "x", tenant="acme", model="big"))
    await hand.claim()
    mine = Rank(per_priority=6e7)
    await hand.submit(starts("a", "x", tenant="acme", rank=mine), starts("b", "x"))
    assert await hand.names() == ["a/0"]
    await hand.journal.set_tenant("acme", max_in_flight=1)
    await hand.journal.rerank("a", 5)
    assert await hand.names() == ["b/0"]


async def test_a_regained_lease_reserves_its_tokens_once(hand: Hand) -> None:
    await hand.limit(tpm=10_000)
    for i in range(3):
        await hand.submit(starts(f"j{i}", "x", tokens=1000))
        claim = await hand.claim()
        await hand.lose(claim)
        assert await hand.renew(claim) == []
        await hand.look()
        assert (await hand.hash(hand.keys.model("small")))["tok"] == b"%d" % (1000 * i + 1000)
        await hand.commit(claim, usage=Usage(500, 500, 1))


@pytest.mark.parametrize("whose", ["model", "tenant"])
async def test_a_regained_call_has_its_place_again(hand: Hand, whose: str) -> None:
    if whose == "model":
        await hand.limit(flight=1)
    else:
        await hand.journal.set_tenant("default", max_in_flight=1)
    await hand.submit(starts("a", "x"), starts("b", "x"))
    claim = await hand.claim()
    await hand.lose(claim)
    assert await hand.renew(claim) == []
    assert await hand.drain() == []
    await hand.finish(claim)
    assert [c.job for c in await hand.drain()] == ["b"]


async def test_a_place_of_a_job_that_has_expired_becomes_free(hand: Hand) -> None:
    await hand.limit(flight=1)
    await hand.journal.set_tenant("default", max_in_flight=1)
    await hand.submit(starts("a", "x"), starts("b", "x"))
    (claim,) = await hand.drain()
    await hand.expire(claim)
    assert [c.job for c in await hand.drain()] == ["b"]


async def test_held_steps_keep_their_order_across_claims(hand: Hand) -> None:
    await hand.limit(flight=1)
    await hand.submit(*(starts(f"j{i}", "x") for i in range(4)))
    order = []
    for turn in range(8):
        claims = await hand.drain()
        assert len(claims) == 1
        order.append(claims[0].job)
        if turn < 4:
            await hand.submit(starts(f"k{turn}", "x"))
        await hand.finish(claims[0])
    assert order == [*(f"j{i}" for i in range(4)), *(f"k{i}" for i in range(4))]


# Requests and tokens a minute --------------------------------------------------------------------------


async def test_requests_a_minute_are_counted_in_a_window_that_slides(hand: Hand) -> None:
    await hand.limit(rpm=3)
    await hand.submit(*(starts(f"j{i}", "x") for i in range(9)))
    first = await hand.drain()
    assert len(first) == 3
    for claim in first:
        await hand.finish(claim)
    assert await hand.drain() == [], "an answer does not make a request undone"
    await hand.minute(30)
    assert await hand.drain() == []
    await hand.minute(31)
    assert len(await hand.drain()) == 3
    await hand.look()


async def test_a_limit_of_requests_says_when_to_look_again(hand: Hand) -> None:
    await hand.limit(rpm=1)
    await hand.reap()  # who sets a limit has the next pass look
    await hand.submit(starts("a", "x"), starts("b", "x"))
    await hand.drain()
    timer = await hand.redis("ZSCORE", hand.keys.timers, "model:small/!")
    assert 55 < float(timer) / 1e6 - await hand.journal.now() <= 60.1


async def test_tokens_are_reserved_by_estimate_and_settled_by_usage(hand: Hand) -> None:
    await hand.limit(tpm=1000)
    await hand.submit(*(starts(f"j{i}", "x", tokens=400) for i in range(9)))
    one, two = await hand.drain()
    await hand.commit(one, usage=Usage(50, 50, 1))  # took less: another one fits
    await hand.look()
    (three,) = await hand.drain()
    await hand.commit(two, usage=Usage(900, 0, 1))  # took more
    await hand.commit(three, usage=Usage(0, 0, 1))
    await hand.look()
    assert await hand.drain() == []
    await hand.minute()
    assert len(await hand.drain()) == 2


async def test_a_failed_call_gives_its_tokens_back_but_was_a_request(hand: Hand) -> None:
    await hand.limit(rpm=2, tpm=1000)
    await hand.submit(*(starts(f"j{i}", "x", tokens=900) for i in range(3)))
    await hand.fail((await hand.drain())[0], after=60)
    await hand.look()
    assert len(await hand.drain()) == 1
    await hand.look()


async def test_a_lost_call_keeps_its_estimate_for_nobody_knows_what_it_took(hand: Hand) -> None:
    await hand.limit(tpm=1000)
    await hand.submit(starts("a", "x", tokens=900), starts("b", "x", tokens=900))
    await hand.lose((await hand.drain())[0])
    assert await hand.drain() == []


@pytest.mark.parametrize("tokens", [9 * 10**18, 2**64 - 1, -(2**63)])
async def test_an_estimate_that_cannot_be_breaks_no_claim(hand: Hand, tokens: int) -> None:
    await hand.limit(rpm=600)
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(starts(f"j{n}", "x", tokens=tokens) for n in range(3)))
    claims = await hand.drain()
    assert sorted(c.job for c in claims) == ["j0", "j1", "j2"]
    for claim in claims:
        await hand.finish(claim)
    assert await hand.states("j0", "j1", "j2") == ["done"] * 3


async def test_a_call_over_the_whole_limit_waits_for_nothing_and_counts_for_nothing(hand: Hand) -> None:
    """It is never made: its worker refuses it."""
    await hand.limit(rpm=3, tpm=100)
    await hand.submit(
        *(starts(job, "x", tokens=n) for job, n in {"a": 90, "b": 900, "c": 10, "d": 1}.items())
    )
    assert [(c.job, c.over) for c in await hand.drain()] == [("a", 0), ("b", 100), ("c", 0)]
    assert len(await hand.members(hand.keys.window("small"))) == 2
    await hand.minute()
    assert [c.job for c in await hand.drain()] == ["d"]


async def test_a_claim_that_is_asked_for_again_is_over_the_limit_as_before(hand: Hand) -> None:
    await hand.limit(tpm=100)
    await hand.submit(starts("a", "x", tokens=900))
    for again in (False, True):
        got = await hand.journal.take("llm", "w1", "token", again=again)
        assert isinstance(got, Claim)
        assert got.over == 100


async def test_what_fits_passes_a_call_that_does_not_and_was_held_before_it(hand: Hand) -> None:
    await hand.limit(tpm=1000)
    sizes = {"a": 800, "b": 500, "c": 100, "d": 150}
    await hand.submit(*(starts(job, "x", tokens=size) for job, size in sizes.items()))
    assert [c.job for c in await hand.drain()] == ["a", "c"]
    await hand.submit(starts("e", "x", tokens=1))
    assert [c.job for c in await hand.drain()] == ["e"]
    assert (await hand.names(), (await hand.by_model("held"))["small"]) == ([], ["b/0", "d/0"])
    await hand.minute()
    assert [c.job for c in await hand.drain()] == ["b", "d"]


async def test_what_comes_back_and_goes_first_is_let_in_once_though_it_would_fit_as_well(hand: Hand) -> None:
    """Where it would be once more, its tenant's cap would hold it beside the place that it has."""
    await hand.journal.set_tenant("t", max_in_flight=1)
    await hand.limit(tpm=1000)
    await hand.submit(starts("a", "x", tokens=100), starts("first", "x", tokens=50, tenant="t"))
    running = await hand.drain()
    assert [c.job for c in running] == ["a", "first"]
    await hand.submit(starts("later", "x", tokens=50, tenant="t"), starts("big", "x", tokens=950))
    assert await hand.names() == []
    await hand.fail(running[1])
    assert await hand.names() == ["first/0"]
    assert await hand.members(hand.keys.prefix + "held:@t|llm") == {"later/0"}


async def test_what_can_never_fit_needs_no_room_and_passes_what_waits_for_some(hand: Hand) -> None:
    """Its worker refuses it, or it goes to a fallback."""
    await hand.limit(tpm=1000)
    await hand.submit(*(starts(job, "x", tokens=size) for job, size in {"a": 800, "b": 500}.items()))
    assert [c.job for c in await hand.drain()] == ["a"]
    await hand.submit(starts("never", "x", tokens=2000))
    assert [c.job for c in await hand.drain()] == ["never"]


async def test_for_a_minute_only_a_call_is_passed(hand: Hand) -> None:
    await hand.limit(tpm=1000)
    await hand.submit(starts("a", "x", tokens=800), starts("b", "x", tokens=500))
    assert [c.job for c in await hand.drain()] == ["a"]
    await hand.submit(starts("c", "x", tokens=10))
    assert await hand.names() == ["c/0"], "it has passed"
    await hand.passed_long_ago("b")
    assert await hand.drain() == [], "also one that stands on the lane already is put aside"
    await hand.submit(starts("d", "x", tokens=10))
    assert await hand.drain() == []
    await hand.minute()
    assert [c.job for c in await hand.drain()] == ["b", "c", "d"]


async def test_on_a_shared_lane_one_tenants_large_call_keeps_nobodys_small_ones(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.limit(tpm=1000)
    await hand.submit(starts("a", "x", tokens=800, tenant="acme"))
    await hand.drain()
    await hand.submit(*(starts(f"big{i}", "x", tokens=500, tenant="acme") for i in range(6)))
    await hand.submit(starts("own", "x", tokens=10, tenant="acme"), starts("bo", "x", tokens=10, tenant="bo"))
    assert sorted(c.job for c in await hand.drain()) == ["bo", "own"]


@pytest.mark.parametrize("fair", ["", "tenant"])
async def test_what_fits_passes_however_many_stand_before_it_as_it_comes_and_50_at_any_time(
    hand: Hand, fair: str
) -> None:
    await hand.journal.set_lane("llm", fair=fair)
    await hand.limit(tpm=1000)
    await hand.submit(starts("a", "x", tokens=1000))
    full = await hand.claim()
    large = [starts(f"big{i}", "x", tokens=600) for i in range(70)]
    await hand.submit(*large[:49], starts("waits", "x", tokens=10))
    assert await hand.names() == []
    await hand.commit(full, usage=Usage(500, 0, 1))
    assert [c.job for c in await hand.drain()] == ["waits"]
    await hand.submit(*large[49:], starts("comes", "x", tokens=10))
    assert [c.job for c in await hand.drain()] == ["comes"]


async def test_requests_that_are_used_up_let_nobody_pass(hand: Hand) -> None:
    await hand.limit(rpm=1, tpm=1000)
    await hand.submit(*(starts(job, "x", tokens=n) for job, n in {"a": 800, "b": 500, "c": 10}.items()))
    assert [c.job for c in await hand.drain()] == ["a"]


async def test_the_sum_of_a_window_that_expired_unseen_is_forgotten(hand: Hand) -> None:
    await hand.limit(tpm=1000)
    await hand.submit(starts("a", "x", tokens=900))
    await hand.finish(await hand.claim())
    await hand.redis("DEL", hand.keys.window("small"))  # two minutes without a call
    await hand.submit(starts("b", "x", tokens=400), starts("c", "x", tokens=400))
    assert len(await hand.drain()) == 2
    await hand.look()


async def test_a_window_expires_also_when_its_only_call_was_settled(hand: Hand) -> None:
    await hand.limit(rpm=5)
    await hand.submit(starts("a", "x"))
    await hand.finish(await hand.claim())
    assert await hand.redis("PTTL", hand.keys.window("small")) > 0


# Any order of events -----------------------------------------------------------------------------------


class Crowd:
    """Workers, crashes, pauses and cancels at random; what was promised is counted from outside."""

    def __init__(self, hand: Hand, seed: int, rpm: int, tpm: int) -> None:
        self.hand = hand
        self.dice = random.Random(seed)
        self.flying: list[Claim] = []
        self.jobs: list[str] = []
        self.paused: set[str] = set()
        self.tickets = 0
        self.rpm, self.tpm = rpm, tpm
        self.now = 0.0
        self.begun: list[tuple[float, str]] = []
        self.tokens: dict[str, int] = {}

    def called(self, tickets: list[Ticket]) -> None:
        self.tickets += len(tickets)

    async def born(self) -> None:
        job = f"j{len(self.jobs)}"
        self.jobs.append(job)
        done = await self.hand.journal.submit([starts(job, *"ab", tokens=self.dice.choice([10, 60, 200]))])
        self.called(done.tickets)

    async def work(self) -> None:
        """Every ticket is one look at the lane."""
        while self.tickets:
            self.tickets -= 1
            claim = await self.hand.journal.claim("llm", "w1")
            if claim is not None:
                self.flying.append(claim)
                head = (await self.hand.journal.load(claim.job)).steps[int(claim.step)]
                assert head.attempt == claim.attempt
                self.begun.append((self.now, claim.lease))

    async def move(self) -> None:
        hand, dice = self.hand, self.dice
        move = dice.choice(["born", "commit", "commit", "fail", "lose", "cancel", "pause", "resume", "time"])
        claim = self.flying.pop(dice.randrange(len(self.flying))) if self.flying else None
        if move in ("commit", "fail", "lose") and claim is None:
            move = "born"
        elif claim is not None and move not in ("commit", "fail", "lose"):
            self.flying.append(claim)
        if move == "born":
            await self.born()
        elif move == "commit":
            assert claim is not None
            used = Usage(dice.choice([0, 5, 60]), 5, 1)
            self.called((await hand.commit(claim, usage=used, turn_here=True)).tickets)
        elif move == "fail":
            assert claim is not None
            self.called(await hand.fail(claim, after=dice.choice([0, 5])))
        elif move == "lose":
            assert claim is not None
            await hand.lose(claim)
        elif move == "time":
            seconds = dice.choice([10, 25, 61])
            self.now += seconds
            await hand.minute(seconds)
            await hand.ring()
        elif self.jobs:
            job = dice.choice(self.jobs)
            if move == "cancel":
                self.called((await hand.journal.cancel(job))[1])
            elif move == "pause":
                await hand.journal.pause(job)
            else:
                self.called((await hand.journal.resume(job))[1])
        if move in ("lose", "time"):
            await hand.reap()
            self.tickets = max(self.tickets, len(await hand.names()))  # the reconciler tops up
        await self.work()


@pytest.mark.parametrize("seed", range(6))
async def test_never_more_in_flight_than_the_limit_and_never_idle_below_it(hand: Hand, seed: int) -> None:
    limit = 1 + seed % 3
    await hand.limit(flight=limit)
    crowd = Crowd(hand, seed, 0, 0)
    for _ in range(60):
        await crowd.move()
        await hand.look()  # counts what is in flight against the limit
        busy = await hand.redis("ZCARD", hand.keys.inflight("small"))
        waits = [*(await hand.by_model("held")).get("small", []), *await hand.names()]
        # Every ticket that was published has been used: whoever may run does run.
        assert busy == limit or not waits, f"{busy} of {limit} in flight while {waits} wait"


@pytest.mark.parametrize("seed", range(4))
async def test_in_no_minute_are_there_more_requests_than_the_limit(hand: Hand, seed: int) -> None:
    rpm = 2 + seed
    await hand.limit(rpm=rpm)
    crowd = Crowd(hand, seed, rpm, 0)
    for _ in range(60):
        await crowd.move()
        await hand.look()
        recent = [lease for at, lease in crowd.begun if at > crowd.now - 60]
        assert len(recent) <= rpm
        waits = [*(await hand.by_model("held")).get("small", []), *await hand.names()]
        assert len(recent) == rpm or not waits, f"{len(recent)} of {rpm} this minute while {waits} wait"


@pytest.mark.parametrize("seed", range(4))
async def test_the_tokens_reserved_and_used_of_a_minute_stay_below_the_limit(hand: Hand, seed: int) -> None:
    tpm = 300
    await hand.limit(tpm=tpm)
    crowd = Crowd(hand, seed, 0, tpm)
    for _ in range(60):
        await crowd.move()
        await hand.look()  # the sum of the window is the sum of its entries
        entries = (await hand.by_model("window")).get("small", [])
        # Usage here is never above the smallest estimate by more than 55, and a lone call may be of any size.
        assert sum(int(e.rpartition("|")[2]) for e in entries) <= tpm + 55 * len(entries)
        if (await hand.by_model("held")).get("small") and not crowd.flying:
            assert "model:small/!" in await hand.members(hand.keys.timers)


async def test_claims_at_the_same_instant_keep_to_the_limit(hand: Hand) -> None:
    await hand.limit(flight=3, rpm=5)
    await hand.submit(*(starts(f"j{i}", "x") for i in range(20)))
    got = await asyncio.gather(*(hand.journal.claim("llm", f"w{i}") for i in range(20)))
    assert sum(c is not None for c in got) == 3


async def test_a_stray_and_a_held_step_do_not_fetch_each_other_for_ever(
    hand: Hand,
) -> None:
    await hand.journal.set_lane("llm", policy="priority", oldest_every=2)
    await hand.limit(tpm=350)
    await hand.reap()
    await hand.submit(starts("first", "x", tokens=300, policy="priority"))
    await hand.commit(await hand.claim(), usage=Usage(300, 0, 1))  # the next dispatch is the oldest one's
    await hand.submit(starts("large", "x", tokens=300, policy="priority", rank=Rank(5e12)))
    await hand.passed_long_ago("large")
    await hand.submit(starts("small", "x", tokens=10, policy="priority"))
    assert await hand.drain() == []
    await hand.submit(starts("stray", "x", tokens=10, policy="fifo", rank=Rank(9e12)))
    got = await hand.journal.take("llm", "w", "token")
    assert isinstance(got, Nothing)
    assert not got.again, "a thousand steps were set aside in one claim"
